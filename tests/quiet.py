"""A trainer for tests: on the CPU, without loggers, bars, checkpoints and the pass before training."""

import tempfile
from typing import Any

import pytorch_lightning as pl

_FOLDER = tempfile.TemporaryDirectory(prefix="lit_vision-tests-")  # callbacks draw into the run's folder


def quiet_trainer(**settings: Any) -> pl.Trainer:
    """A Trainer that writes nothing here; `settings` are its own, and win."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0, "default_root_dir": _FOLDER.name}
    return pl.Trainer(**{**quiet, **settings})
