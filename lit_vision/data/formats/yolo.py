"""YOLO text labels: data.yaml, and one .txt per image with `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`.

Coordinates are fractions of the image's width and height, so the images' headers are read to have pixels.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lit_vision.data.decode import read_size
from lit_vision.data.formats.boxes import box_fault
from lit_vision.data.formats.build import IndexBuilder
from lit_vision.data.formats.files import choose_classes, relative
from lit_vision.data.formats.outlines import points_box
from lit_vision.data.formats.yolo_files import (
    YoloFile,
    find_yaml,
    images_by_split,
    label_path,
    read_yaml,
    stray_labels,
    without_repeats,
)
from lit_vision.data.formats.yolo_write import write
from lit_vision.data.index import NO_SEGMENT, POLYGONS, Index
from lit_vision.errors import UserError

__all__ = ["found", "read", "write"]

LAYOUT = "data.yaml (path, train, val, names) with images/<split>/*.jpg and labels/<split>/*.txt"
_PLACES = 9  # decimals of a pixel that survive fractions in double precision; hides 639.9999999999999
_OVERSHOOT = 1e-3  # of the image; beyond it a number is no fraction


class _Label(NamedTuple):
    label: int
    box: tuple[float, float, float, float]
    outline: bytes


def found(root: Path) -> str | None:
    """The data.yaml of root; None if there is none."""
    path = find_yaml(root)
    return path.name if path else None


def read(root: Path, *, data: str | None = None, classes: Sequence[str] | None = None) -> Index:
    """Reads a YOLO data set. An image whose label file is missing or empty has no objects; missing ones are counted.

    A split that names the same images as an earlier one is left out, with a note.

    Args:
        root: folder of data.yaml, or the YAML file itself.
        data: name of the YAML file in root; found where not given.
        classes: class names to use, in this order; objects of others are left out, with a note.

    Returns:
        An index of boxes, with polygons where the labels have them; `problems` names lines that cannot be used.

    Raises:
        UserError: there is no YAML file, or it is malformed.
    """
    path = root / data if data else find_yaml(root)
    if path is None or not path.is_file():
        raise UserError(f"There is no {path or root / 'data.yaml'}: the format yolo reads {LAYOUT}.")
    root = root.parent if root.is_file() else root
    builder = IndexBuilder(root, "yolo", places=True)
    yaml = without_repeats(read_yaml(path), builder.notes)
    chosen = choose_classes(yaml.names, classes, path.name)
    numbers = [chosen.index(name) if name in chosen else -1 for name in yaml.names]
    entries, absent_test = images_by_split(yaml, builder.problems)
    builder.notes += [absent_test] if absent_test else []
    if not entries and not builder.problems:
        raise UserError(f"{path} points to no images: correct its path, train and val.")
    if stray := stray_labels(yaml):
        first = relative(stray[0], root)
        builder.notes.append(f"{len(stray)} label files have no image and were left out, the first is {first}.")
    unwanted = _fill(builder, entries, numbers, yaml)
    if unwanted:
        builder.notes.append(f"{unwanted} objects of classes left out by the option classes were not read.")
    _tell_unlabelled(builder, entries)
    return replace(builder.build(chosen), absent_test=absent_test)


def _tell_unlabelled(builder: IndexBuilder, entries: Sequence[tuple[int, Path]]) -> None:
    """A note on images without a label file, which may be meant to be empty; a problem where it is all of them."""
    bare = [image for _, image in entries if not label_path(image).is_file()]
    if not bare:
        return
    image, labels = (relative(path, builder.root) for path in (bare[0], label_path(bare[0])))
    if len(bare) < len(entries):
        builder.notes.append(
            f"{len(bare)} of {len(entries)} images have no label file and count as empty of objects: the first is "
            f"{image}, whose labels would be in {labels}."
        )
    else:
        builder.problems.append(
            f"{builder.root}: none of the {len(entries)} images has a label file; that of the first, {image}, was "
            f"looked for at {labels}: put them there."
        )


def _fill(builder: IndexBuilder, entries: Sequence[tuple[int, Path]], numbers: Sequence[int], yaml: YoloFile) -> int:
    unwanted = 0
    with ThreadPoolExecutor(8) as pool:
        for (split, image), size in zip(entries, pool.map(_size, [image for _, image in entries]), strict=True):
            builder.add_image(relative(image, builder.root), split, size)
            for item in _labels(image, size, yaml.names, builder):
                if numbers[item.label] < 0:
                    unwanted += 1
                    continue
                kind = POLYGONS if item.outline else NO_SEGMENT
                builder.add_object(numbers[item.label], item.box, segment=item.outline, kind=kind)
    return unwanted


def _size(image: Path) -> tuple[int, int]:
    try:
        return read_size(image)
    except UserError:  # the check reports unreadable images, all at once
        return 0, 0


def _labels(image: Path, size: tuple[int, int], names: Sequence[str], builder: IndexBuilder) -> list[_Label]:
    path = label_path(image)
    if 0 in size or not path.is_file():
        return []
    name = relative(path, builder.root)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        builder.problems.append(f"{name} cannot be read ({error}): save it as text or delete it.")
        return []
    items = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                items.append(_parse(line, size, len(names)))
            except ValueError as error:
                builder.problems.append(f"{name}, line {number}: {error}: correct or delete the line.")
    return items


def _parse(line: str, size: tuple[int, int], num_classes: int) -> _Label:
    """One line; raises ValueError saying what is wrong."""
    words = line.split()
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise ValueError(f"{line.strip()[:60]!r} holds something that is not a number") from None
    if values[0] != int(values[0]) if np.isfinite(values[0]) else True:
        raise ValueError(f"the class {words[0]} is not a whole number")
    if not 0 <= values[0] < num_classes:
        raise ValueError(f"class {words[0]} is not in names, which has 0 to {num_classes - 1}")
    places = values[1:]
    if len(places) != 4 and (len(places) < 6 or len(places) % 2):
        raise ValueError(f"{len(words)} numbers are neither a box (class cx cy w h) nor a polygon (class x1 y1 x2 ...)")
    if not np.isfinite(places).all():
        raise ValueError("a coordinate is not a number")
    if np.abs(places - 0.5).max() > 1.5 + _OVERSHOOT:
        raise ValueError(f"{places[np.abs(places - 0.5).argmax()]:g} is not a fraction of the image's width or height")
    return _label(int(values[0]), places, size)


def _label(label: int, places: np.ndarray[tuple[int], np.dtype[np.float64]], size: tuple[int, int]) -> _Label:
    height, width = size
    scale = np.array([width, height], np.float64)
    outline = b""
    if len(places) == 4:
        center, extent = places[:2], places[2:]
        if (extent <= 0).any():
            raise ValueError(f"the box's width {extent[0]:g} and height {extent[1]:g} must be above 0")
        x1, y1 = np.round((center - extent / 2) * scale, _PLACES).tolist()
        x2, y2 = np.round((center + extent / 2) * scale, _PLACES).tolist()
    else:
        points = np.round(places.reshape(-1, 2) * scale, _PLACES).astype(np.float32)
        outline = points.tobytes()
        x1, y1, x2, y2 = points_box(points)
    if fault := box_fault((x1, y1, x2, y2), size):
        raise ValueError(f"the box {fault}")
    return _Label(label, (x1, y1, x2, y2), outline)
