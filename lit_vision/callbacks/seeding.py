"""Random numbers of each step as a function of where it is: no generator's state has to be kept for a restart."""

import os
import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

TRAINING_EPOCH, TRAINING_STEP, VALIDATION = range(3)


class StepSeeds(pl.Callback):
    """Reseeds torch, numpy and Python before every step, from the seed, the epoch, the batch and the process.

    Dropout, mixup and whatever else draws from the global generators then does the same in a run that was killed and
    continued as in one that was not. It has to come before the callbacks that draw. Processes draw different numbers.

    Args:
        seed: null = `seed_everything`, or 0.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """For what others draw at the start of an epoch."""
        reseed(self.seed, TRAINING_EPOCH, trainer.current_epoch, 0, trainer.global_rank)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """For the step."""
        reseed(self.seed, TRAINING_STEP, trainer.current_epoch, batch_idx, trainer.global_rank)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """For a validation."""
        reseed(self.seed, VALIDATION, trainer.current_epoch, trainer.global_step, trainer.global_rank)


def reseed(*place: int) -> None:
    """Seeds the global generators of torch (CPU and the current GPU), numpy and Python with a hash of whole numbers."""
    torch_seed, numpy_seed, python_seed = (int(word) for word in np.random.SeedSequence(place).generate_state(3))
    # torch.manual_seed goes through all backends each time: half a millisecond; the two generators take microseconds.
    torch.default_generator.manual_seed(torch_seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch annotates it not
        torch.cuda.manual_seed(torch_seed)
    np.random.seed(numpy_seed)  # noqa: NPY002  the global state is meant
    random.seed(python_seed)
