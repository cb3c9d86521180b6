"""Images with a class mask each: a class index per pixel, a palette picture or an RGB colour map."""

from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TypedDict

import msgspec
import numpy as np

from lit_vision.data.formats.build import IndexBuilder
from lit_vision.data.formats.files import relative
from lit_vision.data.formats.pairs import IMAGE_FOLDERS, Folders, find_folders, listed_splits, pair_files
from lit_vision.data.index import Index
from lit_vision.data.masks import all_grey
from lit_vision.errors import UserError
from lit_vision.types import IGNORE_INDEX, UInt8Array

LAYOUT = "images/[<split>/]*.jpg with masks/[<split>/]*.png of the same name"
MASK_FOLDERS = ("masks", "SegmentationClass", "labels", "annotations", "mask", "SegmentationClassRaw")
CLASSES_FILE = "classes.json"


class ClassesFile(TypedDict, total=False):
    """What `classes.json` may hold."""

    classes: list[str]
    colors: list[tuple[int, int, int]]
    ignore_index: int
    ignore_colors: list[tuple[int, int, int]]


def found(root: Path) -> str | None:
    """What of this layout lies in root, in words; a folder `labels` counts only as `labels_are_classes` says."""
    folders = find_folders(root, IMAGE_FOLDERS, MASK_FOLDERS)
    if not folders or ("labels" in folders[0].masks.parts[-2:] and not labels_are_classes(root)):
        return None
    return f"images with class masks in {relative(folders[0].masks, root)}/"


def labels_are_classes(root: Path) -> bool:
    """Whether `labels/*.png` hold classes: with a classes.json and no folder `classes` they do."""
    return (root / CLASSES_FILE).is_file() and not (root / "classes").is_dir()


def read(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    colors: Sequence[tuple[int, int, int]] | None = None,
    ignore_index: int | None = None,
    ignore_colors: Sequence[tuple[int, int, int]] | None = None,
    images: str | None = None,
    masks: str | None = None,
    mask_suffix: str = "",
) -> Index:
    """Reads images and the class masks of the same name.

    Args:
        root: folder of images/ and masks/; `classes.json` in it may hold classes, colors, ignore_index, ignore_colors.
        classes: K class names; the value k in a mask means classes[k].
        colors: K colours (red, green, blue), where masks are RGB pictures; or where all are grey, as 0 and 255, grey
            ones.
        ignore_index: one more value in the masks, 0 to 255, that means "no class known", as 255 always does; with
            `colors` the position of one.
        ignore_colors: colours that mean the same in RGB masks.
        images: name of the image folder; found among images, JPEGImages, ... where not given.
        masks: name of the mask folder; found among masks, SegmentationClass, labels, annotations where not given.
        mask_suffix: what a mask's stem has after its image's, such as "_L".

    Returns:
        An index whose `masks` hold classes.

    Raises:
        UserError: the layout is another one, there are no class names, or a colour or `ignore_index` is out of range.
    """
    folders = find_folders(root, [images] if images else IMAGE_FOLDERS, [masks] if masks else MASK_FOLDERS)
    if not folders:
        raise UserError(f"{root} has no image and mask folders: the format masks reads {LAYOUT}.")
    settings = read_classes_file(root)
    names = _names(root, classes or settings.get("classes", []))
    color_rows = colors if colors is not None else settings.get("colors")
    ignored = ignore_colors if ignore_colors is not None else settings.get("ignore_colors", [])
    table = _color_table(color_rows, ignored, names)
    unknown = ignore_index if ignore_index is not None else settings.get("ignore_index", IGNORE_INDEX)
    _check_ignored(unknown, table, len(names))
    builder = IndexBuilder(root, "masks")
    _add_pairs(builder, root, folders, mask_suffix)
    return builder.build(names, mask_kind="classes", colors=table, ignore_index=unknown)


def _names(root: Path, names: Sequence[str]) -> list[str]:
    if not names:
        example = '{"classes": ["sky", "road"]}'
        raise UserError(
            f"{root}: class names are missing: write {root / CLASSES_FILE} such as {example}, "
            f"or set the option classes."
        )
    return list(names)


def _add_pairs(builder: IndexBuilder, root: Path, folders: Sequence[Folders], suffix: str) -> None:
    listed = listed_splits(root / "ImageSets" / "Segmentation")
    unlisted = 0
    for part in folders:
        # Where lists say which images have masks (Pascal VOC), the others are not problems.
        problems: list[str] = [] if listed else builder.problems
        for image, mask in pair_files(part, root, suffix, problems):
            split = listed.get(PurePosixPath(image).stem, -1) if listed else part.split
            if listed and split < 0:
                unlisted += 1
            else:
                builder.add_image(image, split, mask=mask)
    if unlisted:
        builder.notes.append(f"{unlisted} images are in no list of ImageSets/Segmentation and were left out.")


def read_classes_file(root: Path) -> ClassesFile:
    """The content of `classes.json` in root; empty where there is no such file.

    Raises:
        UserError: the file is malformed.
    """
    path = root / CLASSES_FILE
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes().removeprefix(BOM_UTF8), type=ClassesFile)
    except msgspec.DecodeError as error:
        raise UserError(f'{path} is malformed ({error}): write it as {{"classes": ["sky", "road"]}}.') from None


def _check_ignored(value: int, colors: UInt8Array | None, num_classes: int) -> None:
    """Refuses a number that no pixel of a mask can have."""
    if not 0 <= value <= IGNORE_INDEX:
        raise UserError(
            f"ignore_index is {value}, but the values of masks are 0 to 255: correct it, or leave it out where every "
            "pixel has a class."
        )
    if colors is not None and all_grey(colors) and num_classes <= value < IGNORE_INDEX:
        raise UserError(
            f"ignore_index is {value}, but with colors it is the position of one, 0 to {num_classes - 1}: set "
            f"ignore_colors: [[{value}, {value}, {value}]] instead."
        )


def _color_table(
    colors: Sequence[tuple[int, int, int]] | None, ignored: Sequence[tuple[int, int, int]], names: Sequence[str]
) -> UInt8Array | None:
    if colors is None:
        return None
    if len(colors) != len(names):
        raise UserError(f"There are {len(colors)} colors for {len(names)} classes: give one colour per class.")
    rows = [tuple(color) for color in (*colors, *ignored)]
    if wrong := next((row for row in rows if not all(0 <= value <= 255 for value in row)), None):
        raise UserError(f"The colour {list(wrong)} is not three numbers from 0 to 255: correct colors.")
    if twice := next((row for row in rows if rows.count(row) > 1), None):
        raise UserError(f"The colour {list(twice)} stands for two classes: give every class its own colour.")
    return np.array(rows, np.uint8).reshape(-1, 3)
