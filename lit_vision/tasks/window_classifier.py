"""The classifier behind a sliding window: from a checkpoint, its classes matched with the data's by name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from lit_vision.errors import UserError
from lit_vision.tasks.checkpoints import build_task, load_task, read_checkpoint
from lit_vision.tasks.classification import TransferClassifier


def load_classifier(classifier: str | Mapping[str, Any]) -> tuple[TransferClassifier, dict[str, Any]]:
    """A trained classifier in evaluation mode, and its description in plain values.

    Args:
        classifier: checkpoint file; or a description, which gives a classifier with weights to be loaded.

    Raises:
        UserError: it is not of a TransferClassifier, or does not say how its pictures were prepared.
    """
    if isinstance(classifier, str):
        path = Path(os.path.expandvars(classifier)).expanduser()
        checkpoint = read_checkpoint(path)
        facts = {key: dict(checkpoint[key]) for key in ("lit_vision", "hyper_parameters")}
        task = load_task(path)
    else:
        path, facts = Path("of a SlidingWindowDetector"), {key: dict(value) for key, value in classifier.items()}
        task = build_task(facts, path)
        task.on_load_checkpoint(facts)
    if not isinstance(task, TransferClassifier):
        raise UserError(
            f"model.classifier: {path} is of a {type(task).__name__}: give a checkpoint of a TransferClassifier"
        )
    if "image_size" not in task.data:
        raise UserError(f"model.classifier: {path} does not say how its pictures were prepared: use one of fit")
    return task.eval(), facts


def match_classes(wanted: Sequence[str], known: Sequence[str], background: str | None) -> list[int]:
    """Position of each class of the data among the classifier's, -1 where it has none; says what has no partner.

    Args:
        wanted: classes of the data.
        known: classes of the classifier.
        background: the one that means no object.

    Raises:
        UserError: `background` is not among `known` or is a class of the data, or no class is in both.
    """
    shown = ", ".join(known)
    if background is not None and (background not in known or background in wanted):
        what = "a class of the data's objects" if background in wanted else "no class of the classifier"
        raise UserError(f"model.background is {background!r}, {what}: the classifier knows {shown}")
    columns = [known.index(name) if name in known else -1 for name in wanted]
    if max(columns) < 0:
        raise UserError(f"the classifier knows {shown}, and the data has none of them ({', '.join(wanted)})")
    if lacking := [name for name, column in zip(wanted, columns, strict=True) if column < 0]:
        rank_zero_info(f"the classifier does not know {', '.join(lacking)}: never found, scores 0")
    if others := [name for name in known if name not in (*wanted, background)]:
        rank_zero_info(f"the data has no {', '.join(others)}: windows of the classifier's that show it are no objects")
    return columns
