"""The run's checkpoints: the best, the last and the one before it, each replaced in one step."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from torch.optim import Optimizer

from lit_vision.errors import UserError
from lit_vision.runs.progress import Moment


class RunCheckpoints(ModelCheckpoint):
    """Writes best.ckpt, last.ckpt and previous.ckpt (what last.ckpt was before) into <run folder>/checkpoints.

    All are taken where `Boundaries` finds that a run can be cut, so that each can be continued exactly; a kill in the
    middle of writing leaves the old file.

    Args:
        monitor: metric that decides on best.ckpt; null = the task's own.
        mode: whether the best is the "min" or the "max" of it; null = the task's own.
        every_n_epochs: write last.ckpt after every so many epochs.
        every_n_train_steps: and after every so many optimizer steps.
        every_n_minutes: and at the first step after so many minutes.
        dirpath: another folder.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        every_n_epochs: int = 1,
        every_n_train_steps: int | None = None,
        every_n_minutes: float | None = None,
        dirpath: str | None = None,
    ) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("every_n_train_steps", every_n_train_steps)):
            if value is not None and value < 1:
                raise UserError(f"RunCheckpoints: {name} is {value}, but must be at least 1")
        if every_n_minutes is not None and every_n_minutes < 0:
            raise UserError(f"RunCheckpoints: every_n_minutes is {every_n_minutes}, but must not be negative")
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode or "min",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self._given_mode = mode
        self.epochs, self.steps, self.minutes = every_n_epochs, every_n_train_steps, every_n_minutes
        self.saved_step: int | None = None  # of last.ckpt
        self._saved_epochs = -1
        self._written = time.monotonic()
        self._last_is_whole = False
        self._validated = False
        self._best_now: str | None = None  # best.ckpt, where this boundary has written it
        self.expected = False  # by Boundaries, which says when to write

    @property
    def state_key(self) -> str:
        """One per run, however its options change."""
        return type(self).__qualname__

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes the task's metric where none was given; removes what a killed run has left half written.

        Raises:
            UserError: nothing would ever be written.
        """
        if stage == "fit" and not self.expected:
            raise UserError("RunCheckpoints needs Boundaries as the first of the callbacks")
        if stage == "fit":
            refuse_parts(trainer.strategy)
            refuse_late_averages(trainer.callbacks)  # type: ignore[attr-defined]  # Lightning annotates no attribute
        if trainer.limit_val_batches != 0:
            self._choose(str(getattr(pl_module, "monitor", "val/loss")), str(getattr(pl_module, "monitor_mode", "min")))
        if self.dirpath is None:
            self.dirpath = os.path.realpath(os.path.join(trainer.default_root_dir, "checkpoints"))
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero:
            for partial in Path(self.dirpath).glob("*.partial"):
                partial.unlink(missing_ok=True)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lets FSDP take an optimizer's state from its own checkpoints only; Lightning has no hook before it."""
        if not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            return
        strategy: Any = trainer.strategy
        load = strategy.load_checkpoint

        def load_checkpoint(path: str | Path, *args: Any, **options: Any) -> Any:
            if trainer.state.fn == "fit" and Path(path).is_file():  # a test after it has no optimizer
                check_order(pl_module, trainer.optimizers, path)
            return load(path, *args, **options)

        strategy.load_checkpoint = load_checkpoint

    def _choose(self, monitor: str, mode: str) -> None:
        if self.monitor not in (None, monitor) and self._given_mode is None:
            raise UserError(f"RunCheckpoints: {self.monitor} is to be monitored, but mode is not given: min or max")
        self.monitor, self.mode = self.monitor or monitor, self._given_mode or mode
        self.kth_value = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)

    # --- when ---------------------------------------------------------------------------------------------------
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that goes on has its checkpoint already."""
        self._written = time.monotonic()
        if trainer.global_step > 0:
            self.saved_step, self._saved_epochs = trainer.global_step, trainer.current_epoch
        # One that this run has not been continued from may be damaged: it must not take the place of a whole one.
        self._last_is_whole = Path(str(trainer.ckpt_path or "")).name == "last.ckpt"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Whether it was the best is decided at the next boundary."""
        self._validated = not trainer.sanity_checking and trainer.state.fn == "fit"

    def on_train_batch_end(self, *_: Any) -> None:
        """Nothing: a validation may follow, see `at_boundary`."""

    def on_train_epoch_end(self, *_: Any) -> None:
        """Nothing: schedulers may follow, see `at_boundary`."""

    def on_train_end(self, *_: Any) -> None:
        """Nothing, see `at_boundary`."""

    def late(self) -> bool:
        """Whether the time for the next last.ckpt has come, by this process's clock."""
        return self.minutes is not None and time.monotonic() - self._written >= 60 * self.minutes

    def at_boundary(self, trainer: pl.Trainer, moment: Moment, late: bool, stop: bool) -> None:
        """Writes what is due, on all processes alike.

        Args:
            trainer: between two steps.
            moment: "batch", "epoch" or "end".
            late: whether `late` on any process.
            stop: the run ends here.
        """
        if getattr(trainer, "fast_dev_run", False):
            return
        epochs, step = trainer.current_epoch, trainer.global_step
        due = stop or late or moment == "end" or (moment == "epoch" and epochs % self.epochs == 0)
        due = due or (self.steps is not None and step % self.steps == 0)
        due = due and step > 0 and (step, epochs) != (self.saved_step, self._saved_epochs)
        assert self.dirpath is not None
        if due:  # before best.ckpt, which may become last.ckpt as well
            self.last_model_path = str(Path(self.dirpath, "last.ckpt"))
        self._best_now = None
        if self._validated and self.monitor is not None:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        self._validated = False
        if due:
            self._save_last(trainer)
            self.saved_step, self._saved_epochs = step, epochs

    # --- what ---------------------------------------------------------------------------------------------------
    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._best_now = filepath

    def _save_last(self, trainer: pl.Trainer) -> None:
        """Writes last.ckpt; where best.ckpt has just been written it holds the same, and gets the second name."""
        last = Path(self.last_model_path)
        if trainer.is_global_zero and self._last_is_whole and last.exists():
            keep_as(last, last.with_name("previous.ckpt"))
        if self._best_now is None:
            self._save_checkpoint(trainer, str(last))
        elif trainer.is_global_zero:
            also_as(Path(self._best_now), last)
        self._written, self._last_is_whole = time.monotonic(), True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues; a run folder may have been moved or copied since."""
        super().load_state_dict(self._moved(state_dict))

    def _moved(self, state: Mapping[str, Any]) -> dict[str, Any]:
        folder = str(self.dirpath)

        def here(path: str) -> str:
            return os.path.join(folder, os.path.basename(path)) if path else path

        paths = {name: here(state[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state["best_k_models"].items()}
        return {**state, **paths, "best_k_models": best, "dirpath": self.dirpath}


def refuse_late_averages(callbacks: Sequence[Callback]) -> None:
    """Lets an average of the weights begin with the first step only.

    Until it begins Lightning validates and saves a copy of the weights as they were before the training.

    Raises:
        UserError: it is to begin later.
    """
    for callback in callbacks:
        if isinstance(callback, EMAWeightAveraging):
            for name in ("update_starting_at_step", "update_starting_at_epoch"):
                if getattr(callback, name):
                    raise UserError(
                        f"EMAWeightAveraging: {name} is {getattr(callback, name)}, but until then validation and "
                        "checkpoints would hold the weights of the start: leave it out, and the average begins at once"
                    )


def refuse_parts(strategy: Strategy) -> None:
    """Raises UserError for a strategy that divides a checkpoint over several files."""
    if isinstance(strategy, ModelParallelStrategy) and strategy._save_distributed_checkpoint:
        option = "save_distributed_checkpoint: false"
    elif isinstance(strategy, FSDPStrategy) and strategy._state_dict_type == "sharded":
        option = "state_dict_type: full"
    else:
        return
    raise UserError(
        f"{type(strategy).__name__} would write each checkpoint as a folder of parts, which a kill leaves torn "
        f"and which --resume cannot read: set {option}"
    )


def check_order(module: torch.nn.Module, optimizers: Sequence[Optimizer], checkpoint: str | Path) -> None:
    """Whether FSDP can give an optimizer's state in a checkpoint to the parameters that it belongs to.

    Lightning's FSDP numbers parameters in the order of the network, any other run in that of the optimizer's groups: a
    state would go to other parameters, in silence where the shapes agree.

    Args:
        module: with all the parameters, divided over the processes.
        optimizers: of the run that goes on.
        checkpoint: a file that it goes on from.

    Raises:
        UserError: the state is numbered in another order.
    """
    place = {id(parameter): k for k, parameter in enumerate(module.parameters())}
    here = [[[place[id(one)] for one in group["params"]] for group in own.param_groups] for own in optimizers]
    states = torch.load(checkpoint, "cpu", weights_only=True, mmap=True)["optimizer_states"]
    if here != [[group["params"] for group in own["param_groups"]] for own in states]:
        raise UserError(
            f"{checkpoint} was written by a training that did not divide its network, and FSDP would take its "
            "optimizer's state for that of other weights: go on with the strategy of that run, or begin a new one from "
            "it (model.start_from)"
        )


def keep_as(file: Path, other: Path) -> None:
    """Gives a file a second name, in place of what had it, so that neither name is missing at any moment."""
    try:
        _link(file, other)
    except OSError:  # no hard links here, or a checkpoint of several files
        if other.is_dir():
            shutil.rmtree(other)
        file.replace(other)


def also_as(file: Path, other: Path) -> None:
    """As `keep_as`, and where there are no hard links the file is copied."""
    try:
        _link(file, other)
    except OSError:
        partial = other.with_name(f"{other.name}.partial")
        shutil.copyfile(file, partial)
        partial.replace(other)


def _link(file: Path, other: Path) -> None:
    partial = other.with_name(f"{other.name}.partial")
    partial.unlink(missing_ok=True)
    os.link(file, partial)
    partial.replace(other)
