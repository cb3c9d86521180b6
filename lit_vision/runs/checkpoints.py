"""Checkpoints: written so that a kill leaves the old one whole, looked into before anything is built from one."""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from lit_vision.errors import UserError
from lit_vision.runs.progress import epochs_done, steps_logged
from lit_vision.tasks.checkpoints import read_checkpoint

RUN_KEY = "lit_vision_run"  # what a restart has to know, in a checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames; Lightning's own copies into the target, which a kill leaves torn."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Saves a checkpoint as one step: the file is the old one or the new one, never half of either."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        partial = Path(f"{path}.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def read_header(path: Path) -> dict[str, Any]:
    """What a checkpoint says about itself: task, class_names, data and hyper_parameters; and where its run stood.

    That is: epochs done, optimizer steps done, the number of the next logged step, and in `run` what `Boundaries`
    has written.

    Raises:
        UserError: the file is damaged, or lit_vision did not write it.
    """
    checkpoint = read_checkpoint(path)
    loops = checkpoint["loops"]["fit_loop"]
    return {
        **checkpoint["lit_vision"],
        "hyper_parameters": checkpoint.get("hyper_parameters", {}),
        "step": checkpoint["global_step"],
        "epochs": epochs_done(loops),
        "logged": steps_logged(loops),
        "run": checkpoint.get(RUN_KEY),
    }


def check_task(path: Path, header: Mapping[str, Any], task: str) -> None:
    """Raises UserError if a checkpoint holds another task than `task`."""
    if header["task"] != task:
        raise UserError(f"{path} holds a {header['task']}, but model is a {task}; give the experiment it came from")


def fill_in(arguments: MutableMapping[str, Any], trained: Mapping[str, Any]) -> None:
    """Sets what followed from the weights, which are not read again: the statistics of pixels, the slope of a backbone.

    Args:
        arguments: of the model; what is said in them stays.
        trained: of the checkpoint.
    """
    same = arguments.get("in_channels") == trained.get("in_channels")
    for name in ("mean", "std", "backbone_args") if same else ("backbone_args",):
        said, known = arguments.get(name), trained.get(name)
        added = isinstance(said, Mapping) and isinstance(known, Mapping) and said.items() <= known.items()
        if name in arguments and (said is None or added) and known is not None:
            arguments[name] = dict(known) if isinstance(known, Mapping) else known


@contextmanager
def explained(path: Path, header: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[None]:
    """Says which options differ where the weights of a checkpoint do not fit the network.

    Args:
        path: the checkpoint.
        header: see `read_header`.
        options: the model's options of this run.

    Raises:
        UserError: the weights do not fit.
    """
    try:
        yield
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        trained = header["hyper_parameters"]
        differing = [
            f"model.{name} is {options[name]} now, was {trained[name]}"
            for name in options
            if name in trained and _differ(options[name], trained[name])
        ]
        reason = "; ".join(differing[:3]) or "use the config.yaml of its run folder"
        raise UserError(f"{path} does not fit this network: {reason}") from error


def _differ(now: Any, trained: Any) -> bool:
    plain = (str, int, float, bool)
    if isinstance(trained, str) and "\n" in trained:  # the text of a file that `now` names
        return False
    return isinstance(now, plain) and isinstance(trained, plain) and now != trained
