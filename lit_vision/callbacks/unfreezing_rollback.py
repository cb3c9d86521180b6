"""Weights to come back to."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def kept(module: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of all parameters and buffers."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


@torch.no_grad()
def put_back(module: nn.Module, weights: Mapping[str, Tensor], optimizers: Iterable[Optimizer]) -> None:
    """Copies weights into the module, in place; the optimizers forget what they gathered on the way that failed."""
    for name, tensor in module.state_dict().items():
        tensor.copy_(weights[name])
    for optimizer in optimizers:
        optimizer.state.clear()
