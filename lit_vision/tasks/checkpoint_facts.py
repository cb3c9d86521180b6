"""Whether a checkpoint suits a task and its data."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from lit_vision.errors import UserError
from lit_vision.networks.darknet import BN_EPS

PREPARED = ("image_size", "fit", "in_channels", "depth")  # of a data module's `preprocessing`
# Settings that may differ where all weights fit.
COMPUTING = (
    *("backbone", "backbone_args", "head_args", "bn_eps", "encoder", "encoder_args", "decoder", "decoder_args"),
    *("border_encoder", "border_encoder_args", "border_decoder", "border_decoder_args"),
)
PIXELS = ("mean", "std", "border_mean", "border_std")  # likewise; null where the weights decide


def refuse_other_count(given: Sequence[str], found: Sequence[str] | None) -> None:
    """Raises UserError where a task in Python has more or fewer classes than the data that it is to learn from."""
    if found is not None and len(given) != len(found):
        raise UserError(
            f"the model has {len(given)} classes {shown_classes(given)}, but the data has {len(found)} "
            f"{shown_classes(found)}: make it with the data module's class_names"
        )


def refuse_other_task(facts: Mapping[str, Any] | None, kind: str, class_names: Sequence[str]) -> Mapping[str, Any]:
    """The facts of a checkpoint, if it is of such a task with such classes.

    Args:
        facts: its `lit_vision`; None where it has none.
        kind: name of the task's class.
        class_names: of the data.

    Raises:
        UserError: it is of another task or of other classes.
    """
    if facts is None:
        raise UserError("the checkpoint was not written by lit_vision: give one of a lit_vision run")
    if facts["task"] != kind:
        raise UserError(f"the checkpoint is of a {facts['task']}, but the model is a {kind}")
    if list(facts["class_names"]) != list(class_names):
        raise UserError(_other_classes(facts["class_names"], class_names))
    return facts


def _other_classes(known: Sequence[str], given: Sequence[str]) -> str:
    pairs = [f"{a} / {b}" for a, b in zip(known, given, strict=False) if a != b]
    if len(known) == len(given) and len(pairs) < max(len(known) / 2, 2):
        return (
            f"the checkpoint names {len(pairs)} of its {len(known)} classes otherwise than the data: "
            f"{', '.join(pairs)}; rename the data's, or import the Darknet network again with these as --names"
        )
    return (
        f"the checkpoint knows {len(known)} classes {shown_classes(known)}, "
        f"but the data has {len(given)} {shown_classes(given)}: use the data it was trained on, or "
        "begin a new training with it by model.start_from"
    )


def shown_classes(names: Sequence[str]) -> str:
    """The first five."""
    return "(" + ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "") + ")"


def say_differences(checkpoint: Mapping[str, Any], data: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Says in what a run differs from that of the checkpoint it reads: its pictures, and what is done with them.

    Args:
        checkpoint: with `lit_vision` and `hyper_parameters`.
        data: how this run's pictures are prepared.
        settings: the task's arguments.
    """
    say_other_preparation(checkpoint["lit_vision"]["data"], data)
    say_other_computation(checkpoint.get("hyper_parameters", {}), settings)


def say_other_preparation(known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """A line where the data's pictures are prepared otherwise than those that a checkpoint was made with."""
    changed = [key for key in PREPARED if key in known and key in given and known[key] != given[key]]
    if changed:
        pairs = [f"data.{key} is {_plain(given[key])} ({_plain(known[key])} in the checkpoint)" for key in changed]
        rank_zero_info(f"{', '.join(pairs)}: the network sees other pictures than it was made with")


def say_other_computation(known: Mapping[str, Any], given: Mapping[str, Any], of: str = "the checkpoint") -> None:
    """A line where weights fit, but the network does something else with them than that of a checkpoint.

    Args:
        known: `hyper_parameters` of the checkpoint.
        given: those of the task; of what is missing in either, nothing is said.
        of: the checkpoint, as it is called in the line.
    """
    keys = [key for key in COMPUTING if key in known and key in given]
    keys += [key for key in PIXELS if known.get(key) and given.get(key)]
    both = [(key, _told(given, key), _told(known, key)) for key in keys]
    pairs = [f"model.{key} is {_plain(now)} ({_plain(then)} in {of})" for key, now, then in both if now != then]
    if pairs:
        rank_zero_info(f"{', '.join(pairs)}: the network computes otherwise than the one that learnt these weights")


def _told(settings: Mapping[str, Any], key: str) -> Any:
    """A setting, the same for those of the same meaning: nothing but defaults is null."""
    value = settings[key]
    if key == "bn_eps" and value is None and settings.get("backbone") is None:
        return BN_EPS  # of an architecture
    if isinstance(value, Mapping):
        plain = {key: one for key, one in value.items() if (key, one) != ("scale_x_y", 1)}
        return {key: one for key, one in plain.items() if "drop" not in key} or None  # training alone knows dropout
    return list(value) if isinstance(value, tuple) else value


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
