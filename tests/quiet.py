"""A trainer for tests: on the CPU, without loggers, bars, checkpoints and the pass before training."""

from typing import Any

import pytorch_lightning as pl


def quiet_trainer(**settings: Any) -> pl.Trainer:
    """A Trainer that writes nothing; `settings` are its own, and win."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{**quiet, "enable_checkpointing": False, "num_sanity_val_steps": 0, **settings})
