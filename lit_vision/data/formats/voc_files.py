"""Where the lists and the images of a Pascal VOC folder lie."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lit_vision.data.formats.files import IMAGE_SUFFIXES, split_of, subfolders
from lit_vision.errors import UserError

ANNOTATIONS = "Annotations"
IMAGES = "JPEGImages"
LISTS = "ImageSets/Main"


def split_of_stems(root: Path, files: Iterable[str], problems: list[str]) -> dict[str, int]:
    """Split of each stem that a list `ImageSets/Main/<split>.txt` has; empty without lists.

    A stem without an annotation file, or in two lists, is added to `problems`.
    """
    stems = {file.removesuffix(".xml") for file in files}
    splits: dict[str, int] = {}
    for path in sorted((root / LISTS).glob("*.txt")):
        split = split_of(path.stem) if "_" not in path.stem else -1  # cat_train.txt lists one class
        for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines() if split >= 0 else []):
            stem = line.strip()
            where = f"{LISTS}/{path.name}, line {number + 1}"
            if not stem:
                continue
            if stem not in stems:
                problems.append(
                    f"{where} names {stem}, but there is no {ANNOTATIONS}/{stem}.xml: add it or delete the line."
                )
            elif splits.setdefault(stem, split) != split:
                problems.append(f"{where} names {stem}, which is in another split too: delete it from one list.")
    return splits


def image_places(root: Path, given: str | None) -> list[Path]:
    """Folders that may hold the images: the given one, or JPEGImages, images and the like in root or beside it.

    Raises:
        UserError: the given folder is missing.
    """
    if given is not None:
        if not (root / given).is_dir():
            raise UserError(f"There is no image folder {root / given}: correct the option images.")
        tops = [root / given]
    else:
        names = (IMAGES, "images", "Images", "img")
        tops = [folder / name for folder in (root, root.resolve().parent) for name in names]
    tops = [path for path in tops if path.is_dir()]
    tops += [path for top in tops for path in subfolders(top)]
    return tops or [root]


def image_of(stem: str, filename: str, split: int, places: Sequence[Path]) -> Path | None:
    """The image of an annotation file: by the file name in it, else by its own stem; its split's folder first."""
    names = [filename] if filename else []
    names += [stem + suffix for suffix in IMAGE_SUFFIXES] + [stem + suffix.upper() for suffix in IMAGE_SUFFIXES[:2]]
    for name in names:
        for place in sorted(places, key=lambda path: split_of(path.name) != split):
            if (place / name).is_file():
                return place / name
    return None
