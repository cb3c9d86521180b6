"""Tasks that train nothing, as SlidingWindowDetector: no fit, no checkpoint to begin with, and one after a test."""

from collections.abc import MutableMapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.errors import UserError
from lit_vision.runs.folder import best_of


def trains(class_path: str, command: str, checkpoint: str | None) -> bool:
    """Whether a task has something to train.

    Args:
        class_path: of the task.
        command: "fit", "validate", "test" or "predict".
        checkpoint: what the user gave as --ckpt_path.

    Raises:
        UserError: it has not, and the command would train it or give it other weights than its classifier's.
    """
    module, _, task = class_path.rpartition(".")
    if getattr(getattr(import_module(module), task), "trains", True):
        return True
    if command == "fit":
        raise UserError(f"a {task} has nothing to train: fit its classifier, then lit-vision test -c <this experiment>")
    if checkpoint and checkpoint != "none":
        raise UserError(f"a {task} has its weights from model.classifier: leave out --ckpt_path {checkpoint}")
    return False


def find_classifier(arguments: MutableMapping[str, Any]) -> None:
    """A model's `classifier` may be the folder of a run or of an experiment: its best checkpoint then."""
    if isinstance(arguments.get("classifier"), str):
        arguments["classifier"] = str(best_of(arguments["classifier"]))


def save(trainer: Trainer, path: Path) -> None:
    """Writes the tested task, classifier included, as a checkpoint for `lit-vision predict --images`."""
    trainer.save_checkpoint(path, weights_only=True)
    rank_zero_info(f"checkpoint: {path}; it holds the classifier, too: `lit-vision predict --ckpt_path` needs it alone")
