"""What timm knows of a network by its name: its head, its first convolution, and how files name its tensors."""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_OLD_DENSE = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@dataclass(frozen=True)
class Config:
    """Module names of the classifier layers and of the first convolutions; empty where timm says nothing."""

    heads: tuple[str, ...]
    stems: tuple[str, ...]


def flat(name: str) -> str:
    """A tensor's name as it is compared: dots and underscores alike."""
    return name.replace(".", "_")


def pretrained_config(network: nn.Module) -> dict[str, Any]:
    """timm's description of the network, or of the one under `.model` in an encoder; empty where there is none."""
    inner = getattr(network, "model", None)
    found = getattr(network, "pretrained_cfg", None) or getattr(inner, "pretrained_cfg", None)
    return dict(found) if found else {}


def architecture(network: nn.Module) -> str:
    """timm's name of the network, else the name of its class."""
    return str(pretrained_config(network).get("architecture") or type(network).__name__)


def config_of(network: nn.Module) -> Config:
    """Names of the classifier and of the first convolution of a network that timm made."""
    config = pretrained_config(network)
    if config and "classifier" not in config:  # timm strips it from feature networks
        config = {**_description(architecture(network)), **config}
    return Config(_as_tuple(config.get("classifier")), _as_tuple(config.get("first_conv")))


def _description(name: str) -> dict[str, Any]:
    import timm

    found: Any = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return dict(found.to_dict()) if found is not None else {}


def _as_tuple(names: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def full_network(network: nn.Module) -> nn.Module | None:
    """The network with its head: itself, or for features and encoders a new one without memory; None if unknown."""
    import timm

    if hasattr(network, "get_classifier"):
        return network
    name = architecture(network)
    if not timm.is_model(name):
        return None
    return without_memory(timm.create_model, name)


def without_memory(create: Callable[..., nn.Module], name: str, **settings: Any) -> nn.Module:
    """A network by its name on the "meta" device, for names and shapes of its tensors; `settings` go to `create`."""
    try:
        with torch.device("meta"):
            return create(name, **settings)
    except (RuntimeError, NotImplementedError):  # a few networks compute with their tensors while they are built
        return create(name, **settings)


def checkpoint_filter(network: nn.Module) -> Callable[..., Mapping[str, Any]] | None:
    """The library's conversion of the authors' names and sizes for this network, where it has one."""
    if type(network).__module__ == "torchvision.models.densenet":
        return _renamed_densenet
    whole = full_network(network)
    module = sys.modules.get(type(whole).__module__)
    if whole is None or not type(whole).__module__.startswith("timm."):
        return None
    found: Callable[..., Mapping[str, Any]] | None = getattr(module, "checkpoint_filter_fn", None)
    return found


def _renamed_densenet(tensors: Mapping[str, Any], network: nn.Module | None) -> Mapping[str, Any]:
    """torchvision's own files still call norm1 `norm.1`."""
    return {_OLD_DENSE.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
