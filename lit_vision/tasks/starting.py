"""A new run that begins with the whole network of an earlier one, heads of other classes drawn anew."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.preprocess import Preprocess
from lit_vision.tasks.checkpoint_facts import say_other_computation, shown_classes
from lit_vision.tasks.checkpoints import read_checkpoint

PREFIX = "network."


def take_network(
    task: Any,
    path: str,
    pretrained: bool,
    weights: str | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> bool:
    """Gives a task's `network` the weights of a checkpoint, and its `preprocess` the statistics of that run.

    Args:
        task: as built, with random weights.
        path: of the checkpoint; `~` and `$VARIABLES` are expanded.
        pretrained: as the user has set it; excludes a checkpoint.
        weights: likewise.
        mean: of the pixels, as the user has set it; null = that of the earlier run.
        std: likewise.
        settings: with which the network was built; a line says which of those that no weight shows are others.

    Returns:
        Whether all weights are taken: false where the last layer is of other classes.

    Raises:
        UserError: the checkpoint is of another task or has another network, or first weights are given twice.
    """
    if pretrained or weights is not None:
        other = "pretrained: true" if pretrained else f"weights: {weights}"
        raise UserError(f"model.start_from {path} brings all weights: leave out {other}")
    file = Path(os.path.expandvars(path)).expanduser()
    if not file.is_file():
        raise UserError(f"model.start_from {path} does not exist: give the checkpoint, also where its run is resumed")
    checkpoint = read_checkpoint(file)
    facts, earlier = checkpoint["lit_vision"], checkpoint["hyper_parameters"]
    if facts["task"] != type(task).__name__:
        raise UserError(f"model.start_from {path} is of a {facts['task']}, but the model is a {type(task).__name__}")
    redrawn = _load(task.network, checkpoint["state_dict"], facts["class_names"], task.class_names, path)
    task.preprocess = Preprocess(earlier["mean"] if mean is None else mean, earlier["std"] if std is None else std)
    task.licence, task.start_from = facts.get("licence"), path
    of_pixels = {name: value for name, value in (("mean", mean), ("std", std)) if value is not None}
    say_other_computation(earlier, {**(settings or {}), **of_pixels}, path)
    rank_zero_info(f"weights of {path}: {of_other_classes(redrawn, facts['class_names'], task.class_names) or 'all'}")
    return not redrawn


def _load(
    network: nn.Module, state: Mapping[str, Tensor], known: Sequence[str], given: Sequence[str], path: str
) -> list[str]:
    """Loads what fits; gives the names of the tensors that are of other classes."""
    theirs = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    unknown, misshapen = compared(network.state_dict(), theirs, len(known) != len(given))
    if unknown:
        raise UserError(
            f"model.start_from {path} has another network, first in {PREFIX}{unknown[0]}: give the model's settings of "
            "its run, which stand in the config.yaml of its folder"
        )
    load_but(network, theirs, misshapen)
    return misshapen


def compared(
    own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], other_classes: bool
) -> tuple[list[str], list[str]]:
    """Names of the tensors that make two networks different ones, and of those that are of other classes alone.

    Args:
        own: weights of a network.
        theirs: likewise, of another.
        other_classes: whether the number of classes differs.
    """
    misshapen = sorted(name for name in own.keys() & theirs.keys() if own[name].shape != theirs[name].shape)
    # The classes are outputs: all that reads features is of the same shape.
    outputs = other_classes and all(own[name].shape[1:] == theirs[name].shape[1:] for name in misshapen)
    unknown = sorted(own.keys() ^ theirs.keys()) or ([] if outputs else misshapen)
    return unknown, misshapen


def load_but(network: nn.Module, weights: Mapping[str, Tensor], left_out: Sequence[str]) -> None:
    """Loads all weights but those of these names, which stay as they were drawn."""
    kept = {name: value for name, value in weights.items() if name not in left_out}
    network.load_state_dict({**network.state_dict(), **kept})


def of_other_classes(redrawn: Sequence[str], known: Sequence[str], given: Sequence[str]) -> str:
    """What becomes of the last layer where classes are not those of the earlier run; empty where they are."""
    if redrawn:
        before, now = shown_classes(known), shown_classes(given)
        return f"all but {len(redrawn)} tensors of the last layer, which are drawn anew for {now} instead of {before}"
    renamed = ", ".join(f"{a} / {b}" for a, b in zip(known, given, strict=False) if a != b)
    return f"all, the last layer too, whose classes have other names here: {renamed}" if renamed else ""
