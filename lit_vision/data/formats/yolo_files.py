"""data.yaml of a YOLO data set, its image lists, and where an image's labels lie."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lit_vision.data.formats.files import IMAGE_SUFFIXES, list_files, read_text, relative, split_of
from lit_vision.errors import UserError
from lit_vision.types import SPLITS


class YoloFile(NamedTuple):
    """What data.yaml says: its own path, the folder its entries are relative to, entries by split, class names."""

    path: Path
    base: Path
    splits: dict[int, list[str]]
    names: list[str]


def find_yaml(root: Path) -> Path | None:
    """The YAML file of a YOLO data set: root itself, data.yaml or dataset.yaml, or the only one with names."""
    if root.is_file():
        return root if root.suffix.lower() in (".yaml", ".yml") else None
    files = sorted((*root.glob("*.yaml"), *root.glob("*.yml")))
    fitting = [path for path in files if _has_names(path)]
    preferred = [path for path in fitting if path.stem in ("data", "dataset")]
    return next(iter(preferred or fitting), None)


def _has_names(path: Path) -> bool:
    lines = path.read_text("utf-8-sig", errors="replace").splitlines()
    keys = {line.split(":")[0].strip() for line in lines if line[:1].isalpha()}
    return "names" in keys and bool(keys & {"train", "val", "test"})


def read_yaml(path: Path) -> YoloFile:
    """Reads data.yaml.

    Raises:
        UserError: it is no YAML, or names or splits are missing or malformed.
    """
    text = read_text(path)
    try:
        content = yaml.safe_load(text)
        words = yaml.load(text, Loader=yaml.BaseLoader)  # all text: the class "no" is not false, "01" not 1
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML ({str(error).splitlines()[0]}): correct it.") from None
    if not isinstance(content, dict) or "names" not in content:
        raise UserError(f"{path} has no names: write names: [cat, dog].")
    if "kpt_shape" in content:
        raise UserError(f"{path} is of a pose data set (kpt_shape), which no task learns: give it labels with boxes.")
    splits = {}
    for key, value in content.items():
        if split_of(str(key)) >= 0 and value:
            entries = value if isinstance(value, list) else [value]
            splits[split_of(str(key))] = [str(entry) for entry in entries]
    if not splits:
        raise UserError(f"{path} has neither train nor val: write train: images/train.")
    names = _names(path, words["names"])
    if "nc" in content and str(content["nc"]) != str(len(names)):
        raise UserError(f"{path}: nc is {content['nc']} but names has {len(names)}: correct one of them.")
    return YoloFile(path, _base(path, content.get("path")), splits, names)


def _base(path: Path, given: Any) -> Path:
    """The folder of `path:`; where that is not on this machine (it was made elsewhere), the YAML's own folder."""
    base = path.parent / str(given or ".")
    return base if base.is_dir() else path.parent


def _names(path: Path, names: Any) -> list[str]:
    if isinstance(names, dict):
        if set(names) != {str(key) for key in range(len(names))}:
            raise UserError(f"{path}: the keys of names must be 0 to {len(names) - 1}, each once.")
        names = [names[str(key)] for key in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: names must be a list of class names such as [cat, dog].")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: names has {twice!r} twice: give each class its own name.")
    return names


def without_repeats(data: YoloFile, notes: list[str]) -> YoloFile:
    """The file without splits that name the same folders or lists as an earlier one; a note says which."""
    kept: dict[frozenset[Path], int] = {}
    for split in sorted(data.splits):
        places = frozenset(_resolve(data, entry).resolve() for entry in data.splits[split])
        if places in kept:
            name, earlier = SPLITS[split], SPLITS[kept[places]]
            notes.append(f"{data.path.name}: {name} names the same images as {earlier}, and is left out.")
        else:
            kept[places] = split
    return data._replace(splits={split: data.splits[split] for split in kept.values()})


def images_by_split(data: YoloFile, problems: list[str]) -> tuple[list[tuple[int, Path]], str]:
    """All images, each with its split; and why there is no test split where one is named, which only a test needs."""
    images: list[tuple[int, Path]] = []
    absent_test = ""
    for split in sorted(data.splits):
        faults: list[str] = []
        own = _images_of(data, split, faults)
        if SPLITS[split] == "test" and not own and faults:
            absent_test = faults[0]
        else:
            problems += faults
        images += [(split, image) for image in own]
    return images, absent_test


def _images_of(data: YoloFile, split: int, problems: list[str]) -> list[Path]:
    """The images of a split, in natural order within each folder and in the order of each list file."""
    images: list[Path] = []
    for entry in data.splits[split]:
        path = _resolve(data, entry)
        if path.is_dir():
            images += [path / file for file in list_files(path, IMAGE_SUFFIXES)[0]]
        elif path.is_file() and path.suffix.lower() == ".txt":
            images += _listed(path, data.base)
        else:
            problems.append(
                f"{data.path.name}: {SPLITS[split]} is {entry}, but there is no folder or .txt list "
                f"{relative(path, data.path.parent)}: correct it."
            )
    return images


def stray_labels(data: YoloFile) -> list[Path]:
    """Label files without an image, beside the folders of images that data.yaml names."""
    stray: list[Path] = []
    for entry in (entry for entries in data.splits.values() for entry in entries):
        folder = _resolve(data, entry)
        labels = label_path(folder / "x").parent
        if folder.is_dir() and labels.is_dir() and labels != folder:
            known = {file.rpartition(".")[0] for file in list_files(folder, IMAGE_SUFFIXES)[0]}
            files = list_files(labels, (".txt",))[0]
            stray += [labels / file for file in files if file[:-4] not in known and file != "classes.txt"]
    return stray


def _resolve(data: YoloFile, entry: str) -> Path:
    """Entries are relative to `path:`; exports of some tools mean ../train/images as seen from a folder below."""
    for path in (data.base / entry, data.path.parent / entry, data.base / entry.removeprefix("../")):
        if path.exists():
            return path
    return data.base / entry


def _listed(path: Path, base: Path) -> list[Path]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [path.parent / line if line.startswith("./") else base / line for line in lines if line]


def label_path(image: Path) -> Path:
    """The label file of an image: the last folder called images becomes labels, the suffix .txt."""
    parts = list(image.with_suffix(".txt").parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)
