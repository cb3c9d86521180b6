"""Where Lightning's loops stand: written into a checkpoint so that they can be continued exactly, and continued so.

Lightning's own checkpoints are taken in the middle of things: after a step but before the validation that follows it,
before a ReduceLROnPlateau has seen the epoch's metric, before the rows of metrics.csv are written; what is missing is
left out on a restart. Those of lit_vision are taken between two steps, when all that follows from the first is over.
"""

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl

Moment = Literal["batch", "epoch", "end"]
PARTS = ("total", "current")


def as_boundary(state: dict[str, Any], moment: Moment, cut: bool = False) -> None:
    """Takes back what the loops have counted for a step or an epoch that has not begun yet.

    Args:
        state: checkpoint["loops"]["fit_loop"]; changed in place.
        moment: the hook that is running: on_train_batch_start, on_train_epoch_start or on_train_end.
        cut: the end came in the middle of an epoch; it is to be continued if the run is extended.
    """
    epochs, batches = state["epoch_progress"], state["epoch_loop.batch_progress"]
    for part in PARTS:
        if moment == "batch":
            batches[part]["ready"] -= 1
        elif moment == "epoch":
            epochs[part]["ready"] -= 1
        elif cut:
            epochs[part]["processed"] -= 1
            epochs[part]["completed"] -= 1
    if moment == "batch" or cut:
        batches["is_last_batch"] = False  # that was said of the next batch


def epochs_done(state: Mapping[str, Any]) -> int:
    """Completed epochs of checkpoint["loops"]["fit_loop"]."""
    return int(state["epoch_progress"]["current"]["completed"])


def steps_logged(state: Mapping[str, Any]) -> int:
    """The step that the next row of the loggers will have, from checkpoint["loops"]["fit_loop"]."""
    return int(state["epoch_loop.state_dict"].get("_batches_that_stepped", 0))


def ended_inside_epoch(trainer: pl.Trainer) -> bool:
    """Whether training ends with batches of the epoch left over, at an optimizer step."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return 0 < done < trainer.num_training_batches and done % trainer.accumulate_grad_batches == 0


def inside_epoch(trainer: pl.Trainer) -> bool:
    """Whether the restored progress stands in the middle of an epoch."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return bool(progress.ready != progress.processed)


def batches_done(trainer: pl.Trainer) -> int:
    """Batches of the current epoch that are over."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.completed)


def set_batches_done(trainer: pl.Trainer, count: int) -> None:
    """Lets the current epoch go on after so many batches; before the epoch's loop runs."""
    current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    current.ready = current.started = current.processed = current.completed = count


def go_on(trainer: pl.Trainer) -> Any:
    """Lets the loops go on from a boundary as if they had never stopped; to be called in on_train_start.

    While a loop thinks that it is restarting, Lightning leaves out the plateau schedulers at the end of the epoch,
    and repeats what follows a step at which a validation was due.

    Returns:
        The trainer's val_check_batch, to be put back by `first_batch`; None where nothing has to be.
    """
    fit: Any = trainer.fit_loop
    fit._restarting = False
    if not inside_epoch(trainer):
        fit.epoch_loop.restarting = False  # with max_steps Lightning would run an empty epoch first
        return None
    interval = trainer.val_check_batch
    if interval is not None:
        trainer.val_check_batch = float("inf")
    return interval


def first_batch(trainer: pl.Trainer, interval: Any) -> None:
    """Validations are due again; to be called at the first batch after `go_on`."""
    if interval is not None:
        trainer.val_check_batch = interval
