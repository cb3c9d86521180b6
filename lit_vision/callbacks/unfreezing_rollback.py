"""A state of the training to come back to: weights, their averages, and what the optimizers have gathered."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

Kept = dict[str, Any]  # "weights", "averages", "optimizers": plain, whole tensors on the CPU


def kept(trainer: pl.Trainer, module: nn.Module) -> Kept:
    """A copy on the CPU of all parameters and buffers, their averages and the optimizers' state.

    To be called by all processes. Buffers are rank 0's, as in a checkpoint: so a restart in between changes nothing.
    """
    return {
        "weights": _copied(module),
        "averages": [_copied(average) for average in _averages(trainer)],
        "optimizers": [_gathered(optimizer) for optimizer in trainer.optimizers],
    }


@torch.no_grad()
def put_back(trainer: pl.Trainer, module: nn.Module, state: Kept) -> None:
    """Copies a state into module, averages and optimizers; learning rates stay as the schedule has them now."""
    for target, values in zip((module, *_averages(trainer)), (state["weights"], *state["averages"]), strict=True):
        for name, tensor in target.state_dict().items():
            tensor.copy_(_divided(values[name], tensor))
    for optimizer, moments in zip(trainer.optimizers, state["optimizers"], strict=True):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        mine = {k: _each(of, partial(_divided, like=parameters[k])) for k, of in moments.items()}
        optimizer.load_state_dict({"state": mine, "param_groups": optimizer.state_dict()["param_groups"]})


def _averages(trainer: pl.Trainer) -> Iterator[nn.Module]:
    for callback in cast(Any, trainer).callbacks:
        if isinstance(callback, WeightAveraging):
            assert callback._average_model is not None  # made in setup
            yield callback._average_model


@torch.no_grad()
def _copied(module: nn.Module) -> dict[str, Tensor]:
    copies = {name: _whole(tensor) for name, tensor in module.state_dict().items()}
    if distributed.is_available() and distributed.is_initialized():
        for name, buffer in module.named_buffers():
            if name in copies:
                copies[name] = _of_rank_0(copies[name].to(buffer.device)).cpu()
    return copies


def _of_rank_0(tensor: Tensor) -> Tensor:
    distributed.broadcast(tensor, 0)
    return tensor


def _gathered(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    states: Mapping[int, Mapping[str, Any]] = optimizer.state_dict()["state"]
    return {k: _each(of, _whole) for k, of in states.items()}


def _each(state: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {name: change(value) if isinstance(value, Tensor) else value for name, value in state.items()}


def _whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU; of a tensor that is divided among the processes (FSDP2), all of it."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().to("cpu", copy=True)


def _divided(whole: Tensor, like: Tensor) -> Tensor:
    """A copy, divided among the processes where `like` is and has the same shape."""
    if isinstance(like, DTensor) and like.shape == whole.shape:
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
    return whole.clone()
