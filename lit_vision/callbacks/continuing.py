"""What a run that is continued has to have in common with its first part, and what is said where it has not."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.data.loader import EpochLoader
from lit_vision.errors import UserError
from lit_vision.runs import progress


def continue_data(trainer: pl.Trainer, loader: EpochLoader, before: Mapping[str, Any], exact: bool) -> None:
    """Continues the epoch's order of images, also with another batch size or number of processes.

    Args:
        trainer: with its progress restored, before the epoch's loop runs.
        loader: of this run.
        before: facts of the loader that wrote the checkpoint, and the images `seen` of its epoch.
        exact: the checkpoint was taken at a boundary.

    Raises:
        UserError: the checkpoint stands in the middle of an epoch over other images, or in another order.
    """
    now, inside = loader.facts(), progress.inside_epoch(trainer)
    others = [_difference(name, before[name], now[name]) for name in ("images", "files", "seed")]
    other = next((sentence for sentence in others if sentence), None)
    if other and inside:
        raise UserError(f"the run was cut in the middle of an epoch, which cannot be continued: {other}")
    if other:
        rank_zero_info(f"continuing with a difference: {other}")
    kinds = {"processes": "number of processes", "batch_size": "batch size"}
    changed = [f"{text} {before[name]} -> {now[name]}" for name, text in kinds.items() if before[name] != now[name]]
    if changed:
        rank_zero_info(f"continuing with another {', '.join(changed)}: not bit for bit what an uncut run does")
    if inside and changed and not exact:
        raise UserError("this checkpoint can be continued with the same batch size and processes only; take last.ckpt")
    if inside and exact:
        done = loader.go_on(trainer.current_epoch, before["seen"])
        progress.set_batches_done(trainer, done)
        whole = trainer.accumulate_grad_batches
        if done % whole:
            left = whole - done % whole
            rank_zero_info(f"the first optimizer step of this epoch's rest takes {left} instead of {whole} batches")


def _difference(name: str, before: Any, now: Any) -> str | None:
    if before == now:
        return None
    if name == "files":
        return "the training split holds other files than when it began"
    if name == "images":
        return f"the training split had {before} images when it began, and has {now} now"
    return f"data.seed was {before} when it began, and is {now} now"


def check_schedulers(trainer: pl.Trainer) -> None:
    """Refuses to extend a run whose schedule ends with the run that was planned.

    Raises:
        UserError: the schedule has fewer steps than the run.
    """
    total = trainer.estimated_stepping_batches
    for config in trainer.lr_scheduler_configs:
        planned = getattr(config.scheduler, "total_steps", None)
        if config.interval == "step" and isinstance(planned, int) and total > planned:
            name = type(config.scheduler).__name__
            raise UserError(f"{name} was planned for {planned} steps and cannot be extended to {total}")
