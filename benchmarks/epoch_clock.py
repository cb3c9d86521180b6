"""Callbacks for `lit-vision fit`: when its epochs ended, and what the network's step alone takes."""

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

WARM = 2  # steps that are not counted


class EpochClock(pl.Callback):
    """Writes <run folder>/epochs.json: seconds from one epoch's end to the next, and facts of the run.

    Args:
        bare_steps: before the first epoch and after the last, so many steps on one batch that lies in memory, without
            loader and loop: forward, loss, backward, optimizer; the median goes into the file. 0 = none. The first
            are taken back. The batch is drawn with the training's augmentation.
    """

    def __init__(self, bare_steps: int = 0) -> None:
        self.bare_steps = bare_steps
        self.ends: list[float] = []
        self.bare: list[float] = []
        self._batch: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.bare_steps:
            self._batch = _first_batch(trainer, pl_module)
            kept = [value.detach().clone() for value in pl_module.state_dict().values()]
            state = trainer.optimizers[0].state_dict()
            self.bare += bare_steps(trainer, pl_module, self._batch, self.bare_steps)
            for value, old in zip(pl_module.state_dict().values(), kept, strict=True):
                value.copy_(old)
            trainer.optimizers[0].load_state_dict(state)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ends.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.bare_steps:
            self.bare += bare_steps(trainer, pl_module, self._batch, self.bare_steps)
        loader: Any = trainer.train_dataloader
        facts = {
            "epoch_seconds": [later - earlier for earlier, later in pairwise(self.ends)],
            "steps": trainer.num_training_batches,
            "images": trainer.num_training_batches * loader.batch_size,
            "bare_step_seconds": self.bare,
            "precision": str(trainer.precision),
            "layout": "channels_last" if getattr(pl_module, "channels_last", False) else "contiguous",
            "threads": torch.get_num_threads(),
            "workers": loader.num_workers,
        }
        Path(trainer.default_root_dir, "epochs.json").write_text(json.dumps(facts))


def _first_batch(trainer: pl.Trainer, module: pl.LightningModule) -> Any:
    data: Any = trainer.datamodule
    batch = next(iter(data.train_dataloader()))
    return module.on_after_batch_transfer(trainer.strategy.batch_to_device(batch), 0)


def bare_steps(trainer: pl.Trainer, module: pl.LightningModule, batch: Any, count: int) -> list[float]:
    """Seconds of each of `count` steps of a plain loop, in the precision of the Trainer, after WARM others."""
    optimizer, seconds = trainer.optimizers[0], []
    silent = dict.fromkeys(("log", "log_dict"), lambda *_, **__: None)
    module.__dict__.update(silent)  # logging belongs to the loop
    try:
        for _ in range(WARM + count):
            start = time.perf_counter()
            optimizer.zero_grad()
            with trainer.precision_plugin.forward_context():
                loss: Any = module.training_step(batch, 0)
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
    finally:
        for name in silent:
            del module.__dict__[name]
    return seconds[WARM:]
