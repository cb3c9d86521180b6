"""Less memory for more time: the blocks of a backbone keep their inputs alone, and compute the rest once more."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lit_vision.errors import UserError

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def recompute_blocks(backbone: nn.Module) -> None:
    """Makes the blocks of a backbone forget their activations after the forward pass and compute them once more.

    Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174). timm's own `set_grad_checkpointing`
    does it for whole stages of a features network, whose largest then lives at once, and lets batch normalisation see
    each batch twice. Here the results are those without it, running statistics included.

    Args:
        backbone: a network of timm; changed in place.

    Raises:
        UserError: it has no blocks in a list.
    """
    found = list(_blocks(backbone))
    if not found:
        raise UserError(f"grad_checkpointing: {type(backbone).__name__} has no blocks to recompute: leave it out")
    for block in found:
        # An attribute of the instance, not a wrapper: names in checkpoints and weight files stay.
        block.forward = partial(_forward, block)


def _blocks(network: nn.Module, listed: bool = False) -> Iterator[nn.Module]:
    """The outermost modules in a list (`listed`: the network is one) that hold convolutions or projections."""
    for child in network.children():
        is_list = isinstance(child, _LISTS)
        composed = next(child.children(), None) is not None
        if listed and composed and not is_list and any(parameter.ndim > 1 for parameter in child.parameters()):
            yield child
        else:
            yield from _blocks(child, is_list)


def _forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return type(block).forward(block, *args, **kwargs)
    kept, contexts = _copied(args), partial(_contexts, block)
    return checkpoint(partial(_run, block), *kept, use_reentrant=False, context_fn=contexts, **kwargs)


def _run(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return type(block).forward(block, *_copied(args), **kwargs)


def _copied(args: Sequence[Any]) -> list[Any]:
    """With lists copied: DenseNet's callers add to those that they gave, HRNet's blocks change those that they got."""
    return [list(one) if isinstance(one, list) else one for one in args]


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Round the forward pass, and round its repetition in the backward pass."""
    return nullcontext(), _still(block)


@contextmanager
def _still(block: nn.Module) -> Iterator[None]:
    """Running statistics stay as they are."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
