"""The moments at which a run can be cut: checkpoints are taken there, SIGTERM is obeyed, and a restart begins there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.callbacks.checkpointing import RunCheckpoints
from lit_vision.callbacks.continuing import check_schedulers, continue_data
from lit_vision.callbacks.seeding import StepSeeds
from lit_vision.callbacks.stopping import Stopped, StopSignal, end_launched, exit_code
from lit_vision.data.loader import EpochLoader
from lit_vision.errors import UserError
from lit_vision.runs import progress
from lit_vision.runs.checkpoints import RUN_KEY
from lit_vision.runs.epoch_means import Sums, add_sums, epoch_sums, own_sums
from lit_vision.runs.progress import Moment


class Boundaries(pl.Callback):
    """Cuts a run between two optimizer steps only, when a step and all that follows from it is over.

    What follows from a step are its validation, the schedulers, and the rows of the loggers. At such a boundary
    `RunCheckpoints` are asked whether to write, and a SIGTERM ends the run, on all processes at the same step. A run
    that is continued from there does what it would have done without the cut. This callback has to come first:
    before any other has begun the next step.
    """

    def __init__(self) -> None:
        self.signal = StopSignal()
        self._step = -1  # of the last boundary
        self._moment: Moment | None = None
        self._saved: dict[str, Any] | None = None
        self._interval: Any = None
        self._cut = False
        self._sums: Sums = {}

    # --- hooks --------------------------------------------------------------------------------------------------
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes SIGTERM from now on.

        Raises:
            UserError: another callback comes before this one.
        """
        if stage != "fit":
            return
        callbacks: list[pl.Callback] = cast(Any, trainer).callbacks
        for one in callbacks[: callbacks.index(self)]:
            if not isinstance(one, StepSeeds):
                raise UserError(f"Boundaries has to be the first of the callbacks, before {type(one).__name__}")
        for checkpoints in _own(trainer):
            checkpoints.expected = True
        self.signal.install(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives SIGTERM back."""
        self.signal.remove()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Gives SIGTERM back."""
        self.signal.remove()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Goes on from where a checkpoint was taken."""
        self._step, self._cut = trainer.global_step, False
        if self._saved is not None:
            self._go_on(trainer, self._saved)
            self._saved = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Between two epochs."""
        self._arrive(trainer, "epoch")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps of an epoch; not between two batches of one step."""
        progress.first_batch(trainer, self._interval)
        self._interval = None
        if batch_idx > 0 and trainer.global_step > self._step:
            self._arrive(trainer, "batch")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """An epoch's means include what was logged before the cut."""
        if self._sums:
            self._sums = add_sums(trainer, self._sums)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What has not been logged again belongs to no other epoch."""
        self._sums = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the last step."""
        self._cut = progress.ended_inside_epoch(trainer)
        self._arrive(trainer, "end")

    # --- at a boundary ------------------------------------------------------------------------------------------
    def _arrive(self, trainer: pl.Trainer, moment: Moment) -> None:
        self._step, self._moment = trainer.global_step, moment
        own = _own(trainer)
        stop, late = _on_any(trainer, self.signal.received, any(one.late() for one in own))
        stop = stop and moment != "end"  # there is nothing left to stop
        for one in own:
            one.at_boundary(trainer, moment, late, stop)
        self._moment = None
        if stop:
            rank_zero_info(_farewell(trainer, own))
            raise Stopped(exit_code(trainer))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds what a restart has to know, and brings the progress into the state of a boundary."""
        loops = checkpoint["loops"]["fit_loop"]
        if self._moment is not None:
            progress.as_boundary(loops, self._moment, self._cut)
            if self._moment != "batch":
                checkpoint["epoch"] -= 1  # the epoch that was trained last, as in Lightning's own
        loader, data = trainer.train_dataloader, None
        if isinstance(loader, EpochLoader) and loader.continuable:
            seen = loader.seen(loops["epoch_loop.batch_progress"]["current"]["completed"])
            data = {**loader.facts(), "seen": seen}
        # Not trainer.callback_metrics, which would compute the epoch's means now.
        metrics = cast(Any, trainer)._logger_connector._callback_metrics
        checkpoint[RUN_KEY] = {
            "boundary": self._moment is not None,
            "finished": _limits(trainer) if self._moment == "end" else None,
            "data": data,
            "sums": epoch_sums(trainer),
            "metrics": {name: value.detach().cpu() for name, value in metrics.items() if value.ndim == 0},
        }

    # --- a restart ----------------------------------------------------------------------------------------------
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps what the restart has to know until training begins."""
        self._saved = checkpoint.get(RUN_KEY)

    def _go_on(self, trainer: pl.Trainer, saved: Mapping[str, Any]) -> None:
        loader = trainer.train_dataloader
        if saved["data"] is not None and isinstance(loader, EpochLoader) and loader.continuable:
            continue_data(trainer, loader, saved["data"], saved["boundary"])
        if saved["boundary"]:
            self._interval = progress.go_on(trainer)
        device = trainer.strategy.root_device
        trainer.callback_metrics.update({name: value.to(device) for name, value in saved["metrics"].items()})
        self._sums = own_sums(saved["sums"], trainer)
        check_schedulers(trainer)


def _own(trainer: pl.Trainer) -> list[RunCheckpoints]:
    return [one for one in trainer.checkpoint_callbacks if isinstance(one, RunCheckpoints)]


def _on_any(trainer: pl.Trainer, *flags: bool) -> tuple[bool, ...]:
    """Which of these flags any process has set, the same on all."""
    if trainer.world_size == 1:
        return flags
    counts = torch.tensor([float(flag) for flag in flags], device=trainer.strategy.root_device)
    counts = cast(torch.Tensor, trainer.strategy.reduce(counts, reduce_op="sum"))
    return tuple(bool(count) for count in counts.tolist())


def _limits(trainer: pl.Trainer) -> dict[str, Any]:
    early = bool(trainer.should_stop)
    return {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps, "early": early}


def _farewell(trainer: pl.Trainer, own: list[RunCheckpoints]) -> str:
    folder = trainer.default_root_dir
    if own and own[0].saved_step is not None:
        return f"stopped at step {own[0].saved_step}, continue with `lit-vision fit --resume {folder}`"
    if trainer.global_step == 0:
        return "stopped before the first step; nothing was there to be kept"
    return f"stopped at step {trainer.global_step}; nothing was written, because there are no RunCheckpoints"


@contextmanager
def all_end(trainer: pl.Trainer) -> Iterator[None]:
    """Inside runs a training; when it fails or is stopped, the processes that were launched for it end, too.

    Raises:
        Stopped: in place of the error that a process gets when another one has obeyed a SIGTERM before it.
    """
    try:
        yield
    except BaseException as error:
        callbacks: list[pl.Callback] = cast(Any, trainer).callbacks
        terminated = any(isinstance(one, Boundaries) and one.signal.received for one in callbacks)
        end_launched(trainer, seconds=10)
        if terminated and isinstance(error, RuntimeError):
            rank_zero_info("SIGTERM: another process ended first; checkpoints are as they were written before")
            raise Stopped from error
        raise
