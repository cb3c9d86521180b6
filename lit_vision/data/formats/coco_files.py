"""Which JSON files of a COCO folder hold which split, and where their images lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_vision.data.formats.files import relative, split_of, subfolders
from lit_vision.errors import UserError
from lit_vision.types import SPLITS

_PEEK = 65536
_TRIED = 20  # file names that decide which folder holds the images


def annotation_files(root: Path, given: str | Mapping[str, str] | None) -> list[tuple[int, Path]]:
    """Split and path of each COCO file.

    Args:
        root: folder of the data set, or the JSON file itself.
        given: the user's own path, or path by split; found by name where None.

    Raises:
        UserError: a given file is missing, or none or several are found for a split.
    """
    if isinstance(given, str):
        return [(split_of(Path(given).stem), _existing(root / given))]
    if given is not None:
        if unknown := next((name for name in given if split_of(name) < 0), None):
            raise UserError(f"The option annotations names the split {unknown!r}: write train, val or test.")
        return sorted((split_of(name), _existing(root / path)) for name, path in given.items())
    if root.is_file():
        return [(split_of(root.stem), root)]
    files = find_annotation_files(root)
    by_split: dict[int, Path] = {}
    for split, path in files:
        if split in by_split:
            other = by_split[split]
            raise UserError(
                f"{relative(path, root)} and {relative(other, root)} hold the same split: set annotations to the one "
                f"to use, such as {{{SPLITS[split] if split >= 0 else 'train'}: {relative(path, root)}}}."
            )
        by_split[split] = path
    if not by_split:
        raise UserError(f"{root} has no COCO file such as annotations/instances_train.json: set annotations to yours.")
    return sorted(by_split.items())


def find_annotation_files(root: Path) -> list[tuple[int, Path]]:
    """COCO files by name and first bytes; where files called instances_* are there, only those."""
    folders = [root / "annotations", root / "Annotations", root, *subfolders(root)]
    seen: dict[Path, None] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            if not path.name.startswith(".") and _looks_like_coco(path):
                seen.setdefault(path.resolve(), None)
    paths = [path for path in seen if path.name.startswith("instances")] or list(seen)
    resolved = root.resolve()
    return [
        (_split(path, resolved), root / path.relative_to(resolved) if path.is_relative_to(resolved) else path)
        for path in paths
    ]


def _split(path: Path, root: Path) -> int:
    by_name = split_of(path.stem)
    return by_name if by_name >= 0 or path.parent == root else split_of(path.parent.name)


def _looks_like_coco(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(_PEEK)
        stream.seek(max(0, path.stat().st_size - _PEEK))
        text = head + stream.read(_PEEK)
    # In a large file one of the lists fills both ends, so its records' own keys count as well.
    keys = (b'"annotations"', b'"categories"', b'"category_id"')
    return (b'"images"' in text and any(key in text for key in keys)) or all(
        key in text for key in (b'"image_id"', b'"category_id"', b'"bbox"')
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"There is no file {path}: correct the option annotations.")
    return path


def image_folder(
    root: Path, file: Path, split: int, names: Sequence[str], given: str | Mapping[str, str] | None
) -> Path:
    """The folder that the file names of a COCO file are relative to.

    Args:
        root: folder of the data set.
        file: the COCO file.
        split: its split, or -1.
        names: its file names.
        given: the user's own folder, or folder by split.

    Raises:
        UserError: a given folder is missing, or no folder has any of the images.
    """
    if given is not None:
        chosen = given if isinstance(given, str) else next((v for k, v in given.items() if split_of(k) == split), None)
        if chosen is None or not (root / chosen).is_dir():
            raise UserError(f"There is no image folder {root / (chosen or '?')}: correct the option images.")
        return root / chosen
    candidates = _candidates(root, file, split)
    step = max(1, len(names) // _TRIED)
    tried = names[::step]
    counts = [sum((folder / name).is_file() for name in tried) for folder in candidates]
    if tried and max(counts, default=0) == 0:
        raise UserError(
            f"{relative(file, root)} names images that are not there, such as {tried[0]}: looked in "
            f"{', '.join(relative(folder, root) for folder in candidates)}; set images to their folder."
        )
    return candidates[counts.index(max(counts))]


def _candidates(root: Path, file: Path, split: int) -> list[Path]:
    tops = [root / "images", root, *subfolders(root), *subfolders(root / "images")]
    parts = [
        path
        for top in (root / "images", root)
        for path in subfolders(top)
        if split >= 0 and split_of(path.name) == split
    ]
    folders = [*parts, *tops, file.parent, file.parent.parent, file.parent.parent / "images"]
    return list(dict.fromkeys(path for path in folders if path.is_dir()))
