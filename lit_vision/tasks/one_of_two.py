"""Training one of two networks: what stays fixed, where its weights come from, and rates of its own for the other."""

import os
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.backbones import preprocessing_of, timm_arguments
from lit_vision.networks.preprocess import Preprocess
from lit_vision.tasks.checkpoint_facts import shown_classes
from lit_vision.tasks.checkpoints import read_checkpoint
from lit_vision.tasks.starting import compared, load_but, of_other_classes

NETWORKS = ("network", "border_network")


def check_start(trained: str, start_from: str | None, resumed: Any) -> None:
    """Raises UserError where the border network is to train alone beside pixels that were never trained."""
    if trained == "border" and start_from is None and resumed is None:
        raise UserError(
            "model.train is border: give model.start_from, a checkpoint of a run with train: pixels or both"
        )


def hold(network: nn.Module) -> None:
    """Keeps a network from training; the task keeps it in evaluation mode."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    # Lightning warns of every module in evaluation mode; these are meant to be.
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")


def take_weights(task: Any, path: str, fixed: nn.Module | None) -> str | None:
    """Takes the weights of the networks of an earlier run over, where they fit.

    Where the number of classes is another, the last layer of the pixels is left as it was drawn.

    Args:
        task: an InstanceSegmenter, as built.
        path: of the checkpoint; `~` and `$VARIABLES` are expanded.
        fixed: the network that will not train, None where both will.

    Returns:
        The licence of the weights that the earlier run started from.

    Raises:
        UserError: the checkpoint is of another task, or knows other classes than pixels that will not train, or lacks
            what has to fit: the network that will not train, or, where both will, at least one; or its networks saw
            pixels of another mean and std.
    """
    file = Path(os.path.expandvars(path)).expanduser()
    checkpoint = read_checkpoint(file)
    facts, given = checkpoint["lit_vision"], task.class_names
    known = facts["class_names"]
    if facts["task"] != type(task).__name__:
        raise UserError(f"model.start_from {path} is of a {facts['task']}, but the model is an {type(task).__name__}")
    if fixed is task.network and known != given:
        raise UserError(
            f"model.start_from {path} knows the classes {shown_classes(known)}, but the data has "
            f"{shown_classes(given)}, and with train: border the pixels are not trained: set train: both or pixels"
        )
    state = checkpoint["state_dict"]
    redrawn = {name: _take(getattr(task, name), name, state, len(known) != len(given)) for name in NETWORKS}
    taken = [name for name in NETWORKS if redrawn[name] is not None]
    needed = [name for name in NETWORKS if getattr(task, name) is fixed]
    if not taken or (needed == ["network"] and "network" not in taken):
        raise UserError(f"model.start_from {path} has other networks: give the decoder, encoder and _args of its run")
    _check_pixels(task, path, taken, checkpoint["hyper_parameters"])
    others = of_other_classes(redrawn["network"] or (), known, given) if "network" in taken else ""
    rank_zero_info(f"weights of {' and '.join(taken)} from {path}" + (f"; of network {others}" if others else ""))
    licence: str | None = facts.get("licence")
    return licence


def _take(network: nn.Module, name: str, state: dict[str, Tensor], other_classes: bool) -> list[str] | None:
    """Loads what belongs to a network and gives the names of what is of other classes; None where it does not fit."""
    own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    unknown, redrawn = compared(network.state_dict(), own, other_classes)
    if unknown:
        return None
    load_but(network, own, redrawn)
    return redrawn


def _check_pixels(task: Any, path: str, taken: list[str], earlier: dict[str, Any]) -> None:
    """Refuses weights of networks that saw otherwise normalised pixels: they load, and are wrong in silence."""
    for name in taken:
        border = name == "border_network" and not task.shared_encoder
        own: Preprocess = task.border_preprocess if border else task.preprocess
        prefix = "border_" if border else ""
        encoder, _ = timm_arguments(earlier[f"{prefix}encoder"], earlier[f"{prefix}encoder_args"] or {})
        expected = preprocessing_of(encoder, len(own.mean))
        for key, by_encoder in (("mean", expected.mean), ("std", expected.std)):
            theirs = list(earlier.get(f"{prefix}{key}") or earlier[key] or by_encoder)
            ours = list(getattr(own, key))
            if len(theirs) != len(ours) or any(abs(a - b) > 1e-6 for a, b in zip(theirs, ours, strict=True)):
                raise UserError(
                    f"model.start_from {path} was trained on pixels of {key} {theirs}, but this run has {ours}: "
                    f"set model.{prefix}{key}: {theirs}"
                )


def own_rates(groups: list[dict[str, Any]], network: nn.Module, factor: float) -> list[dict[str, Any]]:
    """Parameter groups in which one network's parameters have a learning rate of their own.

    Args:
        groups: of `parameter_groups`.
        network: whose.
        factor: on its learning rate; 1 leaves the groups as they are.
    """
    if factor == 1:
        return groups
    own = {id(parameter) for parameter in network.parameters()}
    divided = []
    for group in groups:
        for inside in (False, True):
            chosen = [parameter for parameter in group["params"] if (id(parameter) in own) is inside]
            if chosen:
                part = {**group, "params": chosen}
                if inside:
                    part["lr_scale"] = group["lr_scale"] * factor
                    name = str(group["name"])
                    part["name"] = name if name.startswith("border_network") else f"border_network/{name}"
                divided.append(part)
    return divided
