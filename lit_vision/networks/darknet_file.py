"""The contents of Darknet's .weights files: header, numbers, and which network they are of.

Little endian. A header of int32 major, minor, revision and the number of images seen (8 bytes from version 0.2 on, else
4); then float32 per [convolutional] in the order of the .cfg: biases, and with batch normalisation scales, running
means and running variances; then weights (out, in / groups, size, size). Other layers have nothing in the file.
Source: https://github.com/pjreddie/darknet (`parser.c`).
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from lit_vision.errors import UserError
from lit_vision.networks.darknet_cfg import DarknetConfig, backbone_length
from lit_vision.networks.darknet_kinds import Convolution

_NAME = re.compile(r"\.(weights|backup|conv\.\d+)$")  # darknet53.conv.74 is the beginning of a network, so many layers
IMAGENET = 1000  # classes of the classifiers that Darknet's backbones were trained as
Floats = npt.NDArray[np.float32]


class Header(NamedTuple):
    """major, minor, revision: of the program that wrote the file; seen: images it had been trained on."""

    major: int
    minor: int
    revision: int
    seen: int


class Shape(NamedTuple):
    """Of one convolution in a file: weights (out, in / groups, size, size), and whether it is normalised."""

    weight: tuple[int, int, int, int]
    normalised: bool

    @property
    def floats(self) -> int:
        """How many numbers the file has for it."""
        return self.weight[0] * (4 if self.normalised else 1) + int(np.prod(self.weight))


def is_darknet_file(weights: str | Path | None) -> TypeGuard[str | Path]:
    """Whether a file of weights is Darknet's, by its name."""
    return weights is not None and _NAME.search(str(weights)) is not None


def open_weights(file: str | Path) -> tuple[Header, Floats]:
    """Header and numbers of a .weights file; the numbers stay on the disk until they are read.

    Raises:
        UserError: there is no such file, or it is of another kind.
    """
    path = Path(os.path.expandvars(file)).expanduser()
    if not path.is_file():
        raise UserError(f"weights: there is no file {path}")
    with path.open("rb") as opened:
        start = opened.read(20)
    if start.lstrip()[:1] == b"<" or start.startswith(b"version https"):
        what = "a web page" if start.lstrip()[:1] == b"<" else "a pointer of Git LFS"
        raise UserError(f"weights: {path} is {what}, not the weights: download the file itself")
    size = path.stat().st_size
    major, minor, revision = (int(value) for value in np.frombuffer(start[:12].ljust(12, b"\xff"), "<i4"))
    if not (0 <= major <= 1000 and 0 <= minor <= 1000 and 0 <= revision <= 1000):
        raise UserError(f"weights: {path} does not begin as a Darknet file (version {major}.{minor}.{revision})")
    offset = 20 if major * 10 + minor >= 2 else 16
    if size <= offset or (size - offset) % 4:
        raise UserError(f"weights: {path} of {size} bytes ends in the middle of a number: download it again")
    seen = int.from_bytes(start[12:offset], "little")
    return Header(major, minor, revision, seen), np.memmap(path, np.dtype("<f4"), "r", offset)


def layout(config: DarknetConfig) -> list[Shape]:
    """The convolutions of a network as a file holds them."""
    return [
        Shape((kind.filters, layer.in_channels // kind.groups, kind.size, kind.size), kind.batch_normalize)
        for layer in config.layers
        if isinstance(kind := layer.kind, Convolution)
    ]


def is_classifier(backbone: Sequence[Shape], total: int) -> bool:
    """Whether `total` numbers are a backbone's convolutions and the last layer of an ImageNet classifier over them.

    That is a 1 x 1 convolution with biases: darknet53.weights is darknet53.conv.74 and such a layer.
    """
    return total == sum(shape.floats for shape in backbone) + IMAGENET * (backbone[-1].weight[0] + 1)


def recognise(config: DarknetConfig, total: int, file: str | Path) -> tuple[DarknetConfig, int]:
    """The network that a file of so many numbers is of, and how many of its convolutions are in it.

    Args:
        config: the network wanted; the file may have another number of classes, or the channels that the .cfg names.
            Of an ImageNet classifier over the same backbone, only that is.
        total: numbers in the file.
        file: for errors.

    Raises:
        UserError: numbers are missing or left over.
    """
    own = config.net.integer("channels", 3)
    named = _as_written(config)
    ends: dict[int, tuple[DarknetConfig, int]] = {}
    for channels in dict.fromkeys((config.channels, own)):
        for classes in dict.fromkeys((config.classes, named, *solved_classes(config, channels, total))):
            candidate = config.with_size(classes, channels)
            sums = np.cumsum([shape.floats for shape in layout(candidate)]).tolist()
            if sums[-1] == total:
                return candidate, len(sums)
            for count, end in enumerate(sums[:-1], start=1):
                ends.setdefault(end, (candidate, count))
            backbone = layout(candidate)[: backbone_convolutions(candidate)]
            if is_classifier(backbone, total):
                ends.setdefault(total, (candidate, len(backbone)))
    if total in ends:
        return ends[total]
    raise UserError(_misfit(config, total, file))


def backbone_convolutions(config: DarknetConfig) -> int:
    """How many of the convolutions are the backbone's."""
    return sum(isinstance(layer.kind, Convolution) for layer in config.layers[: backbone_length(config.layers)])


def _as_written(config: DarknetConfig) -> int:
    """The number of classes that the text of the .cfg names."""
    section = config.layers[config.heads[0]].section
    return section.integer("classes", 20)


def solved_classes(config: DarknetConfig, channels: int, total: int) -> list[int]:
    """The number of classes with which the whole network has `total` numbers, if there is one."""
    one, two = (sum(shape.floats for shape in layout(config.with_size(classes, channels))) for classes in (1, 2))
    classes, rest = divmod(total - one, two - one)
    return [classes + 1] if rest == 0 and classes >= 0 else []


def _misfit(config: DarknetConfig, total: int, file: str | Path) -> str:
    written = config.with_size(_as_written(config), config.net.integer("channels", 3))
    sums = np.cumsum([shape.floats for shape in layout(written)]).tolist()
    if total > sums[-1]:
        return (
            f"weights: {file} has {total} numbers, but {config.source} takes {sums[-1]}: {total - sums[-1]} are left "
            "over; give the .cfg that belongs to the file"
        )
    count = sum(end < total for end in sums)
    return (
        f"weights: {file} has {total} numbers, but {config.source} takes {sums[-1]}: {sums[-1] - total} are missing, "
        f"and it ends inside convolution {count + 1} of {len(sums)}; download it again, or give the .cfg that belongs "
        "to it"
    )
