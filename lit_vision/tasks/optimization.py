"""Parameter groups and the default schedule: every parameter is in the optimizer from the first step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_vision.errors import UserError
from lit_vision.networks.stages import Stages

WARMUP = 0.05  # share of the run, of the default schedule


def parameter_groups(module: nn.Module, stages: Stages, lr_decay: float = 1.0) -> list[dict[str, Any]]:
    """Groups for an optimizer: the head first, then one per stage of each backbone, each split in decay / no-decay.

    Frozen parameters are in their group too: without a gradient the optimizer passes them over, and no group ever
    has to be added when a stage opens, so schedulers and resume need nothing special.

    Args:
        module: all its parameters are grouped, each once, but for those that never train.
        stages: of its backbones, as `networks.stages.divide` gives them.
        lr_decay: stage i has the learning rate lr * lr_decay ** (i + 1); the head has lr.

    Returns:
        Dicts with params, name and lr_scale; no-decay groups also have weight_decay 0.
    """
    named = dict(module.named_parameters())
    staged = {name for names in (*stages.names, stages.never) for name in names}
    buckets = [("head", 0, [name for name in named if name not in staged])]
    for prefix, slices in stages.by_backbone.items():
        buckets += [(f"{prefix}/stage{depth}", depth + 1, names) for depth, names in enumerate(slices)]
    groups: list[dict[str, Any]] = []
    for bucket, depth, names in buckets:
        for kind, decays in (("decay", True), ("no_decay", False)):
            chosen = [named[name] for name in names if _decays(name, named[name]) is decays]
            if chosen:
                group: dict[str, Any] = {"params": chosen, "name": f"{bucket}/{kind}", "lr_scale": lr_decay**depth}
                groups.append(group if decays else {**group, "weight_decay": 0.0})
    return groups


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith("bias")


def check_optimization(warmup: float, lr_decay: float, scheduler_interval: str, scheduled: bool = False) -> None:
    """Refuses settings with which a training makes no sense.

    Args:
        warmup: share of the run.
        lr_decay: factor by stage.
        scheduler_interval: of a scheduler of the user's own.
        scheduled: whether there is one, which knows nothing of `warmup`.

    Raises:
        UserError: one is out of its range, or has no effect.
    """
    if not 0 <= warmup < 1:
        raise UserError(f"model.warmup is {warmup}: give a share of the run, from 0 to below 1")
    if scheduled and warmup not in (0, WARMUP):
        raise UserError(
            f"model.warmup is {warmup}, but only the default schedule warms up, and model.scheduler takes its place: "
            "leave one of them out"
        )
    if not 0 < lr_decay < math.inf:
        raise UserError(f"model.lr_decay is {lr_decay}: give a factor above 0, such as 0.8; 1 is the same rate for all")
    if scheduler_interval not in ("epoch", "step"):
        raise UserError(f"model.scheduler_interval is {scheduler_interval}: give epoch or step")


def scale_learning_rates(optimizer: Optimizer) -> None:
    """Multiplies each group's learning rate by its lr_scale, once, before a scheduler reads it."""
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]


def fuse(optimizer: Optimizer) -> None:
    """Lets Adam, AdamW and SGD of torch take their step in one pass over all parameters, unless they are told how.

    On a CPU torch would else take several passes over each parameter by itself, five to ten times as long. It becomes a
    setting of the groups alone: told in the constructor, the optimizer would unscale float16 gradients by itself, and
    Lightning would refuse to clip them.
    """
    groups = optimizer.param_groups
    told = any(group.get(key) for group in groups for key in ("foreach", "capturable", "differentiable"))
    told = told or any(group.get(key) is False for group in groups for key in ("foreach", "fused"))
    if type(optimizer) not in (Adam, AdamW, SGD) or told:
        return
    parameters = [parameter for group in groups for parameter in group["params"]]
    if all(_is_fusible(parameter) for parameter in parameters):
        for settings in (optimizer.defaults, *groups):  # the defaults are for groups that are added later
            settings["fused"] = True
        optimizer.register_load_state_dict_post_hook(_align)


def _align(optimizer: Optimizer) -> None:
    """Puts the state in the order of its parameters in memory, which torch's one pass on a CPU takes for granted.

    Another one comes from a checkpoint that was written with another `channels_last`.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _is_fusible(parameter: nn.Parameter) -> bool:
    plain = not isinstance(parameter, DTensor)  # FSDP2's may lie beside plain ones, which one pass cannot take together
    return plain and parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: float = WARMUP, final: float = 0.01) -> LambdaLR:
    """Linear warm-up over a share of the steps, then half a cosine down to `final` times the learning rate.

    Args:
        optimizer: its groups' rates are the highest of each.
        steps: optimizer steps of the whole run.
        warmup: share of the steps, in [0, 1).
        final: last factor (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts).
    """
    rise = max(round(steps * warmup), 1)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        progress = min((step - rise) / max(steps - rise, 1), 1.0)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def as_channels_last(module: nn.Module) -> None:
    """Puts the 4-D parameters in channels_last order, which CPUs and GPUs convolve fastest."""
    module.to(memory_format=torch.channels_last)


def row_major(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict whose tensors are in row-major order: torch hands others to FSDP2's processes as other weights."""
    return {name: value.contiguous() if isinstance(value, Tensor) else value for name, value in state.items()}
