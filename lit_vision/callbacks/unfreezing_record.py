"""What ProgressiveUnfreezing tells: a table at the start, a line at each opening, values to log, a timeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from lit_vision.callbacks.unfreezing_checks import say_untrained
from lit_vision.callbacks.unfreezing_log import UnfreezingLog, learning_rates
from lit_vision.charts import unfreezing_timeline
from lit_vision.networks.stages import Stages


class UnfreezingRecord:
    """The history of the openings, and how it is shown.

    Args:
        stages: what thaws when.
        module: before its training; its weights are the pretrained ones.
        measure: take gradient norms and distances from the pretrained weights.
    """

    def __init__(self, stages: Stages, module: nn.Module, measure: bool) -> None:
        self.history: list[dict[str, Any]] = []
        self.log = UnfreezingLog(stages, module, distances=measure)
        self._measure, self._count = measure, len(stages.names)

    def add(self, trainer: pl.Trainer, opened: int, event: str, value: float | None = None) -> None:
        """Notes an event: "start", "open", "rollback" or "value" of the metric.

        Args:
            trainer: where the run is.
            opened: number of open stages.
            event: what happened.
            value: of the metric.
        """
        now = {"step": trainer.global_step, "epoch": trainer.current_epoch, "stage": opened}
        self.history.append({**now, "event": event, "value": value})

    def say(self, trainer: pl.Trainer, stage: int) -> None:
        """A line for an opening."""
        where = f"epoch {trainer.current_epoch}, step {trainer.global_step}"
        rank_zero_info(f"unfreezing: {self.log.label(stage)} opens at {where}")

    def show(self, trainer: pl.Trainer, when: Sequence[str]) -> None:
        """Prints the stages, the head first, and what of them begins at random; rank 0 only."""
        say_untrained(trainer)
        if trainer.is_global_zero:
            Console().print(self.log.table(when, learning_rates(trainer.optimizers[0], initial=True)))

    def values(self, module: nn.Module, optimizer: Optimizer, opened: int) -> dict[str, float]:
        """What is logged with a step."""
        training = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        values = {"stage": float(opened), "trainable_parameters": float(training)}
        values |= {f"lr/{name}": rate for name, rate in learning_rates(optimizer).items()}
        if self._measure:
            values |= {f"grad_norm/{name}": norm for name, norm in self.log.grad_norms(module).items()}
        return {f"unfreeze/{name}": value for name, value in values.items()}

    def distances(self, module: nn.Module) -> dict[str, float]:
        """How far each stage is from the pretrained weights; nothing where that is not measured."""
        distances = self.log.distances(module) if self._measure else {}
        return {f"unfreeze/distance/{name}": value for name, value in distances.items()}

    def draw(self, trainer: pl.Trainer, opened: int, monitor: str) -> None:
        """Draws the timeline into the run folder; rank 0 only."""
        if not trainer.is_global_zero or not self.history:
            return
        path = Path(trainer.default_root_dir) / "pictures" / "unfreezing.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        end = {"step": trainer.global_step, "epoch": trainer.current_epoch, "stage": opened}
        labels = [self.log.label(stage) for stage in range(self._count)]
        history = [*self.history, {**end, "event": "end", "value": None}]
        unfreezing_timeline(history, labels, monitor, trainer.global_step, path, experiment=path.parents[2].name)
