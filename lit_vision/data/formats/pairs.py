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


def listed_splits(folder: Path) -> dict[str, int]:
    """Stem -> split from list files such as `ImageSets/Segmentation/train.txt`; empty where there are none."""
    listed: dict[str, int] = {}
    for path in sorted(folder.glob("*.txt")) if folder.is_dir() else []:
        if (split := split_of(path.stem)) >= 0:
            for line in path.read_text("utf-8-sig", errors="replace").splitlines():
                if line.strip():
                    listed[line.split()[0]] = split
    return listed
