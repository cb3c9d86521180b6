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
from lit_vision.tasks.checkpoints import read_checkpoint

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

    Args:
        task: an InstanceSegmenter, as built.
        path: of the checkpoint; `~` and `$VARIABLES` are expanded.
        fixed: the network that will not train, None where both will.

    Returns:
        The licence of the weights that the earlier run started from.

    Raises:
        UserError: the checkpoint is of another task, or knows other classes, or lacks what has to fit: the network that
            will not train, or, where both will, at least one; or its networks saw pixels of another mean and std.
    """
    file = Path(os.path.expandvars(path)).expanduser()
    checkpoint = read_checkpoint(file)
    facts = checkpoint["lit_vision"]
    if facts["task"] != type(task).__name__ or facts["class_names"] != task.class_names:
        raise UserError(
            f"model.start_from {path} is of a {facts['task']} with the classes {facts['class_names']}: give one of an "
            f"{type(task).__name__} with {task.class_names}"
        )
    taken = [name for name in NETWORKS if _take(getattr(task, name), name, checkpoint["state_dict"])]
    needed = [name for name in NETWORKS if getattr(task, name) is fixed]
    if not taken or (needed == ["network"] and "network" not in taken):
        raise UserError(f"model.start_from {path} has other networks: give the decoder, encoder and _args of its run")
    _check_pixels(task, path, taken, checkpoint["hyper_parameters"])
    rank_zero_info(f"weights of {' and '.join(taken)} from {path}")
    licence: str | None = facts.get("licence")
    return licence


def _take(network: nn.Module, name: str, state: dict[str, Tensor]) -> bool:
    """Loads what belongs to a network, all of it or nothing."""
    own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    expected = network.state_dict()
    if own.keys() != expected.keys() or any(own[key].shape != value.shape for key, value in expected.items()):
        return False
    network.load_state_dict(own)
    return True


def _check_pixels(task: Any, path: str, taken: list[str], earlier: dict[str, Any]) -> None:
    """Refuses weights of networks that saw otherwise normalised pixels: they load, and are wrong in silence."""
    for name in taken:
        border = name == "border_network" and not task.shared_encoder
        own: Preprocess = task.border_preprocess if border else task.preprocess
        prefix = "border_" if border else ""
        encoder, _ = timm_arguments(earlier[f"{prefix}encoder"], earlier[f"{prefix}encoder_args"] or {})
        expected = preprocessing_of(encoder, len(own.mean))
        for key, by_encoder in (("mean", expected.mean), ("std", expected.std)):
            theirs, ours = list(earlier[key] or by_encoder), list(getattr(own, key))
            if len(theirs) != len(ours) or any(abs(a - b) > 1e-6 for a, b in zip(theirs, ours, strict=True)):
                raise UserError(
                    f"model.start_from {path} was trained on pixels of {key} {theirs}, but this run has {ours}: "
                    f"set model.{key}: {theirs}"
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
