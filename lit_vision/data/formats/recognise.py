"""Which format a folder is in, and reading it with the user's options."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import msgspec
import yaml

from lit_vision.data.formats import coco, csv, folder, labelmaps, masks, voc, yolo
from lit_vision.data.formats.files import nearest
from lit_vision.data.index import Index
from lit_vision.errors import UserError

FORMATS: dict[str, ModuleType] = {
    "folder": folder,
    "csv": csv,
    "masks": masks,
    "labelmaps": labelmaps,
    "coco": coco,
    "voc": voc,
    "yolo": yolo,
}


def recognise(root: Path) -> str:
    """Name of the format of the data set in root.

    Raises:
        UserError: root does not exist, fits no format, or fits several.
    """
    return _recognise(root)[0]


def _recognise(root: Path, task: str | None = None) -> tuple[str, str]:
    """Name of the format, and what of it was found, for a task."""
    if not root.exists():
        raise UserError(f"There is no folder {root}: correct root.")
    fitting = {name: words for name, module in FORMATS.items() if name != "folder" and (words := module.found(root))}
    if task == "instances" and "labelmaps" not in fitting and (words := labelmaps.found_in_masks(root)):
        fitting = {"labelmaps": words} | {name: fitting[name] for name in fitting if name != "masks"}
    # Any folder of folders of images looks like classes, so classes are thought of last.
    if not fitting and root.is_dir() and (words := folder.found(root)):
        fitting = {"folder": words}
    if not fitting:
        layouts = "; ".join(f"{name}: {module.LAYOUT}" for name, module in FORMATS.items())
        lacking = folder.lacking(root) if root.is_dir() else None
        mend = f": {lacking}, or set format" if lacking else ", set format"
        raise UserError(f"{root} fits no known layout{mend} and options; looked for {layouts}.")
    if len(fitting) > 1:
        kinds = " and as ".join(f"{name} ({words})" for name, words in fitting.items())
        raise UserError(f"{root} can be read as {kinds}: set format to {' or '.join(fitting)}.")
    return next(iter(fitting.items()))


def read(root: Path | str, format: str = "auto", *, task: str | None = None, **options: Any) -> Index:
    """Reads a data set's annotations.

    Args:
        root: folder of the data set, or its CSV, JSON or YAML file.
        format: one of FORMATS, or "auto" to recognise it (a note in the index then says what was found).
        task: what it is for: a folder `masks` holds a class per pixel, but an object number for "instances".
        options: options of the format's reader, plain YAML values; see docs/data_formats.md.

    Returns:
        The index. Records that cannot be used are in its `problems`; `data.check.check` raises them.

    Raises:
        UserError: the folder, the format or an option is wrong.
    """
    root = Path(root)
    notes: tuple[str, ...] = ()
    if format == "auto":
        format, words = _recognise(root, task)
        notes = (f"Recognised {root} as {format}: {words}.",)
    if format not in FORMATS:
        raise UserError(f"There is no format {format!r}: {nearest(format, ('auto', *FORMATS))}")
    if not root.exists():
        raise UserError(f"There is no folder {root}: correct root.")
    reader: Callable[..., Index] = FORMATS[format].read
    index = reader(root, **_checked(reader, format, options))
    return replace(index, notes=notes + index.notes)


def options_of_words(format: str, words: Mapping[str, str]) -> dict[str, Any]:
    """Options of a format's reader from a command line: each word is YAML, or text, or a list as `a,b`.

    Which of them it is follows from the type that the reader declares; `read` refuses what is none of them.
    """
    hints = get_type_hints(FORMATS[format].read) if format in FORMATS else {}
    return {name: _value(word, hints[name]) if name in hints else word for name, word in words.items()}


def _value(word: str, hint: Any) -> Any:
    try:
        value = yaml.safe_load(word)
    except yaml.YAMLError:
        value = word
    value = word if isinstance(value, str) else value  # YAML makes nothing of the delimiter |
    for candidate in (value, word, [part.strip() for part in word.split(",")]):
        try:
            msgspec.convert(candidate, hint)
        except msgspec.ValidationError:
            continue
        return candidate
    return value


def _checked(reader: Callable[..., Index], format: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options, of the types the reader declares."""
    known = [name for name in inspect.signature(reader).parameters if name != "root"]
    hints = get_type_hints(reader)
    for name, value in options.items():
        if name not in known:
            raise UserError(f"The format {format} has no option {name!r}: {nearest(name, known)}")
        try:
            msgspec.convert(value, hints[name])
        except msgspec.ValidationError as error:
            words = str(error).replace("array", "list").replace("`object", "`mapping")  # YAML's names, not JSON's
            raise UserError(f"The option {name} of the format {format} is {value!r}: {words}.") from None
    return options
