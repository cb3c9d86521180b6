"""The last layer of a pretrained network that was made for other classes, and so knows nothing yet."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lit_vision.networks.timm_names import config_of, pretrained_config

SPREAD = 0.01  # standard deviation, as torchvision draws SqueezeNet's and the heads of its detectors


def last_layers(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights of a network's last layers, by name; empty where it has none."""
    heads = tuple(f"{head}." for head in config_of(network).heads)
    named = network.named_parameters() if heads else ()
    return {name: parameter.detach().clone() for name, parameter in named if name.startswith(heads)}


def draw_new_head(network: nn.Module, before: Mapping[str, Tensor] | None = None) -> None:
    """Draws last layers that no weights were loaded into close to 0.

    A library draws them for training from scratch; timm's EfficientNets and MobileNets up to 1 / sqrt(K), with which
    two to ten classes begin at logits of many units. On top of good features that noise costs hundreds of steps, and
    a backbone that trains along is bent by it.

    Args:
        network: with its pretrained weights.
        before: its last layers as they were drawn; those still equal to them are new. None: timm or torchvision has
            loaded the weights, and has left the last layer out where the number of classes is another.
    """
    made_for = int(pretrained_config(network).get("num_classes") or 1000)
    for name, now in last_layers(network).items():
        new = len(now) != made_for if before is None else torch.equal(now, before[name])
        if new:
            parameter = network.get_parameter(name)
            nn.init.normal_(parameter, std=SPREAD) if now.ndim > 1 else nn.init.zeros_(parameter)
