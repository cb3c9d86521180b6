"""Keeps the complete experiment with its run."""

from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.runs.folder import RunFolder
from lit_vision.runs.loggers import RunWandbLogger
from lit_vision.runs.resume import changes


class SaveRun(SaveConfigCallback):
    """Writes config.yaml, complete and ready for -c, into the run folder, and sends it to W&B.

    A run that is continued keeps its config.yaml where nothing has changed. What has changed is said; the earlier file
    then stays beside the new one.
    """

    def __init__(self, *args: Any, folder: RunFolder, command: str, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})
        self.folder, self.command = folder, command

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """In training only on_train_start writes: a checkpoint that is refused leaves the folder as it was."""
        if self.command != "fit":
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes."""
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called once, on rank 0, before training starts."""
        config = self.config.clone()
        # A run started from this file is a new run of the same experiment.
        config.experiment, config.run_dir, config.ckpt_path = self.folder.experiment, None, None
        if "resume" in config:
            config.resume = None
        text = self.parser.dump(config, skip_none=False)
        self.folder.create()
        path = self.folder.path / ("" if self.command == "fit" else self.command) / "config.yaml"
        path.parent.mkdir(exist_ok=True)
        if path.exists() and not self._is_same(path, text):
            path.replace(path.with_name(f"config-{int(path.stat().st_mtime)}.yaml"))
        if not path.exists():
            partial = path.with_name(f"{path.name}.partial")
            partial.write_text(text)  # a kill in the middle leaves no half of it, which could not be read again
            partial.replace(path)
        for logger in trainer.loggers:
            if isinstance(logger, RunWandbLogger):
                logger.log_config(yaml.safe_load(text))

    def _is_same(self, path: Path, text: str) -> bool:
        changed = changes(yaml.safe_load(path.read_text()), yaml.safe_load(text))
        if changed and self.command == "fit":
            rank_zero_info(f"changed since the run began: {'; '.join(changed)}")
        return not changed
