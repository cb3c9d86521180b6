"""Writes an index as Pascal VOC files."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path, PurePosixPath

import numpy as np

from lit_vision.data.formats.output import new_folder, place_image, size_of, unique_names
from lit_vision.data.index import NO_SEGMENT, Index
from lit_vision.types import SPLITS

__all__ = ["write"]


def write(index: Index, output: Path, link: bool = False) -> list[str]:
    """Writes `Annotations/*.xml`, `JPEGImages/` and `ImageSets/Main/<split>.txt`; crowds are marked difficult.

    Outlines are lost. See `output.py` for arguments and errors.
    """
    new_folder(output, index)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (output / folder).mkdir(parents=True)
    names = unique_names(index)
    for i, name in enumerate(names):
        place_image(index.path(i), output / "JPEGImages" / name, link)
        _write_picture(index, i, name, output / "Annotations" / f"{PurePosixPath(name).stem}.xml")
    for split in sorted(set(index.splits.tolist()) - {-1}):
        stems = [PurePosixPath(names[i]).stem for i in np.flatnonzero(index.splits == split).tolist()]
        (output / "ImageSets" / "Main" / f"{SPLITS[split]}.txt").write_text("\n".join(stems) + "\n", "utf-8")
    return _losses(index)


def _losses(index: Index) -> list[str]:
    notes = []
    if index.segment_kinds is not None and (count := int((index.segment_kinds != NO_SEGMENT).sum())):
        notes.append(f"VOC holds boxes alone: {count} outlines were left out.")
    if index.crowd is not None and (count := int(index.crowd.sum())):
        notes.append(f"VOC has no crowds: {count} of them are marked difficult, which is ignored alike.")
    if index.boxes is not None and (count := int((index.boxes != np.round(index.boxes)).any(1).sum())):
        notes.append(
            f"{count} boxes lie between pixels; their decimals are kept, though some readers of VOC round them."
        )
    splits = index.splits
    if (splits >= 0).any() and (count := int((splits < 0).sum())):
        notes.append(f"{count} images belong to no split and are in no list of ImageSets/Main.")
    return notes


def _write_picture(index: Index, i: int, name: str, path: Path) -> None:
    height, width = size_of(index, i)
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", name)
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, key, str(value))
    _add(root, "segmented", "0")
    span = index.span(i)
    for k in range(span.start, span.stop):
        _add_object(root, index, k)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, "utf-8")


def _add_object(root: ElementTree.Element, index: Index, k: int) -> None:
    item = ElementTree.SubElement(root, "object")
    _add(item, "name", index.class_names[int(index.labels[k])])
    _add(item, "pose", "Unspecified")
    _add(item, "truncated", "0")
    _add(item, "difficult", str(int(index.crowd is not None and index.crowd[k])))
    box = ElementTree.SubElement(item, "bndbox")
    x1, y1, x2, y2 = (0.0,) * 4 if index.boxes is None else index.boxes[k].tolist()
    for key, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
        _add(box, key, str(int(value)) if value == int(value) else repr(value))


def _add(parent: ElementTree.Element, key: str, text: str) -> None:
    ElementTree.SubElement(parent, key).text = text
