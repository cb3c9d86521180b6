"""Finding files in a data set's folder, in an order that is the same on every machine."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lit_vision.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
_SPLIT_WORDS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2}
_SPLIT = re.compile(rf"(?:.*[_\-. ])?({'|'.join(sorted(_SPLIT_WORDS, key=len, reverse=True))})[_\-]?\d*", re.IGNORECASE)


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key under which "image2" comes before "image10"."""
    parts = re.split(r"([0-9]+)", text)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), text


def list_files(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> tuple[list[str], list[str]]:
    """Files below a folder, hidden ones left out, in natural order.

    Returns:
        Paths relative to the folder, with forward slashes: those with one of the suffixes, and all others.
    """
    found: list[str] = []
    others: list[str] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__")) and not _leads_back(parent, name)]
        prefix = os.path.relpath(parent, folder).replace(os.sep, "/")
        for name in names:
            if not name.startswith(".") and name != "Thumbs.db":
                path = name if prefix == "." else f"{prefix}/{name}"
                (found if name.lower().endswith(tuple(suffixes)) else others).append(path)
    return sorted(found, key=natural_key), sorted(others, key=natural_key)


def _leads_back(parent: str, name: str) -> bool:
    """Whether a folder is a symbolic link to one that it lies in."""
    path = os.path.join(parent, name)
    return os.path.islink(path) and Path(os.path.realpath(parent)).is_relative_to(os.path.realpath(path))


def has_files(folder: Path, suffixes: Sequence[str]) -> bool:
    """Whether a file with one of the suffixes lies in the folder or one of its folders (the first two levels)."""
    if not folder.is_dir():
        return False
    for level in (folder, *subfolders(folder)):
        with os.scandir(level) as entries:
            if any(entry.name.lower().endswith(tuple(suffixes)) and entry.name[0] != "." for entry in entries):
                return True
    return False


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in a folder, hidden ones left out, sorted by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def split_of(name: str) -> int:
    """Position in SPLITS that a folder's or file's name says, such as "val", "train2017", "instances_test"; else -1."""
    match = _SPLIT.fullmatch(name)
    return _SPLIT_WORDS[match.group(1).lower()] if match else -1


def split_folders(folder: Path) -> list[tuple[int, Path]]:
    """The folders in a folder that are named as splits are, in the order train, val, test."""
    named = [(split_of(path.name), path) for path in subfolders(folder)]
    return sorted((item for item in named if item[0] >= 0), key=lambda item: item[0])


def relative(path: Path | str, root: Path) -> str:
    """A path as seen from root, with forward slashes; it may begin with "../"."""
    return os.path.relpath(path, root).replace(os.sep, "/")


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that offers the nearest known name, or lists them all where none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"


def choose_classes(found: Sequence[str], wanted: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The class names in use: those found, or the user's own choice and order of them.

    Raises:
        UserError: a wanted class is not among those found, or is named twice.
    """
    if wanted is None:
        return tuple(found)
    for name in wanted:
        if name not in found:
            raise UserError(f"The option classes names {name!r}, which {where} does not have: {nearest(name, found)}.")
    if len(set(wanted)) < len(wanted):
        twice = next(name for name in wanted if list(wanted).count(name) > 1)
        raise UserError(f"The option classes names {twice!r} twice: remove one of them.")
    return tuple(wanted)


def read_text(path: Path) -> str:
    """A text file's content (utf-8, with or without a byte order mark).

    Raises:
        UserError: the file is missing or is not text.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8: save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its name and rights.") from None
