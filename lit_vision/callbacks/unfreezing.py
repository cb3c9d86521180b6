"""Thaws a pretrained network stage by stage, on any number of processes and across restarts."""

from collections.abc import Mapping
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.optim import Optimizer

from lit_vision.callbacks.ddp import check_strategy, rebuild_ddp, wrapped_by_ddp
from lit_vision.callbacks.rank_check import RankCheck
from lit_vision.callbacks.unfreezing_checks import (
    allow_graphs,
    check_company,
    check_optimizers,
    check_stages,
    epochs_of,
    expect_evaluation_mode,
    restore_before_moments,
    steps_of,
    trainable,
    value_of,
)
from lit_vision.callbacks.unfreezing_record import UnfreezingRecord
from lit_vision.callbacks.unfreezing_rollback import Kept, kept, put_back
from lit_vision.callbacks.unfreezing_schedule import Gain, Plateau, Schedule, Unit, even_schedule, openings
from lit_vision.callbacks.unfreezing_strategy import check_alone, recipe_of
from lit_vision.errors import UserError
from lit_vision.networks.freezing import freeze_parameters, norms_of
from lit_vision.networks.stages import Stages, divide
from lit_vision.tasks.base import VisionTask
from lit_vision.transfer.strategies import PARTS, Strategy

STATE_VERSION = 2


class ProgressiveUnfreezing(pl.Callback):
    """Trains the head first and opens the backbone's stages one after the other, the one nearest the head first.

    Closed stages have no gradients, their normalisation layers stand still, and no process sends anything for them.
    All parameters are in the optimizer from the start, so schedulers and restarts need nothing special. Under DDP
    the reducer is built anew at each opening; what is open depends on the run's progress alone, or on a metric of
    rank 0 that all processes are told.

    Args:
        at: when stage 0, 1, ... opens; null = evenly over the run, in which the head has the first part to itself.
            A stage without a time stays closed.
        unit: of `at`: "epoch" (from 0), "step" (of the optimizer), or "fraction" of the run.
        plateau: open the next stage when a metric has stopped improving, instead of at given times.
        gain: take back a stage that does not improve a metric, and open no other.
        stages: regular expressions on the backbone's parameter names, one for each stage, head first; null = the
            network's own stages (see `networks/stages.py`). Of two networks "network" and "border_network" mean one.
        max_stages: merge neighbouring stages until there are no more than this many.
        never: regular expressions on the backbone's parameter names; these never train.
        lr_decay: factor on the learning rate for each stage farther from the head; null = the model's.
        check_ranks: compare the trainable parameters of all processes at each opening.
        measure: log gradient norms and the distance from the pretrained weights by stage (keeps a copy on the CPU).
        strategy: one of the textbook's four, or "auto" = as a measurement on the data suggests (see docs/transfer.md);
            it takes the place of `at`, `plateau`, `stages` and `max_stages`.
    """

    def __init__(
        self,
        at: list[float] | None = None,
        unit: Unit = "epoch",
        plateau: Plateau | None = None,
        gain: Gain | None = None,
        stages: list[str] | None = None,
        max_stages: int | None = None,
        never: list[str] | None = None,
        lr_decay: float | None = None,
        check_ranks: bool = True,
        measure: bool = True,
        strategy: Strategy | None = None,
    ) -> None:
        check_alone(strategy, at=at, plateau=plateau, stages=stages, max_stages=max_stages)
        if plateau is not None and at is not None:
            raise UserError("ProgressiveUnfreezing: give at or plateau, not both: each says when stages open")
        self.schedule = None if at is None else Schedule(at, unit)
        self.plateau, self.gain = plateau, gain
        self.patterns, self.max_stages, self.never = stages, PARTS if strategy else max_stages, never or []
        self.strategy = strategy
        self.lr_decay, self.check_ranks, self.measure = lr_decay, check_ranks, measure
        self.open = 0  # number of open stages
        self.stopped = False  # a stage was taken back: no other opens
        self._wanted = 0  # stages asked for by a plateau or by open_stage
        self._best: Kept = {}
        self._held: list[str] = []
        self._fixed: set[str] = set()  # what the network itself keeps from training
        self._reduced: set[str] = set()
        self.stages: Stages
        self._module: pl.LightningModule
        self.record: UnfreezingRecord

    def open_stage(self, stage: int) -> None:
        """Asks for a stage, and all those nearer the head, to be open from the next batch on.

        To be called on all processes alike. After `gain` has taken a stage back, nothing opens.
        """
        if not 0 <= stage < len(self.stages.names):
            raise UserError(f"stage {stage} does not exist: there are {len(self.stages.names)}, counted from 0")
        self._wanted = max(self._wanted, stage + 1)

    # --- set-up -------------------------------------------------------------------------------------------------
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Divides the backbones and freezes them, before DDP wraps the module and the optimizer is made."""
        if stage != "fit":
            return
        check_strategy(trainer.strategy, takes_back=self.gain is not None)
        check_company(cast(Any, trainer).callbacks, pl_module)
        backbones = cast(Mapping[str, nn.Module], pl_module.backbones)
        self.stages = divide(backbones, self.patterns, self.max_stages, self.never, pl_module)
        if self.strategy is not None:
            recipe = recipe_of(self.strategy, trainer, pl_module)
            self.schedule = Schedule(recipe.at[: len(self.stages.names)], "fraction")
            self.lr_decay = recipe.lr_decay if self.lr_decay is None else self.lr_decay
        if self.schedule is not None and len(self.schedule.times) > len(self.stages.names):
            raise UserError(f"ProgressiveUnfreezing: at has more times than the {len(self.stages.names)} stages")
        allow_graphs(pl_module, len(self.stages.names))
        if getattr(self, "_module", None) is not pl_module:
            self._fixed = {name for name, parameter in pl_module.named_parameters() if not parameter.requires_grad}
        self._module = module = cast(Any, pl_module)
        module.stages = self.stages  # configure_optimizers makes its groups by them, with these learning rates
        if self.lr_decay is not None:
            module.lr_decay = self.lr_decay
        self.record = UnfreezingRecord(self.stages, pl_module, self.measure)
        self._apply()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remembers what DDP reduces, and checks that the optimizer holds all that is going to open."""
        if trainer.strategy.restore_checkpoint_after_setup:
            restore_before_moments(trainer.strategy, self)
        self._reduced = trainable(pl_module)
        check_optimizers(trainer.optimizers, pl_module, self._fixed | set(self.stages.never))
        expect_evaluation_mode(pl_module, self._held)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The table of stages; then what is due already, as after a restart."""
        if self.schedule is None and self.plateau is None:
            self.schedule = even_schedule(len(self.stages.names), epochs_of(trainer))
        if not self.record.history:
            self.record.add(trainer, self.open, "start")
        self.record.show(trainer, openings(self.schedule, len(self.stages.names)))
        self._apply()
        self._follow(trainer)

    # --- progress -----------------------------------------------------------------------------------------------
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens what this epoch opens; user code may have called .train() on norms that must stand still."""
        self._apply()
        self._follow(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Opens what this step opens, never between two batches of one optimizer step."""
        if batch_idx % trainer.accumulate_grad_batches == 0 and self._due(trainer) > self.open:
            self._follow(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lets the metric decide; its value is rank 0's, so that all processes do the same."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.plateau is not None:
            value, mode = value_of(trainer, self.plateau.monitor, self.plateau.mode)
            if self.plateau.update(value, mode):
                self._wanted = min(self.open + 1, len(self.stages.names))
        if self.gain is not None and not self.stopped:
            self._judge(trainer, self.gain)
        shown = trainer.callback_metrics.get(self._shown)
        self.record.add(trainer, self.open, "value", None if shown is None else float(shown))

    @property
    def _shown(self) -> str:
        judge = self.gain or self.plateau
        return (judge.monitor if judge else None) or str(getattr(self._module, "monitor", ""))

    def _judge(self, trainer: pl.Trainer, gain: Gain) -> None:
        value, mode = value_of(trainer, gain.monitor, gain.mode)
        verdict = gain.update(value, mode)
        if verdict == "best":
            self._best = kept(trainer, self._module)
        elif verdict == "roll back":
            self._roll_back(trainer, value)

    def _roll_back(self, trainer: pl.Trainer, value: float) -> None:
        assert self.gain is not None
        label = self.record.log.label(self.open - 1)
        rank_zero_info(
            f"unfreezing: {label} has not paid ({value:.4g} against {self.gain.best:.4g}): weights and moments are "
            "those from before it again, and no further stage opens"
        )
        self.open, self.stopped = self.open - 1, True
        put_back(trainer, self._module, self._best)
        self._best = {}  # there is nothing left to come back from
        self._apply()
        self.record.add(trainer, self.open, "rollback")
        self._reduce_what_trains(trainer)

    def _due(self, trainer: pl.Trainer) -> int:
        if self.stopped or (self.gain is not None and self.gain.on_trial):
            return self.open
        due = max(self._wanted, self.open)
        if self.schedule is not None:
            total = steps_of(trainer) if self.schedule.unit == "fraction" else 0
            due = max(due, self.schedule.due(trainer.current_epoch, trainer.global_step, total))
        # A stage on trial is alone: nobody could tell which of two has paid.
        return due if self.gain is None else min(due, self.open + 1)

    def _follow(self, trainer: pl.Trainer) -> None:
        """Opens what is due, and makes DDP reduce exactly what trains."""
        due = self._due(trainer)
        if due > self.open:
            for stage in range(self.open, due):
                self.record.say(trainer, stage)
            self.open = due
            self._apply()
            self.record.add(trainer, self.open, "open")
            if self.gain is not None:
                self.gain.opened()
        self._reduce_what_trains(trainer)

    def _apply(self) -> None:
        """Makes the open stages trainable and freezes the others, normalisation layers included."""
        for name in (name for stage in self.stages.names[: self.open] for name in stage):
            self._module.get_parameter(name).requires_grad_(name not in self._fixed)
        closed = {name for stage in self.stages.names[self.open :] for name in stage} | set(self.stages.never)
        freeze_parameters(self._module, closed)
        held = norms_of(self._module, closed)
        for name in set(self._held) - set(held):
            self._module.get_submodule(name).train(self._module.training)
        for name in held:
            self._module.get_submodule(name).eval()
        self._held = held
        if isinstance(self._module, VisionTask):
            self._module.held_norms = held

    def _reduce_what_trains(self, trainer: pl.Trainer) -> None:
        now = trainable(self._module)
        if now == self._reduced:
            return
        if self.check_ranks:
            RankCheck.compare(trainer, self._module)  # before DDP's constructor sends rank 0's weights to all
        for parameter in self._module.parameters():
            parameter.grad = None  # the old reducer's buckets may own it; the next backward begins anew anyway
        if wrapped_by_ddp(trainer):
            rebuild_ddp(trainer)
        self._reduced = now

    # --- what it says -------------------------------------------------------------------------------------------
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Logs what trains, at which rate, and how strongly it is pulled."""
        every = cast(Any, trainer).log_every_n_steps
        if every and (trainer.global_step + 1) % every == 0:
            # Equal on all ranks, as gradients are by now.
            pl_module.log_dict(self.record.values(pl_module, optimizer, self.open), rank_zero_only=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs how far each stage has moved."""
        pl_module.log_dict(self.record.distances(pl_module), rank_zero_only=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the timeline into the run folder."""
        self.record.draw(trainer, self.open, self._shown)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """A run that was stopped has a timeline too."""
        if hasattr(self, "record"):
            self.record.draw(trainer, self.open, self._shown)

    # --- restarts -----------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """What is open, what the metric has said so far, and with `gain` the state to come back to."""
        state: dict[str, Any] = {"version": STATE_VERSION, "open": self.open, "stopped": self.stopped}
        state |= {"stages": self.stages.names, "wanted": self._wanted, "history": self.record.history}
        state["plateau"] = self.plateau.state_dict() if self.plateau else None
        state["gain"] = self.gain.state_dict() if self.gain else None
        return {**state, "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues; the stages are opened at once, so that DDP is built for them.

        Raises:
            UserError: the checkpoint's stages are others.
        """
        if not hasattr(self, "stages"):
            return  # validation and test restore callbacks too, and thaw nothing
        check_stages(state_dict["stages"], self.stages.names)
        self.open, self.stopped, self._wanted = state_dict["open"], state_dict["stopped"], state_dict["wanted"]
        self.record.history, self._best = list(state_dict["history"]), dict(state_dict["best"])
        for part, state in ((self.plateau, state_dict["plateau"]), (self.gain, state_dict["gain"])):
            if part is not None and state is not None:
                part.load_state_dict(state)
        self._apply()
        expect_evaluation_mode(self._module, self._held)
