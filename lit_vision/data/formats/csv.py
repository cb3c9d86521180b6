"""A CSV file of `path,label[,split]`, several labels of one image separated by `|`."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lit_vision.data.formats.build import IndexBuilder
from lit_vision.data.formats.files import choose_classes, nearest, read_text, split_of
from lit_vision.data.index import Index
from lit_vision.errors import UserError

LAYOUT = "a .csv file with the columns path,label[,split]"


class _Row(NamedTuple):
    line: int
    path: str
    labels: list[str]
    split: int
    group: str


def found(root: Path) -> str | None:
    """The CSV file in root that has a path and a label column; None if there is no such file."""
    for file in _candidates(root):
        with file.open(encoding="utf-8-sig", errors="replace") as stream:
            header = stream.readline().lower()
        if {"path", "label"} <= {cell.strip() for cell in header.replace(";", ",").split(",")}:
            return file.name
    return None


def read(
    root: Path,
    *,
    file: str | None = None,
    images: str = "",
    path_column: str = "path",
    label_column: str = "label",
    group_column: str | None = None,
    delimiter: str = ",",
    separator: str = "|",
    multi_label: bool | None = None,
    classes: Sequence[str] | None = None,
) -> Index:
    """Reads image paths and labels from a CSV file with a header.

    Args:
        root: folder of the CSV file, or the file itself.
        file: name of the CSV file in root; may be left out where root has only one.
        images: folder that the paths are relative to, as seen from root.
        path_column: column of the image paths.
        label_column: column of the labels.
        group_column: column whose value keeps images together when splits are drawn (a patient, a plate).
        delimiter: what separates the columns.
        separator: what separates several labels of one image.
        multi_label: whether images can have several labels or none; found from the file where not given.
        classes: class names in order; sorted by name (by value if all are numbers) where not given.

    Returns:
        An index with labels of whole images; `problems` names the lines that cannot be used.

    Raises:
        UserError: there is no such file, or a column is missing.
    """
    path = _file(root, file)
    root = path.parent if root.is_file() else root
    builder = IndexBuilder(root, "csv")
    columns = (path_column, label_column, group_column)
    rows = _rows(path, columns, delimiter, separator, builder.problems)
    several = multi_label if multi_label is not None else any(len(row.labels) > 1 for row in rows)
    names = sorted({label for row in rows for label in row.labels}, key=_by_value(rows))
    chosen = choose_classes(names, classes, path.name)
    _fill(builder, rows, {name: label for label, name in enumerate(chosen)}, several, path.name, images)
    if unused := [name for name in names if name not in chosen]:
        builder.notes.append(f"{path.name}: labels left out by the option classes: {', '.join(unused)}.")
    return builder.build(chosen, multi_label=several)


def _fill(
    builder: IndexBuilder, rows: Sequence[_Row], numbers: Mapping[str, int], several: bool, name: str, images: str
) -> None:
    for row in rows:
        kept = sorted({numbers[label] for label in row.labels if label in numbers})
        if not several and len(row.labels) != 1:
            count = len(row.labels)
            fault = f"{row.path} has {count} labels: give it one, or set multi_label."
            builder.problems.append(f"{name}, line {row.line}: {fault}")
        elif several or kept:
            builder.add_image(f"{images.strip('/')}/{row.path}" if images else row.path, row.split, group=row.group)
            for label in kept:
                builder.add_object(label)


def _candidates(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix.lower() == ".csv" else []
    return sorted(path for path in root.glob("*.csv") if path.is_file() and path.name[0] != ".")


def _file(root: Path, name: str | None) -> Path:
    files = _candidates(root) if name is None else [root / name]
    if len(files) > 1:
        raise UserError(f"{root} has several CSV files: set file to one of {', '.join(f.name for f in files)}.")
    if not files or not files[0].is_file():
        raise UserError(f"There is no CSV file {files[0] if files else root / '*.csv'}: set file to its name.")
    return files[0]


def _by_value(rows: Sequence[_Row]) -> "type[int] | type[str]":
    """Numbers sort as numbers only if every label is one."""
    return int if all(label.isdecimal() for row in rows for label in row.labels) else str


def _rows(
    path: Path, columns: tuple[str, str, str | None], delimiter: str, separator: str, problems: list[str]
) -> list[_Row]:
    lines = csv.DictReader(read_text(path).splitlines(), delimiter=delimiter)
    header = [cell.strip() for cell in lines.fieldnames or ()]
    lines.fieldnames = header
    for column in columns:
        if column is not None and column not in header:
            other = next((sign for sign in ";\t|" if len(header) == 1 and sign in header[0]), None)
            hint = f"set the option delimiter to {other!r}" if other else nearest(column, header)
            raise UserError(f"{path.name} has no column {column!r} in its first line: {hint}.")
    rows = []
    for cells in lines:
        row = _row(path.name, lines.line_num, cells, columns, separator, problems)
        if row is not None:
            rows.append(row)
    if not rows and not problems:
        raise UserError(f"{path} has a header but no images: add lines, or point to another file.")
    return rows


def _row(
    name: str,
    line: int,
    cells: dict[str | None, str | None],
    columns: tuple[str, str, str | None],
    separator: str,
    problems: list[str],
) -> _Row | None:
    image, label, group = ((cells.get(column) or "").strip() if column else "" for column in columns)
    split_word = (cells.get("split") or "").strip()
    split = split_of(split_word) if split_word else -1
    if None in cells:
        problems.append(f"{name}, line {line}: more cells than the header has columns; quote the cell with the comma.")
    elif not image:
        problems.append(
            f"{name}, line {line}: the cell {columns[0]!r} is empty; give the image's path or delete the line."
        )
    elif split_word and split < 0:
        problems.append(f"{name}, line {line}: unknown split {split_word!r}; write train, val or test.")
    else:
        labels = [part.strip() for part in label.split(separator) if part.strip()]
        return _Row(line, image.replace("\\", "/"), labels, split, group)
    return None
