"""Whether a checkpoint suits a task and its data."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from lit_vision.errors import UserError

PREPARED = ("image_size", "fit", "in_channels", "depth")  # of a data module's `preprocessing`


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


def say_other_preparation(known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """A line where the data's pictures are prepared otherwise than those that a checkpoint was made with."""
    changed = [key for key in PREPARED if key in known and key in given and known[key] != given[key]]
    if changed:
        pairs = [f"data.{key} is {_plain(given[key])} ({_plain(known[key])} in the checkpoint)" for key in changed]
        rank_zero_info(f"{', '.join(pairs)}: the network sees other pictures than it was made with")


def _plain(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
