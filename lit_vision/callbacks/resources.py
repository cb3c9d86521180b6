"""What a run cost: seconds, epochs, peak memory, written where the run is."""

import json
import platform
import resource
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only


class Resources(pl.Callback):
    """Writes `<run folder>/resources.json` when training ends, also when it is interrupted or fails.

    It holds: seconds and epochs (of this fit, validation included), optimizer_steps (of the run), images_per_second
    (training steps only), peak_memory_gib (this process plus its largest loader worker; the GPU's own in
    peak_gpu_memory_gib), device, precision.
    """

    def __init__(self) -> None:
        self._start = self._batch_start = self._training_seconds = 0.0
        self._images = 0
        self._first_epoch: int | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._start, self._training_seconds, self._images = time.monotonic(), 0.0, 0
        self._first_epoch = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remembers the epoch that a checkpoint has brought; a run with nothing left to train does not come here."""
        self._first_epoch = trainer.current_epoch

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, i: int) -> None:
        """Starts the step's clock."""
        self._batch_start = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Counts the step's images and seconds."""
        self._training_seconds += time.monotonic() - self._batch_start
        if isinstance(batch, dict):
            self._images += len(batch["image"]) * trainer.world_size

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the file."""
        self._write(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """An interrupted run has cost something too."""
        if self._start and trainer.global_step:
            self._write(trainer)

    @rank_zero_only
    def _write(self, trainer: pl.Trainer) -> None:
        facts = self.facts(trainer)
        Path(trainer.default_root_dir, "resources.json").write_text(json.dumps(facts, indent=1) + "\n")
        if self._first_epoch is None:
            rank_zero_info(f"nothing was left to train: {trainer.current_epoch} epochs were done before")
            return
        rank_zero_info(
            f"trained {facts['epochs']} epochs in {facts['seconds']:.0f} s, {facts['peak_memory_gib']:.2f} GiB"
        )

    def facts(self, trainer: pl.Trainer) -> dict[str, str | int | float]:
        """The contents of the file."""
        device = trainer.strategy.root_device
        facts: dict[str, str | int | float] = {
            "seconds": round(time.monotonic() - self._start, 3),
            "epochs": 0 if self._first_epoch is None else trainer.current_epoch - self._first_epoch,
            "optimizer_steps": trainer.global_step,
            "images_per_second": round(self._images / max(self._training_seconds, 1e-9), 1),
            "peak_memory_gib": round(peak_memory_gib(), 3),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
            "precision": str(trainer.precision),
        }
        if device.type == "cuda":
            facts["peak_gpu_memory_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
        return facts


def peak_memory_gib() -> float:
    """Peak resident memory of this process plus that of its largest finished child, GiB (ru_maxrss is in KiB)."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + children) / 2**20
