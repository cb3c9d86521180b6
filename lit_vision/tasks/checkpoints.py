"""From a checkpoint file back to a task, without its configuration and without pickle."""

import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lit_vision.errors import UserError
from lit_vision.networks.darknet_file import is_darknet_file
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.optimization import as_channels_last


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint file, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or not one of lit_vision's.
    """
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path} does not exist")
    if is_darknet_file(path):
        raise UserError(
            f"checkpoint {path} is a file of Darknet: make a checkpoint of it by `lit-vision import-darknet`"
        )
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"checkpoint {path} is damaged or not a checkpoint: use another one of the run") from error
    if not isinstance(checkpoint, dict) or "lit_vision" not in checkpoint:
        raise UserError(f"checkpoint {path} was not written by lit_vision: give one of a lit_vision run")
    return checkpoint


def load_task(path: str | Path, **changes: Any) -> VisionTask:
    """The trained task of a checkpoint, in evaluation mode, on the CPU.

    Args:
        path: a checkpoint of `fit`.
        changes: arguments of the task to be set otherwise, such as thresholds.

    Raises:
        UserError: the file is no checkpoint of ours, or the changes make another network of it.
    """
    checkpoint = read_checkpoint(path)
    task = build_task(checkpoint, path, **changes)
    task.on_load_checkpoint(checkpoint)
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        if not changes:
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in changes.items())
        sentence = f"the weights of {path} do not fit with {given}: leave out what makes another network"
        raise UserError(sentence) from error
    if task.channels_last:
        as_channels_last(task)
    return task.eval()


def build_task(checkpoint: Mapping[str, Any], path: str | Path, **changes: Any) -> VisionTask:
    """The task that a checkpoint describes, its weights not yet those of the checkpoint.

    Args:
        checkpoint: its `lit_vision` and `hyper_parameters`.
        path: its file, for errors.
        changes: arguments of the task to be set otherwise.
    """
    module, _, name = checkpoint["lit_vision"]["class_path"].rpartition(".")
    try:
        task_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"checkpoint {path} is of {module}.{name}, which cannot be imported here") from error
    if not (isinstance(task_class, type) and issubclass(task_class, VisionTask)):
        raise UserError(f"checkpoint {path} names {module}.{name}, which is not a task of lit_vision")
    task: VisionTask = task_class(**{**checkpoint["hyper_parameters"], **changes})
    return task
