"""The runs that are compared: what each has seen, tested first where it was not yet, and whether they go together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.cli.launcher import Launcher
from lit_vision.errors import UserError
from lit_vision.runs import evidence, folder
from lit_vision.runs.evidence import Evidence

COMMANDS = {"test": "test", "val": "validate"}  # that look at a split, and the folders that they write


@dataclass(frozen=True)
class Group:
    """One run, or several that differ by their seed and count as one: the value is the mean of theirs.

    Args:
        name: as shown.
        runs: their folders.
        seen: what each of them has seen.
    """

    name: str
    runs: Sequence[Path]
    seen: Sequence[Evidence]

    def facts(self, name: str) -> list[Any]:
        """One of `Evidence.facts` of each run."""
        return [one.facts.get(name) for one in self.seen]


def collected(groups: Sequence[Sequence[Path]], split: str) -> list[Group]:
    """What the runs have seen of a split; those that have not yet are tested now, with their best checkpoint.

    Args:
        groups: run folders.
        split: "test" or "val".

    Raises:
        UserError: a run cannot be tested, or leaves nothing.
    """
    with Launcher() as launcher:
        return [Group(name_of(runs), runs, [_seen(launcher, run, split) for run in runs]) for runs in groups]


def name_of(runs: Sequence[Path]) -> str:
    """experiment/id of a run; of several, the ids together."""
    found = [folder.existing(run.resolve()) for run in runs]
    experiments = list(dict.fromkeys(one.experiment for one in found))
    return f"{'+'.join(experiments)}/{'+'.join(one.id for one in found)}"


def _seen(launcher: Launcher, run: Path, split: str) -> Evidence:
    command = COMMANDS[split]
    path = run / command / evidence.NAME
    why = _stale(run, path)
    if why:
        rank_zero_info(f"{run}: {why}; it is now: lit-vision {command} --run_dir {run} --ckpt_path best")
        code = launcher.run([command, "--run_dir", str(run), "--ckpt_path", "best"])
        if code != 0:
            raise UserError(f"{run} could not be tested, for the reason above; mend it, or leave the run out")
        if not path.is_file():
            raise UserError(f"{run}: the task leaves nothing of each picture: give its metrics a `per_image` method")
    return evidence.read(path)


def _stale(run: Path, path: Path) -> str | None:
    """Why a run has to be tested; None where its evidence is there and no older than its checkpoint."""
    if not path.is_file():
        return f"not tested on its {path.parent.name} split yet" if path.parent.name == "test" else "not validated yet"
    used = evidence.read(path).facts.get("checkpoint")
    checkpoint = run / "checkpoints" / Path(used).name if used else run
    trained_on = used and checkpoint.is_file() and checkpoint.stat().st_mtime > path.stat().st_mtime
    return f"{checkpoint.name} is newer than its evaluation" if trained_on else None


# --- do they go together? ---------------------------------------------------------------------------------------
def agreed(groups: Sequence[Group]) -> list[Group]:
    """The groups with their pictures in one order.

    Raises:
        UserError: tasks, classes, pictures or labels differ; names the first that does.
    """
    base, first = groups[0].runs[0], groups[0].seen[0]
    if not len(first):
        raise UserError(f"{base} has seen no picture: there is nothing to compare")
    return [
        replace(group, seen=[_like(first, base, *pair) for pair in zip(group.seen, group.runs, strict=True)])
        for group in groups
    ]


def _like(first: Evidence, base: Path, other: Evidence, run: Path) -> Evidence:
    """The other run's evidence in the order of the first one's pictures."""
    if other.kind != first.kind:
        raise UserError(f"{run} is of {_task(other)}, but {base} is of {_task(first)}: compare runs of one task")
    if list(other.class_names) != list(first.class_names):
        classes = [_short(", ".join(one.class_names)) for one in (other, first)]
        raise UserError(
            f"{run} has the classes {classes[0]}, but {base} has {classes[1]}: compare runs of one data set"
        )
    places = {name: place for place, name in enumerate(other.files)}
    known = set(first.files)
    for names, there, lacking in ((first.files, places, run), (other.files, known, base)):
        absent = next((name for name in names if name not in there), None)
        if absent is not None:
            raise UserError(
                f"{base} saw {len(first)} pictures and {run} saw {len(other)}: {lacking} did not see {absent}; "
                "compare runs on the same split"
            )
    ordered = other.at(np.array([places[name] for name in first.files], np.int64))
    differing = np.flatnonzero(ordered.labels != first.labels)
    if len(differing):
        raise UserError(
            f"{first.files[differing[0]]} has other labels in {run} than in {base} "
            f"({len(differing)} of {len(first)} pictures do): test both again on the same labels"
        )
    return ordered


def _task(one: Evidence) -> str:
    return one.kind.replace("_", "-")


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
