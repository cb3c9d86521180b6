"""What a rehearsal has to see of each process: every step's loss and trainable set, and the weights at the end."""

import hashlib
import json
import math
import resource
import zlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.callbacks.unfreezing_schedule import Schedule


class Rehearsal(pl.Callback):
    """Writes a line of JSON for each batch to <folder>/steps-<rank>.jsonl, and <folder>/end-<rank>.json at the end.

    A run that was killed and resumed goes on in the same file; what it repeats stands there twice.

    Args:
        folder: where to write.
        epochs: length of the run that is rehearsed: openings come that much earlier; null = it is limited by steps.
        steps: its optimizer steps, if these limit it.
    """

    def __init__(self, folder: str, epochs: int | None = None, steps: int | None = None) -> None:
        self.folder, self.epochs, self.steps = Path(folder), epochs, steps
        self._seen: set[int] = set()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Brings the openings into the short run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning annotates no attribute
            if isinstance(callback, ProgressiveUnfreezing) and callback.schedule is not None:
                callback.schedule = self._sooner(callback.schedule, trainer)

    def _sooner(self, schedule: Schedule, trainer: pl.Trainer) -> Schedule:
        if schedule.unit == "fraction":
            return schedule
        if schedule.unit == "epoch" and self.epochs:
            share = (trainer.max_epochs or 1) / self.epochs
            return Schedule([math.floor(time * share) for time in schedule.times], "epoch")
        whole = self.steps or (self.epochs or 1) * self._steps_per_epoch(trainer)
        return Schedule([min(time / whole, 1.0) for time in schedule.times], "fraction")

    def _steps_per_epoch(self, trainer: pl.Trainer) -> int:
        loader: Any = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]  # likewise
        return max(math.ceil(len(loader) / trainer.accumulate_grad_batches), 1)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Names what trains but gets no gradient, once for each trainable set, before DDP fails at the next step."""
        key = trainable_set(pl_module)
        if key not in self._seen:
            self._seen.add(key)
            unused = [name for name, p in pl_module.named_parameters() if p.requires_grad and p.grad is None]
            self._write(trainer, {"event": "unused", "names": unused})

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A line for the batch; the loss to its last bit."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        now = {"event": "batch", "epoch": trainer.current_epoch, "batch": batch_idx, "step": trainer.global_step}
        count = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        loss = None if loss is None else float(loss).hex()
        self._write(trainer, {**now, "loss": loss, "trainable": count, "set": trainable_set(pl_module)})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The weights' fingerprint and what the process needed."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        facts = {"weights": fingerprint(pl_module), "gib": peak, "step": trainer.global_step}
        (self.folder / f"end-{trainer.global_rank}.json").write_text(json.dumps(facts))

    def _write(self, trainer: pl.Trainer, line: dict[str, Any]) -> None:
        with (self.folder / f"steps-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def trainable_set(module: nn.Module) -> int:
    """A number that stands for the names of the trainable parameters."""
    return zlib.crc32("\n".join(name for name, p in module.named_parameters() if p.requires_grad).encode())


def fingerprint(module: nn.Module) -> str:
    """sha256 over the bits of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()
