"""Images with a label map each (an object number per pixel), beside them or not, or with one mask file per object."""

import os
from collections.abc import Sequence
from pathlib import Path

from lit_vision.data.formats.build import IndexBuilder
from lit_vision.data.formats.files import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    list_files,
    relative,
    split_folders,
    split_of,
    subfolders,
)
from lit_vision.data.formats.masks import labels_are_classes, read_classes_file
from lit_vision.data.formats.pairs import (
    IMAGE_FOLDERS,
    Folders,
    find_folders,
    has_pairs_inside,
    pair_files,
    pairs_inside,
)
from lit_vision.data.index import FILE, Index
from lit_vision.errors import UserError

LAYOUT = (
    "images/[<split>/]*.png with labels/[<split>/]*.png, <name>/images/*.png with <name>/masks/*.png, or "
    "[<split>/]<name>.png with <name>_masks.png"
)
LABEL_FOLDERS = ("labels", "instances", "label_maps", "labelmaps")
MASKS = "masks"  # a folder of label maps in StarDist's layout, of class masks in others
BESIDE = "_masks"  # after an image's name, of a label map in the same folder
DEFAULT_CLASS = "object"


def found(root: Path) -> str | None:
    """What of this layout lies in root, in words; None if nothing does."""
    folders = find_folders(root, IMAGE_FOLDERS, LABEL_FOLDERS)
    if folders and not ("labels" in folders[0].masks.parts[-2:] and labels_are_classes(root)):
        return f"images with label maps in {relative(folders[0].masks, root)}/"
    if sample := _a_sample(root):
        return f"one mask file per object, such as in {relative(sample, root)}/masks/"
    if part := next((path for _, path in _flat(root) if has_pairs_inside(path, BESIDE)), None):
        return f"label maps named as their images in {relative(part, root)}/, with {BESIDE} after it"
    return None


def found_in_masks(root: Path) -> str | None:
    """The same of a folder `masks` with a file per image, which holds objects where a task is of objects."""
    folders = [] if labels_are_classes(root) or _a_sample(root) else find_folders(root, IMAGE_FOLDERS, [MASKS])
    return f"images with label maps in {relative(folders[0].masks, root)}/" if folders else None


def read(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    images: str | None = None,
    labels: str | None = None,
    class_masks: str = "classes",
    mask_suffix: str = "",
) -> Index:
    """Reads images and their objects' masks.

    Args:
        root: folder of images/ and labels/, or of one folder per image, each with images/ and masks/, or of images
            with their label maps beside them.
        classes: class names; "object" alone where neither this nor classes.json says.
        images: name of the image folder; found among images, JPEGImages, ... where not given.
        labels: name of the folder of label maps; found among labels, instances, masks where not given.
        class_masks: folder of class masks (0 background, 1 + class) that give each object its class by vote;
            needed only where there are several classes.
        mask_suffix: what a label map's stem has after its image's; "_masks" where it lies beside its image.

    Returns:
        An index whose `masks` hold object numbers, or whose objects have a mask file each.

    Raises:
        UserError: the layout is another one, or several classes are named without class masks.
    """
    names = list(classes or read_classes_file(root).get("classes", []) or [DEFAULT_CLASS])
    image_names, sample = [images] if images else IMAGE_FOLDERS, _a_sample(root)
    folders = find_folders(root, image_names, [labels] if labels else LABEL_FOLDERS)
    if not (folders or labels or sample):
        folders = find_folders(root, image_names, [MASKS])
    builder = IndexBuilder(root, "labelmaps", places=not folders and sample is not None)
    if builder.places:
        _add_samples(builder, root, names)
        return builder.build(names, boxes=False)
    for part in folders:
        _add_maps(builder, root, part, mask_suffix, class_masks if len(names) > 1 else None)
    if not (folders or images or labels):
        _add_neighbours(builder, root, mask_suffix or BESIDE, names)
    if len(builder) == 0 and not builder.problems:
        raise UserError(f"{root} has no label maps: the format labelmaps reads {LAYOUT}.")
    return builder.build(names, mask_kind="instances")


def _flat(root: Path) -> list[tuple[int, Path]]:
    """The folders of the splits, or root itself."""
    return split_folders(root) or [(-1, root)]


def _add_neighbours(builder: IndexBuilder, root: Path, suffix: str, names: Sequence[str]) -> None:
    """The layout of Cellpose: label maps in the folder of their images."""
    for split, folder in _flat(root):
        if not has_pairs_inside(folder, suffix):
            continue
        if len(names) > 1:
            raise UserError(f"{root} has label maps beside its images, which say no class: name one class of them.")
        for image, mask in pairs_inside(folder, root, suffix, builder.problems, builder.notes):
            builder.add_image(image, split, mask=mask)


def _add_maps(builder: IndexBuilder, root: Path, part: Folders, suffix: str, class_masks: str | None) -> None:
    votes: dict[str, str] = {}
    beside = part.masks.parent == root or split_of(part.masks.parent.name) >= 0
    folder = part.masks.parent / (class_masks or "") if beside else root / (class_masks or "") / part.masks.name
    if class_masks is not None:
        if not folder.is_dir():
            raise UserError(
                f"{root} has several classes but no folder {relative(folder, root)}/ that gives objects their class: "
                f"add class masks (0 background, 1 + class), or name one class."
            )
        votes = _by_stem(folder, root)
    for image, mask in pair_files(part, root, suffix, builder.problems):
        stem = mask.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if class_masks is not None and stem not in votes:
            builder.problems.append(f"{mask} has no class mask {relative(folder, root)}/{stem}.png: add it.")
        builder.add_image(image, part.split, mask=mask, class_mask=votes.get(stem, ""))


def _by_stem(folder: Path, root: Path) -> dict[str, str]:
    prefix = relative(folder, root)
    files = list_files(folder, MASK_SUFFIXES)[0]
    return {file.rsplit("/", 1)[-1].rsplit(".", 1)[0]: f"{prefix}/{file}" for file in files}


def _bases(root: Path) -> list[tuple[int, Path]]:
    return [(split, path) for split, path in split_folders(root) if not _is_sample(path)] or [(-1, root)]


def _a_sample(root: Path) -> Path | None:
    """The first folder of one image and the mask files of its objects."""
    return next((path for _, base in _bases(root) for path in subfolders(base) if _is_sample(path)), None)


def _is_sample(folder: Path) -> bool:
    """Whether a folder is of one image; one that is named as a split is may hold a label map per image instead."""
    if not ((folder / "images").is_dir() and (folder / MASKS).is_dir()):
        return False
    if split_of(folder.name) < 0:
        return True
    images, masks = (list_files(folder / name)[0] for name in ("images", MASKS))
    return len(images) == 1 and Path(images[0]).stem not in {Path(mask).stem for mask in masks}


def _add_samples(builder: IndexBuilder, root: Path, names: Sequence[str]) -> None:
    """The layout of the Data Science Bowl 2018: a folder per image, a mask file per object."""
    if len(names) > 1:
        raise UserError(f"{root} has one mask file per object, which says no class: name one class, not {len(names)}.")
    for split, base in _bases(root):
        for sample in filter(_is_sample, subfolders(base)):
            where = relative(sample, root)
            images = list_files(sample / "images", IMAGE_SUFFIXES)[0]
            if len(images) != 1:
                builder.problems.append(f"{where}/images holds {len(images)} images: there must be exactly one.")
                continue
            builder.add_image(f"{where}/images/{images[0]}", split)
            for mask in list_files(sample / "masks", MASK_SUFFIXES)[0]:
                builder.add_object(0, segment=os.fsencode(f"{where}/masks/{mask}"), kind=FILE)
