"""A scheduler of the user's own: it keeps to the groups' rates, and its length is compared with the run's."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lit_vision.errors import UserError

LENGTHS = {"PolynomialLR": "total_iters", "CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps"}
AFTERWARDS = {"PolynomialLR": "the rate is 0", "CosineAnnealingLR": "the rate climbs again"}


def chosen_schedule(
    task: pl.LightningModule, optimizer: Optimizer, make: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]
) -> dict[str, Any]:
    """Lightning's description of the scheduler that a user chose.

    Args:
        task: a VisionTask: says how often the scheduler steps, and how long the run is.
        optimizer: its groups have their `lr_scale` applied.
        make: makes the scheduler.

    Raises:
        UserError: the scheduler ends before the run, and would then stop it, or takes a better metric for a worse.
    """
    scheduler, interval = make(optimizer), str(cast(Any, task).scheduler_interval)
    if isinstance(scheduler, OneCycleLR | CyclicLR):
        scale_cycle(scheduler)
    # A resumed schedule takes its length from the checkpoint, see `callbacks.continuing`.
    if type(scheduler).__name__ in LENGTHS and task._trainer is not None and task.trainer.ckpt_path is None:
        length = _length(task, interval)
        if length is not None:
            _compare_length(scheduler, interval, length)
    config: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
    if isinstance(scheduler, ReduceLROnPlateau):
        config["monitor"] = getattr(scheduler, "monitor", cast(Any, task).monitor)
        _check_mode(cast(Any, task), scheduler, config["monitor"])
    return config


def _check_mode(task: Any, scheduler: ReduceLROnPlateau, monitor: str) -> None:
    """Refuses to lower the rate where the task's own metric improves: torch's mode is min unless it is told."""
    if monitor == task.monitor and scheduler.mode != task.monitor_mode:
        higher = "higher" if task.monitor_mode == "max" else "lower"
        raise UserError(
            f"model.scheduler: ReduceLROnPlateau has mode {scheduler.mode}, but {monitor} is better where it is "
            f"{higher}: set mode: {task.monitor_mode}, or another monitor"
        )


def scale_cycle(scheduler: OneCycleLR | CyclicLR) -> None:
    """Gives each group of a schedule that brings its own rates those times its lr_scale, as the optimizer's would be.

    Args:
        scheduler: just made, over groups with an `lr_scale`.
    """
    groups = scheduler.optimizer.param_groups
    scales = [group["lr_scale"] for group in groups]
    for group, scale in zip(groups, scales, strict=True):
        for key in {"lr", "initial_lr", "max_lr", "min_lr"} & group.keys():
            group[key] *= scale
    for name in ("base_lrs", "max_lrs"):
        if hasattr(scheduler, name):
            rates = zip(getattr(scheduler, name), scales, strict=True)
            setattr(scheduler, name, [rate * scale for rate, scale in rates])


def _length(task: pl.LightningModule, interval: str) -> int | None:
    """How often the scheduler steps in the whole run; None where the run has no planned end."""
    trainer = task.trainer
    if interval == "epoch" and trainer.max_steps == -1:
        epochs = trainer.max_epochs
        return epochs if epochs is not None and epochs > 0 else None
    steps = trainer.estimated_stepping_batches
    if steps == math.inf or interval == "step":
        return None if steps == math.inf else int(steps)
    trainer.fit_loop.setup_data()  # where steps limit the run, Lightning has not counted the batches yet
    batches = trainer.num_training_batches
    return None if batches in (0, math.inf) else math.ceil(steps * trainer.accumulate_grad_batches / batches)


def _compare_length(scheduler: LRScheduler | ReduceLROnPlateau, interval: str, length: int) -> None:
    """Says where a schedule and the run do not end together; a cosine may reach its last rate one unit earlier."""
    kind = type(scheduler).__name__
    key = LENGTHS[kind]
    given = int(getattr(scheduler, key))
    if given == length or (kind == "CosineAnnealingLR" and given == length - 1):
        return
    unit = f"{interval}{'' if length == 1 else 's'}"
    said = f"model.scheduler: {kind} has {key} {given}, but the run has {length} {unit}"
    mend = f"set {key}: {length}"
    other = {"epoch": "step", "step": "epoch"}[interval]
    if kind == "OneCycleLR" and given < length:
        raise UserError(f"{said}, and it cannot go on after its end: {mend}")
    after = f"after {given} {AFTERWARDS[kind]}" if given < length else "the rate falls only a part of its way"
    rank_zero_info(f"{said}: {after}; {mend}, or scheduler_interval: {other} if that is what it counts")
