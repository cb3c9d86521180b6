"""COCO: one JSON file per split with boxes, polygons, run-length masks and crowds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lit_vision.data.decode import read_size
from lit_vision.data.formats.boxes import clip_boxes, clip_note
from lit_vision.data.formats.coco_files import annotation_files, find_annotation_files, image_folder
from lit_vision.data.formats.coco_json import CocoFile, decode_file
from lit_vision.data.formats.coco_table import CocoTable, make_table
from lit_vision.data.formats.coco_write import write
from lit_vision.data.formats.files import choose_classes, relative
from lit_vision.data.index import Index, Packed
from lit_vision.errors import UserError

__all__ = ["found", "read", "write"]

LAYOUT = "annotations/instances_<split>.json with images/<split>/*.jpg"


def found(root: Path) -> str | None:
    """The COCO files in root, in words; None if there are none."""
    if root.is_file():
        return root.name if root.suffix.lower() == ".json" else None
    return ", ".join(relative(path, root) for _, path in find_annotation_files(root)[:3]) or None


def read(
    root: Path,
    *,
    annotations: str | Mapping[str, str] | None = None,
    images: str | Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    outlines: bool = True,
) -> Index:
    """Reads COCO files. Category ids, which may be sparse, become 0-based labels in the order of the ids.

    Args:
        root: folder of the data set, or one JSON file.
        annotations: path of the JSON file, or of one per split such as {train: a.json, val: b.json}; found where
            not given.
        images: folder of the images, or one per split; found where not given.
        classes: categories to use, in this order; objects of others are left out, with a note.
        outlines: whether polygons and masks are read; boxes alone need far less memory.

    Returns:
        An index of boxes, crowds and outlines; `problems` names the annotations that cannot be used.

    Raises:
        UserError: files are missing or no COCO files, or their categories contradict each other.
    """
    sources = annotation_files(root, annotations)
    root = root.parent if root.is_file() else root
    names = [relative(path, root) for _, path in sources]
    problems: list[str] = []
    documents = [decode_file(path, name, problems) for (_, path), name in zip(sources, names, strict=True)]
    categories = _categories(documents, names)
    chosen = choose_classes([categories[key] for key in sorted(categories)], classes, names[0])
    labels = {key: chosen.index(name) if name in chosen else -1 for key, name in categories.items()}
    files: list[str] = []
    splits: list[int] = []
    tables: list[CocoTable] = []
    for (split, path), name, document in zip(sources, names, documents, strict=True):
        folder = image_folder(root, path, split, [image.file_name for image in document.images], images)
        prefix = "" if folder == root else relative(folder, root) + "/"
        _complete_sizes(document, folder)
        files += [prefix + image.file_name for image in document.images]
        splits += [split] * len(document.images)
        tables.append(make_table(document, name, labels, outlines, problems))
    return _index(root, chosen, files, splits, tables, problems)


def _complete_sizes(document: CocoFile, folder: Path) -> None:
    """Sizes that the file does not say, from the images' headers: masks and boxes are measured by them."""
    for image in document.images:
        if not (image.height and image.width):
            try:
                image.height, image.width = read_size(folder / image.file_name)
            except UserError:  # the check reports unreadable images, all at once
                continue


def _categories(documents: Sequence[CocoFile], files: Sequence[str]) -> dict[int, str]:
    names: dict[int, str] = {}
    for document, file in zip(documents, files, strict=True):
        seen: set[int] = set()
        for category in document.categories:
            if category.id in seen:
                raise UserError(f"{file}: two categories have the id {category.id}: give each its own.")
            seen.add(category.id)
            if names.setdefault(category.id, category.name) != category.name:
                raise UserError(
                    f"{file}: category {category.id} is {category.name!r}, but {names[category.id]!r} in another "
                    f"split: give all splits the same categories."
                )
    twice = next((name for name in names.values() if list(names.values()).count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{files[0]}: two categories are called {twice!r}: give each its own name.")
    if not names:
        raise UserError(f"{files[0]} has no categories: add them.")
    return names


def _index(
    root: Path,
    class_names: tuple[str, ...],
    files: list[str],
    splits: list[int],
    tables: list[CocoTable],
    problems: list[str],
) -> Index:
    sizes = np.concatenate([table.sizes for table in tables])
    counts = np.concatenate([table.counts for table in tables])
    boxes, overhang = clip_boxes(np.concatenate([t.boxes for t in tables]), np.repeat(sizes, counts, axis=0))
    notes = clip_note(overhang)
    if unwanted := sum(table.unwanted for table in tables):
        notes.append(f"{unwanted} objects of classes left out by the option classes were not read.")
    return Index(
        root=root,
        format="coco",
        class_names=class_names,
        files=Packed.pack(files),
        sizes=sizes,
        splits=np.array(splits, np.int8),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        labels=np.concatenate([table.labels for table in tables]),
        boxes=boxes,
        crowd=np.concatenate([table.crowd for table in tables]),
        segments=Packed.pack(segment for table in tables for segment in table.segments),
        segment_kinds=np.concatenate([table.kinds for table in tables]),
        notes=tuple(notes),
        problems=tuple(problems),
    )
