"""The mean and the standard deviation of pixels that a network's first weights expect."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lit_vision.networks.backbones import preprocessing_of, spread
from lit_vision.networks.darknet_file import is_darknet_file
from lit_vision.networks.weights_file import read_contents

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def statistics_for(backbone: nn.Module, in_channels: int, weights: str | None = None) -> Statistics:
    """Mean and standard deviation by channel, of pixels scaled to 0..1.

    Args:
        backbone: as timm or torchvision made it.
        in_channels: channels of the pictures.
        weights: the file of its weights; null = the library's own, or none.

    Returns:
        Those that a checkpoint of ours was trained with; 0 and 1 for a file of Darknet; else what the library states.
    """
    if is_darknet_file(weights):
        return (0.0,) * in_channels, (1.0,) * in_channels
    stated = _of_checkpoint(weights) if weights is not None and weights.endswith(".ckpt") else None
    if stated is not None:
        return spread(stated[0], in_channels), spread(stated[1], in_channels)
    expected = preprocessing_of(backbone, in_channels)
    return expected.mean, expected.std


def _of_checkpoint(file: str) -> tuple[Sequence[float], Sequence[float]] | None:
    content = read_contents(file)
    arguments: Mapping[str, Any] = content.get("hyper_parameters") or {}
    own = "lit_vision" in content and arguments.get("mean") and arguments.get("std")
    return (arguments["mean"], arguments["std"]) if own else None
