"""Darknet's .weights files into networks, and out of them; the format is described in `darknet_file`."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.darknet import BN_EPS, DarknetYOLO
from lit_vision.networks.darknet_cfg import DarknetConfig, find_config
from lit_vision.networks.darknet_file import (
    Floats,
    Shape,
    backbone_convolutions,
    is_classifier,
    is_darknet_file,
    layout,
    open_weights,
    recognise,
    solved_classes,
)
from lit_vision.networks.stem import adapt_stem
from lit_vision.networks.yolo_layers import SLOPE

log = logging.getLogger(__name__)

VERSION = (0, 2, 5)
LOWEST_VARIANCE = -1e-6  # real files have values such as -7e-44
_LEFT_OUT = "its last layer, of an ImageNet classifier, is left out"


def load_weights(network: DarknetYOLO, file: str | Path) -> list[str]:
    """Reads a whole .weights file, or one that ends after any convolution, such as darknet53.conv.74.

    Of an ImageNet classifier's file, such as darknet53.weights, the backbone is read. Heads that were trained for
    another number of classes stay newly drawn; a first convolution of other channels is adapted as timm does.

    Returns:
        What was loaded and what was not, a sentence each; they are logged too.

    Raises:
        UserError: the file is of another kind, too long, ends inside a convolution, or holds numbers that are none.
    """
    _, floats = open_weights(file)
    written, count = recognise(network.config, floats.size, file)
    shapes, config = layout(written), network.config
    left_out = {number - 1 for number in config.heads} if written.classes != config.classes else set()
    offset = 0
    for k, (shape, (number, conv, norm)) in enumerate(zip(shapes[:count], network.convolutions(), strict=False), 1):
        block = floats[offset : offset + shape.floats]
        _refuse_nonsense(shape, block, f"{file}: convolution {k}")
        if number not in left_out:
            _fill(shape, block, conv, norm)
        offset += shape.floats
    network.heads_read = count == len(shapes) and not left_out
    notes = [_loaded(file, count, len(shapes))]
    if offset < floats.size:
        notes.append(f"{file}: {_LEFT_OUT}")
    if left_out and count == len(shapes):
        notes.append(f"{file}: its heads are of {written.classes} classes, not {config.classes}; new ones are drawn")
    if written.channels != config.channels:
        notes.append(f"{file}: the first convolution is adapted from {written.channels} to {config.channels} channels")
    return _said(notes)


def _loaded(file: str | Path, count: int, total: int) -> str:
    how = f"all {total}" if count == total else f"the first {count} of {total}"
    return f"{file}: {how} convolutions are read" + ("" if count == total else "; the others stay newly drawn")


def _said(notes: list[str]) -> list[str]:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for note in notes:
            log.warning(note)
    return notes


def _refuse_nonsense(shape: Shape, block: Floats, where: str) -> None:
    """A file that ends too early may have as many numbers as one of other classes; its variances then are weights."""
    variances = block[3 * shape.weight[0] : 4 * shape.weight[0]] if shape.normalised else block[:0]
    if not np.isfinite(block).all():
        wrong = "numbers that are not finite"
    elif variances.min(initial=0) < LOWEST_VARIANCE:
        wrong = f"a variance of {variances.min():.3g}"
    else:
        return
    raise UserError(f"weights: {where} has {wrong}: the file is damaged, ends too early, or is not of this .cfg")


def _fill(shape: Shape, block: Floats, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
    """Copies the numbers of one convolution into place."""
    out = shape.weight[0]
    for k, target in enumerate(_small(conv, norm)):
        _copy(target, block[k * out : (k + 1) * out])
    weight = block[block.size - int(np.prod(shape.weight)) :].reshape(shape.weight)
    if tuple(conv.weight.shape) == shape.weight:
        _copy(conv.weight, weight)
        return
    given = torch.from_numpy(np.array(weight, np.float32))
    conv.weight.detach().copy_(adapt_stem(given, conv.weight.shape[1]))


def _small(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> list[Tensor]:
    """What comes before the weights, in the order of the file."""
    if norm is None:
        assert conv.bias is not None
        return [conv.bias]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return [norm.bias, norm.weight, norm.running_mean, norm.running_var]


def _copy(target: Tensor, values: Floats) -> None:
    """By torch, whose count of a tensor's changes tells that copies of the network for prediction are outdated."""
    target.detach().copy_(torch.from_numpy(np.array(values, np.float32)))


def write_weights(network: DarknetYOLO, file: str | Path, seen: int = 0) -> Path:
    """Writes the whole network as Darknet, OpenCV and others read it; an earlier file stays whole until it is replaced.

    Readers add 1e-5 or 1e-6 to the variances; what the network's own `bn_eps` is beyond 1e-5 is written into them.

    Args:
        network: of any number of classes.
        file: to be written.
        seen: images that the header states; Darknet computes from it where a training goes on.
    """
    path = Path(file)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as opened:
        opened.write(np.array(VERSION, "<i4").tobytes() + seen.to_bytes(8, "little"))
        for _, conv, norm in network.convolutions():
            small = _small(conv, norm)
            if norm is not None and norm.eps > BN_EPS:
                small[3] = small[3] + (norm.eps - BN_EPS)
            for tensor in (*small, conv.weight):
                opened.write(np.ascontiguousarray(tensor.detach().float().cpu().numpy(), "<f4").tobytes())
    partial.replace(path)
    return path


# --- the same files into backbones of timm -------------------------------------------------------------------------
def plain_backbone_args(backbone_args: Mapping[str, Any] | None, weights: str | None) -> dict[str, Any] | None:
    """The arguments with the slope of Darknet's leaky ReLU, 0.1, where a .weights file is read and none is given."""
    given = dict(backbone_args or {})
    return {"slope": SLOPE, **given} if is_darknet_file(weights) else given or None


def load_backbone(backbone: nn.Module, file: str | Path, wholes: Sequence[DarknetConfig] | None = None) -> list[str]:
    """Reads the beginning of a .weights file into convolutions in the order of the modules, each with its norm.

    A first convolution of other channels is adapted as timm does.

    Args:
        backbone: such as timm's darknet53, whose order is Darknet's.
        file: as many numbers as the backbone takes (darknet53.conv.74), an ImageNet classifier's (darknet53.weights),
            or a whole file of one of `wholes`.
        wholes: networks of which some begin with this backbone; the file may be of any number of classes, and end after
            any convolution behind the backbone. None: yolov3 and yolov3-spp.

    Raises:
        UserError: numbers are missing, or left over in another way.
    """
    _, floats = open_weights(file)
    pairs = _pairs(backbone.modules())
    own = [Shape(_four(conv.weight.shape), norm is not None) for conv, norm in pairs]
    if wholes is None:
        wholes = [find_config(name) for name in ("yolov3", "yolov3-spp")]
    shapes, known = _shapes_in_file(own, floats.size, wholes)
    needed = sum(shape.floats for shape in shapes)
    left = floats.size - needed
    if left < 0 or (left and not known):
        wrong = f"{-left} are missing" if left < 0 else f"{left} are left over, and it is no whole file that we know"
        raise UserError(
            f"weights: {file} has {floats.size} numbers, but the backbone takes {needed}: {wrong}; give "
            "darknet53.conv.74, darknet53.weights or yolov3.weights with backbone: darknet53, or a YOLODetector the "
            "file's own .cfg as architecture"
        )
    offset = 0
    for k, (shape, (conv, norm)) in enumerate(zip(shapes, pairs, strict=True), 1):
        block = floats[offset : offset + shape.floats]
        _refuse_nonsense(shape, block, f"{file}: convolution {k}")
        _fill(shape, block, conv, norm)
        offset += shape.floats
    rest = f"; {left} numbers behind the backbone are left out" if left else ""
    if is_classifier(shapes, floats.size):
        rest = f"; {_LEFT_OUT}"
    return _said([f"{file}: {len(pairs)} convolutions of the backbone are read{rest}"])


def _shapes_in_file(own: list[Shape], total: int, wholes: Sequence[DarknetConfig]) -> tuple[list[Shape], bool]:
    """The backbone's convolutions as the file has them, and whether it is known what may stand behind them.

    The file's first convolution may take pictures of other channels: those of the .cfg.
    """
    for config in wholes:
        every = layout(config)
        if every[1 : len(own)] != own[1:]:
            continue
        ends = np.cumsum([shape.floats for shape in every])[len(own) - 1 :]
        classifier = is_classifier(every[: backbone_convolutions(config)], total)
        if total in ends or classifier or solved_classes(config, config.channels, total):
            return every[: len(own)], True
    return own, is_classifier(own, total)


def _pairs(modules: Iterable[nn.Module]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Convolutions in the order of the modules, each with the norm right after it."""
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]] = []
    for module in modules:
        if isinstance(module, nn.Conv2d):
            pairs.append((module, None))
        elif isinstance(module, nn.BatchNorm2d) and pairs:
            pairs[-1] = (pairs[-1][0], module)
    return pairs


def _four(shape: Any) -> tuple[int, int, int, int]:
    out, channels, height, width = shape
    return int(out), int(channels), int(height), int(width)
