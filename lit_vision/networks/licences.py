"""The licence of pretrained weights, on its way from their source into checkpoints, whose weights grew from them."""

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from lit_vision.networks.backbones import preprocessing_of, weights_source
from lit_vision.networks.weights_file import stated_licence

UNSTATED = "no licence stated"


def licence_of(backbones: Iterable[nn.Module], pretrained: bool, *weights: str | None) -> str | None:
    """The licences under which a network's first weights stand, as far as their sources state them.

    Args:
        backbones: the parts that timm or torchvision made.
        pretrained: whether their weights were downloaded.
        weights: files of weights that were loaded; null ones do not count.

    Returns:
        Such as "apache-2.0 (timm/resnet18.a1_in1k)", several joined by "; "; None for random weights.
    """
    found = [_of_library(backbone) for backbone in backbones] if pretrained else []
    found += [_of_file(file) for file in weights if file is not None]
    return "; ".join(dict.fromkeys(found)) or None


def _of_library(backbone: nn.Module) -> str:
    return f"{preprocessing_of(backbone).licence or UNSTATED} ({weights_source(backbone)})"


def _of_file(file: str) -> str:
    return f"{stated_licence(file) or UNSTATED} ({Path(file).name})"
