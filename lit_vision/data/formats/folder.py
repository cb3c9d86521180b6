"""Folder per class: `<split>/<class>/*.jpg`, or `<class>/*.jpg` without splits."""

from collections.abc import Sequence
from pathlib import Path

from lit_vision.data.formats.build import IndexBuilder
from lit_vision.data.formats.files import (
    IMAGE_SUFFIXES,
    choose_classes,
    has_files,
    list_files,
    relative,
    split_folders,
    subfolders,
)
from lit_vision.data.index import Index
from lit_vision.errors import UserError

LAYOUT = "<split>/<class>/*.jpg or <class>/*.jpg"


def found(root: Path) -> str | None:
    """What of this layout lies in root, in words; None if nothing does. One class alone is not taken for it."""
    bases = _bases(root)
    names = {path.name for _, base in bases for path in subfolders(base) if has_files(path, IMAGE_SUFFIXES)}
    if len(names) < 2:
        return None
    return f"{len(names)} class folders in {', '.join(relative(base, root) + '/' for _, base in bases)}"


def lacking(root: Path) -> str | None:
    """What root lacks to be taken for this layout, in words; None where it has no folders like classes."""
    folders = [path for _, base in _bases(root) for path in subfolders(base)]
    filled = sorted({path.name for path in folders if has_files(path, IMAGE_SUFFIXES)})
    if len(filled) == 1:
        return f"pictures lie in one class folder only, {filled[0]}, so add one for each other class"
    names = list(dict.fromkeys(path.name for path in folders))
    if not filled and len(names) > 1 and not any(list_files(path, ("",))[0] for path in folders):
        return f"the folders ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}) hold no file, so fill them"
    return None


def read(root: Path, *, classes: Sequence[str] | None = None) -> Index:
    """Reads images sorted into folders by class.

    Args:
        root: folder of the split folders (train, val, test), or of the class folders themselves.
        classes: the class folders to use, in this order; all of them, sorted by name, where not given.

    Returns:
        An index with one label per image.

    Raises:
        UserError: there is no class folder, or `classes` names one that is not there.
    """
    bases = _bases(root)
    present = sorted({path.name for _, base in bases for path in subfolders(base)})
    if not present:
        raise UserError(f"{root} has no folder per class: the format folder reads {LAYOUT}.")
    names = choose_classes(present, classes, str(root))
    builder = IndexBuilder(root, "folder")
    left_out: list[str] = [path for _, base in bases for path in _loose(base, root)]
    for split, base in bases:
        for label, name in enumerate(names):
            images, others = list_files(base / name)
            prefix = relative(base / name, root)
            left_out += [f"{prefix}/{file}" for file in others]
            for image in images:
                builder.add_image(f"{prefix}/{image}", split)
                builder.add_object(label)
    if left_out:
        builder.notes.append(
            f"{len(left_out)} files outside the class folders or without an image's ending were left out,"
            f" the first is {left_out[0]}."
        )
    if unused := [name for name in present if name not in names]:
        builder.notes.append(f"Class folders left out by the option classes: {', '.join(unused)}.")
    return builder.build(names)


def _bases(root: Path) -> list[tuple[int, Path]]:
    """The folders whose folders are classes; a class may be called "train", so a split must hold folders."""
    splits = [(split, path) for split, path in split_folders(root) if subfolders(path)]
    return splits if any(split == 0 for split, _ in splits) else [(-1, root)]


def _loose(base: Path, root: Path) -> list[str]:
    files = (path for path in base.iterdir() if path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES))
    return sorted(relative(path, root) for path in files)
