"""Pictures without labels: finding them, and preparing them as a checkpoint's training pictures were."""

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch.utils.data import Dataset

from lit_vision.data.channels import BandsError
from lit_vision.data.dataset import NATIVE_MULTIPLE, Collate
from lit_vision.data.decode import read_image
from lit_vision.data.formats.files import list_files, natural_key
from lit_vision.data.transforms import Transform
from lit_vision.errors import UserError
from lit_vision.types import Sample, UInt8Array

Images: TypeAlias = str | Path | Sequence[str | Path]


def find_images(images: Images, output: Path) -> list[Path]:
    """Paths of the pictures: a list's in its own order, those of a folder or glob in natural order.

    Args:
        images: a file, a folder (searched with its folders), a glob pattern, or a list of files.
        output: pictures below it, from an earlier prediction, are left out.

    Raises:
        UserError: nothing is there.
    """
    if isinstance(images, str | Path):
        images = Path(images).expanduser()  # after --images=, shells leave ~ as it is
    if isinstance(images, Path) and images.is_dir():
        paths = [images / name for name in list_files(images)[0]]
    elif isinstance(images, Path) and not images.exists():
        found = glob.glob(str(images), recursive=True)
        paths = sorted((path for path in map(Path, found) if path.is_file()), key=lambda path: natural_key(str(path)))
    else:
        paths = [images] if isinstance(images, Path) else [Path(path) for path in images]
    paths = [path for path in paths if output.resolve() not in path.resolve().parents]
    if not paths:
        raise UserError(f"--images {images}: no picture is there; give a file, a folder or a glob such as 'a/*.jpg'")
    return paths


def relative_paths(paths: Sequence[Path]) -> list[str]:
    """The paths as seen from the deepest folder that holds them all, with forward slashes."""
    absolute = [path.parent.resolve() / path.name for path in paths]
    base = os.path.commonpath([path.parent for path in absolute])
    return [os.path.relpath(path, base).replace(os.sep, "/") for path in absolute]


def read_for(data: Mapping[str, Any], path: Path) -> UInt8Array:
    """Pixels (H, W, C) of a picture, as a checkpoint's training pictures were read.

    Args:
        data: the checkpoint's preprocessing.
        path: of the picture.

    Raises:
        UserError: it cannot be read, or has other bands; those of a checkpoint cannot be set.
    """
    try:
        return read_image(path, data["in_channels"], data["depth"])
    except BandsError as error:
        bands = f"{error.bands} band{'' if error.bands == 1 else 's'}"
        raise UserError(f"{path}: has {bands}, but the checkpoint takes {error.channels}: convert the file") from error


class PictureFiles(Dataset["Sample | str"]):
    """Pictures prepared as the checkpoint's were; an unreadable one gives the sentence that says why.

    Args:
        paths: of the pictures.
        data: the checkpoint's preprocessing: image_size, fit, in_channels, depth.
    """

    def __init__(self, paths: Sequence[Path], data: Mapping[str, Any]) -> None:
        self.paths, self.data = paths, data
        self.transform = Transform(tuple(data["image_size"]), data["fit"])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> "Sample | str":
        try:
            image = read_for(self.data, self.paths[i])
        except UserError as error:
            return str(error)
        warped = self.transform(image)
        size = torch.tensor(image.shape[:2])
        return {"image": warped.image, "index": i, "frame": torch.as_tensor(warped.frame), "size": size}


class CollatePictures:
    """Batches the readable pictures, and gives for each item the sentence that says why it is not, or None.

    Args:
        fit: of the checkpoint's preprocessing; "native" pictures differ in size and are padded.
    """

    def __init__(self, fit: str) -> None:
        self.collate = Collate(multiple=NATIVE_MULTIPLE if fit == "native" else 1)

    def __call__(self, items: Sequence["Sample | str"]) -> tuple[dict[str, Any] | None, list[str | None]]:
        """The batch, None where no picture is readable, and the problems."""
        samples = [item for item in items if not isinstance(item, str)]
        batch = cast(dict[str, Any], self.collate(samples)) if samples else None
        return batch, [item if isinstance(item, str) else None for item in items]
