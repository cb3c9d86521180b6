"""Keeps the complete experiment with its run."""

from typing import Any

import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from lit_vision.runs.folder import RunFolder
from lit_vision.runs.loggers import RunWandbLogger


class SaveRun(SaveConfigCallback):
    """Writes config.yaml, complete and ready for -c, into the run folder, and sends it to W&B."""

    def __init__(self, *args: Any, folder: RunFolder, command: str, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})
        self.folder, self.command = folder, command

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called once, on rank 0, before training starts."""
        config = self.config.clone()
        # A run started from this file is a new run of the same experiment.
        config.experiment, config.run_dir, config.ckpt_path = self.folder.experiment, None, None
        text = self.parser.dump(config, skip_none=False)
        self.folder.create()
        path = self.folder.path / ("" if self.command == "fit" else self.command) / "config.yaml"
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            path.replace(path.with_name(f"config-{int(path.stat().st_mtime)}.yaml"))
        path.write_text(text)
        for logger in trainer.loggers:
            if isinstance(logger, RunWandbLogger):
                logger.log_config(yaml.safe_load(text))
