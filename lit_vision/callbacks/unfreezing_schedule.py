"""When stages open: pure functions of a run's progress, and decisions on a metric that every process takes alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lit_vision.errors import UserError

Unit = Literal["epoch", "step", "fraction"]
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Schedule:
    """Times at which stage 0, 1, ... open.

    Args:
        times: one for each stage that opens, not decreasing; stages without a time stay closed.
        unit: "epoch" (from 0), "step" (of the optimizer) or "fraction" of the run's steps, from 0 to 1.
    """

    times: Sequence[float]
    unit: Unit = "epoch"

    def __post_init__(self) -> None:
        times = list(self.times)
        if any(not math.isfinite(time) or time < 0 for time in times) or times != sorted(times):
            raise UserError(f"ProgressiveUnfreezing: at is {times}, but times must not be negative and not decrease")
        if self.unit == "fraction" and any(time > 1 for time in times):
            raise UserError(f"ProgressiveUnfreezing: at is {times}, but with unit: fraction no time is above 1")
        if self.unit != "fraction" and any(time != int(time) for time in times):
            raise UserError(f"ProgressiveUnfreezing: at is {times}, but an {self.unit} is a whole number")

    def due(self, epoch: int, step: int, total_steps: int) -> int:
        """How many stages are open.

        Args:
            epoch: the current epoch, from 0.
            step: optimizer steps done.
            total_steps: of the whole run; read only where the unit is "fraction".
        """
        now = {"epoch": epoch, "step": step, "fraction": step}[self.unit]
        return sum(now >= self._opens(time, total_steps) for time in self.times)

    def _opens(self, time: float, total_steps: int) -> float:
        return math.ceil(time * total_steps) if self.unit == "fraction" else time

    def when(self, stage: int) -> str:
        """When a stage opens, in words."""
        if stage >= len(self.times):
            return "stays closed"
        time = self.times[stage]
        return f"at {time:.0%} of the run" if self.unit == "fraction" else f"{self.unit} {int(time)}"


def even_schedule(stages: int, epochs: int | None) -> Schedule:
    """Openings that divide the run into equal parts, the first of which belongs to the head alone.

    Args:
        stages: number of stages.
        epochs: of the whole run, if it is known; too few for one per part, openings fall between them.
    """
    if epochs is None or epochs < stages + 1:
        return Schedule([(stage + 1) / (stages + 1) for stage in range(stages)], "fraction")
    return Schedule([epochs * (stage + 1) // (stages + 1) for stage in range(stages)], "epoch")


def openings(schedule: Schedule | None, stages: int) -> list[str]:
    """When each of so many stages opens, in words; without a schedule a plateau decides."""
    return [schedule.when(stage) if schedule else "on a plateau" for stage in range(stages)]


def better(value: float, best: float | None, mode: Mode, margin: float) -> bool:
    """Whether a metric improved by more than the margin; NaN never does, anything does where nothing was."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value > best + margin if mode == "max" else value < best - margin


@dataclass
class Plateau:
    """Opens the next stage when a metric has stopped improving.

    Args:
        monitor: name of the logged metric; null = the one that chooses the best checkpoint.
        mode: "min" or "max"; null = as for that metric.
        patience: validations without improvement before the next stage opens.
        min_delta: what is not more than this is no improvement.
    """

    monitor: str | None = None
    mode: Mode | None = None
    patience: int = 2
    min_delta: float = 0.0
    best: float | None = field(default=None, init=False)
    waited: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        _check_counts("plateau", self.patience, self.min_delta)

    def update(self, value: float, mode: Mode) -> bool:
        """Takes the metric of one validation; true when the next stage is due."""
        if better(value, self.best, mode, self.min_delta):
            self.best, self.waited = value, 0
            return False
        self.waited += 1
        if self.waited < self.patience:
            return False
        self.waited = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint."""
        self.best, self.waited = state["best"], state["waited"]


@dataclass
class Gain:
    """Takes a stage back that has not paid.

    A stage is on trial from its opening. Where the metric has not passed the best value from before it within
    `patience` validations, the best weights from before come back, the stage closes, and no other one opens.

    Args:
        monitor: name of the logged metric; null = the one that chooses the best checkpoint.
        mode: "min" or "max"; null = as for that metric.
        patience: validations a stage has to pass the best value from before it.
        min_gain: by how much.
    """

    monitor: str | None = None
    mode: Mode | None = None
    patience: int = 3
    min_gain: float = 0.0
    best: float | None = field(default=None, init=False)
    on_trial: bool = field(default=False, init=False)
    waited: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        _check_counts("gain", self.patience, self.min_gain)

    def opened(self) -> None:
        """A stage opened; without a value from before there is nothing to compare it with."""
        self.on_trial, self.waited = self.best is not None, 0

    def update(self, value: float, mode: Mode) -> Literal["keep", "best", "roll back"]:
        """Takes the metric of one validation.

        Returns:
            "best" where these weights are the ones to come back to, "roll back" where the stage has failed.
        """
        margin = self.min_gain if self.on_trial else 0.0
        if better(value, self.best, mode, margin):
            self.best, self.on_trial = value, False
            return "best"
        self.waited += self.on_trial
        if self.on_trial and self.waited >= self.patience:
            self.on_trial = False
            return "roll back"
        return "keep"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {"best": self.best, "on_trial": self.on_trial, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint."""
        self.best, self.on_trial, self.waited = state["best"], state["on_trial"], state["waited"]


def _check_counts(name: str, patience: int, margin: float) -> None:
    if patience < 1:
        raise UserError(f"ProgressiveUnfreezing: {name}.patience is {patience}, but it is at least 1")
    if not margin >= 0:
        raise UserError(f"ProgressiveUnfreezing: the margin of {name} is {margin}, but it is at least 0")
