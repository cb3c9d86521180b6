"""Images with a label map each (an object number per pixel), or with one mask file per object."""

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
from lit_vision.data.formats.pairs import IMAGE_FOLDERS, Folders, find_folders, pair_files
from lit_vision.data.index import FILE, Index
from lit_vision.errors import UserError

LAYOUT = "images/[<split>/]*.png with labels/[<split>/]*.png, or <name>/images/*.png with <name>/masks/*.png"
LABEL_FOLDERS = ("labels", "instances", "label_maps", "labelmaps")
DEFAULT_CLASS = "object"


def found(root: Path) -> str | None:
    """What of this layout lies in root, in words; None if nothing does."""
    folders = find_folders(root, IMAGE_FOLDERS, LABEL_FOLDERS)
    if folders and not ("labels" in folders[0].masks.parts[-2:] and labels_are_classes(root)):
        return f"images with label maps in {relative(folders[0].masks, root)}/"
    samples = next((path for _, base in _bases(root) for path in subfolders(base) if _is_sample(path)), None)
    return f"one mask file per object, such as in {relative(samples, root)}/masks/" if samples else None


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
        root: folder of images/ and labels/ (or of one folder per image, each with images/ and masks/).
        classes: class names; "object" alone where neither this nor classes.json says.
        images: name of the image folder; found among images, JPEGImages, ... where not given.
        labels: name of the folder of label maps; found among labels, instances where not given.
        class_masks: folder of class masks (0 background, 1 + class) that give each object its class by vote;
            needed only where there are several classes.
        mask_suffix: what a label map's stem has after its image's.

    Returns:
        An index whose `masks` hold object numbers, or whose objects have a mask file each.

    Raises:
        UserError: the layout is another one, or several classes are named without class masks.
    """
    names = list(classes or read_classes_file(root).get("classes", []) or [DEFAULT_CLASS])
    folders = find_folders(root, [images] if images else IMAGE_FOLDERS, [labels] if labels else LABEL_FOLDERS)
    builder = IndexBuilder(root, "labelmaps", places=not folders)
    if not folders:
        _add_samples(builder, root, names)
        return builder.build(names, boxes=False)
    for part in folders:
        _add_maps(builder, root, part, mask_suffix, class_masks if len(names) > 1 else None)
    return builder.build(names, mask_kind="instances")


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


def _is_sample(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


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
                builder.add_object(0, segment=f"{where}/masks/{mask}".encode(), kind=FILE)
    if len(builder) == 0 and not builder.problems:
        raise UserError(f"{root} has no label maps: the format labelmaps reads {LAYOUT}.")
