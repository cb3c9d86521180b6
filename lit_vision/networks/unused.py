"""What of a network its output does not depend on: it costs time, and DDP waits for gradients that never come."""

from collections.abc import Iterator, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # networks go through them: they stay, their layers go


class Unused(nn.Module):
    """Stands where layers were whose results nobody takes: gives back its first input."""

    def forward(self, first: Any, *others: Any, **named: Any) -> Any:
        """Anything in, the first of it out."""
        return first


def drop_unused(network: nn.Module, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Takes out layers on which the output does not depend; what cannot be taken out does not train.

    The output stays equal to the bit. They are found on the "meta" device, without a number being computed.

    Args:
        network: maps images (B, C, H, W) to a tensor; changed in place.
        shape: (C, H, W) of an image that it takes.

    Returns:
        Shape of the output for a batch of one.

    Raises:
        Exception: of every kind, the network's own, where it does not take the image.
    """
    with torch.inference_mode(False), torch.enable_grad():
        output, own = _on_meta(network, shape)
        gradients = torch.autograd.grad(output.sum(), list(own.values()), allow_unused=True)
    names = [name for name, gradient in zip(own, gradients, strict=True) if gradient is None]
    unused = {id(network.get_parameter(name)) for name in names}
    layers = {path: network.get_submodule(path) for path in _layers(network, unused)}
    _put(network, dict.fromkeys(layers, Unused()))
    if layers and not _runs(network, shape, output.shape):
        _put(network, layers)
    for parameter in network.parameters():
        if id(parameter) in unused:
            parameter.requires_grad_(False)
    return tuple(output.shape)


def _put(network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, layer)


def _on_meta(network: nn.Module, shape: tuple[int, int, int]) -> tuple[Tensor, dict[str, Tensor]]:
    """The output for an image, and the parameters that it was made with."""
    training = network.training
    meta = {name: torch.empty_like(one, device="meta") for name, one in network.named_buffers()}
    own = {name: torch.empty_like(p, device="meta").requires_grad_() for name, p in network.named_parameters()}
    network.eval()
    try:
        output: Tensor = functional_call(network, {**meta, **own}, (torch.empty(1, *shape, device="meta"),))
    finally:
        network.train(training)
    return output, own


def _runs(network: nn.Module, shape: tuple[int, int, int], expected: torch.Size) -> bool:
    """Whether the network can do without the layers that were taken out: some are built round others' shapes."""
    try:
        return _on_meta(network, shape)[0].shape == expected
    except Exception:  # of every kind
        return False


def _layers(module: nn.Module, unused: Set[int], prefix: str = "") -> Iterator[str]:
    """Paths of the outermost modules, lists apart, of which all parameters are in `unused`."""
    for name, child in module.named_children():
        inside = [id(parameter) in unused for parameter in child.parameters()]
        if inside and all(inside) and not isinstance(child, _LISTS):
            yield prefix + name
        elif any(inside):
            yield from _layers(child, unused, f"{prefix}{name}.")
