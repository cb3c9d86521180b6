"""Which run `--resume` continues, from which of its checkpoints, and whether there is anything left to do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from lit_vision.cli.names import nearest
from lit_vision.errors import UserError
from lit_vision.runs.checkpoints import check_task, read_header
from lit_vision.runs.folder import newest_first

LIGHTNINGS_EPOCHS = 1000  # where neither max_epochs nor another limit is given
NOT_COMPARED = ("ckpt_path", "run_dir", "resume", "experiment", "runs", "config")


@dataclass(frozen=True)
class Resumed:
    """A run to be continued.

    Args:
        folder: its run folder.
        checkpoint: the newest that is whole; None where the run ended before its first.
        header: see `read_header`.
    """

    folder: Path
    checkpoint: Path | None = None
    header: Mapping[str, Any] = field(default_factory=dict)


def resumed(which: str, runs: Path, experiment: str, run_dir: Path | None = None) -> Resumed | None:
    """The run that `--resume` means; None where `auto` finds none, and a new one is to begin.

    Args:
        which: "auto" or a run folder.
        runs: root of all run folders.
        experiment: name of the experiment.
        run_dir: the one run to continue where `which` is "auto", instead of the newest with a checkpoint.

    Raises:
        UserError: there is no such folder, or none of its checkpoints is whole.
    """
    if which != "auto":
        folder = Path(which)
        if not folder.is_dir():
            hint = nearest(which, ("auto",))
            raise UserError(f"--resume {which}: no such run folder (it takes auto or a run folder){hint}")
        if not (folder / "config.yaml").is_file() and not checkpoints(folder):
            raise UserError(f"--resume {which}: this is no run folder: it has neither config.yaml nor checkpoints")
    elif run_dir is not None:
        folder = run_dir
    else:
        found = next((one for one in newest_first(runs / experiment) if checkpoints(one)), None)
        if found is None:
            rank_zero_info(f"--resume auto: no run in {runs / experiment} has a checkpoint; a new one begins")
            return None
        folder = found
    if not checkpoints(folder):
        if folder.exists():
            rank_zero_info(f"{folder} has no checkpoint yet; it begins anew")
        return Resumed(folder)
    return newest_whole(folder)


def to_continue(
    which: str, task: str, trainer: Mapping[str, Any], runs: Path, experiment: str, run_dir: Path | None = None
) -> Resumed | None:
    """The run that is to be continued, after all has been checked that can be before anything is built.

    Args:
        which: "auto" or a run folder, see `resumed`.
        task: name of the model's class.
        trainer: options of the Trainer.
        runs: root of all run folders.
        experiment: name of the experiment.
        run_dir: see `resumed`.

    Raises:
        UserError: it cannot be continued.
        SystemExit: it has finished, with code 0 and a sentence.
    """
    run = resumed(which, runs, experiment, run_dir)
    if run is not None and run.checkpoint is not None:
        check_task(run.checkpoint, run.header, task)
        reason = finished(run.header, trainer)
        if reason:
            rank_zero_info(f"{run.folder} has finished: {reason}")
            raise SystemExit(0)
    return run


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files of a run folder: last.ckpt, previous.ckpt, then the others."""
    order = {"last.ckpt": 0, "previous.ckpt": 1}
    return sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: (order.get(path.name, 2), path.name))


def newest_whole(folder: Path) -> Resumed:
    """last.ckpt of a run, or where it is damaged the newest of the others.

    Raises:
        UserError: all are damaged.
    """
    files = checkpoints(folder)
    whole: list[Resumed] = []
    for path in files:
        try:
            whole.append(Resumed(folder, path, read_header(path)))
        except UserError:
            rank_zero_info(f"{path} is damaged; trying the one before")
            continue
        if path.name == "last.ckpt":
            break
    if not whole:
        names = ", ".join(path.name for path in files)
        raise UserError(f"--resume: all checkpoints of {folder} are damaged ({names}); start a new run")
    best = max(whole, key=lambda one: (one.header["step"], one.header["epochs"]))
    epochs = best.header["epochs"]
    rank_zero_info(f"resuming {folder} from {best.checkpoint} (step {best.header['step']}, {epochs} epochs done)")
    return best


def finished(header: Mapping[str, Any], trainer: Mapping[str, Any]) -> str | None:
    """Why a run has nothing left to do; None where it has.

    Args:
        header: of its newest checkpoint.
        trainer: options of the Trainer.
    """
    steps = -1 if trainer.get("max_steps") is None else trainer["max_steps"]
    bounded = steps != -1 or trainer.get("max_time")
    epochs = trainer.get("max_epochs") or (-1 if bounded else LIGHTNINGS_EPOCHS)
    if epochs != -1 and header["epochs"] >= epochs:
        return f"all {header['epochs']} epochs are done; raise --trainer.max_epochs to train on"
    if steps != -1 and header["step"] >= steps:
        return f"all {header['step']} steps are done; raise --trainer.max_steps to train on"
    ended = (header.get("run") or {}).get("finished") or {}
    early = ended.get("early") and (ended["max_epochs"], ended["max_steps"]) == (epochs, steps)
    if early and not trainer.get("max_time"):
        return f"a callback ended it early, after {header['step']} steps; raise --trainer.max_epochs to train on"
    return None


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Options that differ between two configurations, such as "trainer.max_epochs 2 -> 4"."""
    old, new = dict(_flat(before)), dict(_flat(now))
    names = [name for name in sorted({*old, *new}) if name.partition(".")[0] not in NOT_COMPARED]
    return [f"{name} {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        name = f"{prefix}{key}".replace(".init_args", "")
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
            yield from _flat({str(i): one for i, one in enumerate(value)}, f"{name}.")
        else:
            yield name, value
