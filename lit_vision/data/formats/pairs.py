"""Images and the masks of the same name in a folder beside them."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lit_vision.data.formats.files import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    has_files,
    list_files,
    relative,
    split_folders,
    split_of,
    subfolders,
)

IMAGE_FOLDERS = ("images", "JPEGImages", "image", "imgs", "img")
IMAGE_SUFFIX = "_img"  # which a mask beside its image need not repeat
BY_PRODUCTS = ("_masks", "_cp_masks", "_cp_output", "_flows")  # of Cellpose, beside the images


class Folders(NamedTuple):
    """A folder of images and the folder of their masks, both of one split (-1: not said)."""

    split: int
    images: Path
    masks: Path


def find_folders(root: Path, images: Sequence[str], masks: Sequence[str]) -> list[Folders]:
    """Finds `images/[<split>/]` with `masks/[<split>/]`, or `<split>/images` with `<split>/masks`.

    Args:
        root: folder of the data set.
        images: names the image folder may have, best first.
        masks: names the mask folder may have, best first.

    Returns:
        One pair per split, or one for all; none where the layout is another one.
    """
    pair = _beside(root, images, masks)
    if pair is None:
        pairs = ((split, _beside(path, images, masks)) for split, path in split_folders(root))
        return [Folders(split, *pair) for split, pair in pairs if pair]
    image_folder, mask_folder = pair
    parts = [Folders(split, path, mask_folder / path.name) for split, path in split_folders(image_folder)]
    return parts or [Folders(-1, image_folder, mask_folder)]


def _beside(folder: Path, images: Sequence[str], masks: Sequence[str]) -> tuple[Path, Path] | None:
    present = {path.name for path in subfolders(folder)}
    image = next((name for name in images if name in present), None)
    mask = next((name for name in masks if name in present and has_files(folder / name, MASK_SUFFIXES)), None)
    return (folder / image, folder / mask) if image and mask and image != mask else None


def pair_files(folders: Folders, root: Path, suffix: str, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Image and mask of the same stem (the mask's with `suffix` after it), relative to root, in natural order.

    Images without a mask and masks without an image are added to `problems`.
    """
    masks = {str(PurePosixPath(file).with_suffix("")): file for file in list_files(folders.masks, MASK_SUFFIXES)[0]}
    image_prefix, mask_prefix = relative(folders.images, root), relative(folders.masks, root)
    for image in list_files(folders.images, IMAGE_SUFFIXES)[0]:
        stem = str(PurePosixPath(image).with_suffix("")) + suffix
        mask = masks.pop(stem, None)
        if mask is None:
            problems.append(f"{image_prefix}/{image} has no mask {mask_prefix}/{stem}.png: add it or remove the image.")
        else:
            yield f"{image_prefix}/{image}", f"{mask_prefix}/{mask}"
    problems += [
        f"{mask_prefix}/{mask} has no image of its name in {image_prefix}: add it or remove the mask."
        for mask in masks.values()
    ]


def has_pairs_inside(folder: Path, suffix: str) -> bool:
    """Whether an image and its mask, which has `suffix` after its name, lie directly in a folder."""
    if not folder.is_dir():
        return False
    stems = {Path(path.name).stem for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    bare = (stem.removesuffix(suffix) for stem in stems if stem.endswith(suffix))
    return any(stem in stems or stem + IMAGE_SUFFIX in stems for stem in bare)


def pairs_inside(
    folder: Path, root: Path, suffix: str, problems: list[str], notes: list[str]
) -> Iterator[tuple[str, str]]:
    """Image and mask of one folder, relative to root, in natural order: `a.png` or `a_img.png`, and `a_masks.png`.

    Args:
        folder: where both lie, folders in it included.
        root: of the data set.
        suffix: what a mask's stem has after its image's, with or without the image's own `_img`.
        problems: gets images without a mask and masks without an image.
        notes: gets the number of Cellpose's other files, which are left out.
    """
    files = {str(PurePosixPath(file).with_suffix("")): file for file in list_files(folder, MASK_SUFFIXES)[0]}
    others = tuple(end for end in BY_PRODUCTS if end != suffix)
    masks = {stem.removesuffix(suffix): file for stem, file in files.items() if _is_mask(stem, suffix, others)}
    prefix = "" if folder == root else f"{relative(folder, root)}/"
    left_out = 0
    for image in list_files(folder, IMAGE_SUFFIXES)[0]:
        stem = str(PurePosixPath(image).with_suffix(""))
        if _is_mask(stem, suffix, others):
            continue
        if stem.endswith(others):
            left_out += 1
            continue
        own = next((name for name in (stem, stem.removesuffix(IMAGE_SUFFIX)) if name in masks), None)
        if own is None:
            mask = stem.removesuffix(IMAGE_SUFFIX) + suffix
            problems.append(f"{prefix}{image} has no mask {prefix}{mask}.png: add it or remove the image.")
        else:
            yield f"{prefix}{image}", f"{prefix}{masks.pop(own)}"
    problems += [f"{prefix}{mask} has no image of its name beside it: add it or remove it." for mask in masks.values()]
    if left_out:
        ends = " or ".join(others)
        notes.append(f"{left_out} files of {relative(folder, root)} were left out, whose names end in {ends}.")


def _is_mask(stem: str, suffix: str, others: tuple[str, ...]) -> bool:
    return stem.endswith(suffix) and not stem.endswith(tuple(end for end in others if len(end) > len(suffix)))


def listed_splits(folder: Path) -> dict[str, int]:
    """Stem -> split from list files such as `ImageSets/Segmentation/train.txt`; empty where there are none."""
    listed: dict[str, int] = {}
    for path in sorted(folder.glob("*.txt")) if folder.is_dir() else []:
        if (split := split_of(path.stem)) >= 0:
            for line in path.read_text("utf-8-sig", errors="replace").splitlines():
                if line.strip():
                    listed[line.split()[0]] = split
    return listed
