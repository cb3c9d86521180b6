"""k folds in one command: each is trained and validated by processes of its own, then mean and interval are shown."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_info
from rich.console import Console
from rich.table import Table

from lit_vision.cli.launcher import Launcher
from lit_vision.errors import UserError
from lit_vision.metrics import bootstrap
from lit_vision.metrics.weighted import weighted
from lit_vision.runs import evidence
from lit_vision.runs.checkpoints import read_header
from lit_vision.runs.folder import claimed
from lit_vision.runs.folds_file import NAME, Fold, Folds

ADDITIVE = ("classification", "segmentation")  # scores of several networks cannot be ranked together
RESAMPLES = 10_000
LEVEL = 0.95


class FoldError(Exception):
    """A fold's command has failed; it has said why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def main(folds: Folds, reported: str = "last") -> int:
    """Trains what is left to train, and shows the table.

    Args:
        folds: which, and what is done already.
        reported: "last" or "best": the checkpoint whose mean and interval are given.

    Returns:
        0; the code of the command that failed; 143 after SIGTERM.
    """
    again = f"continue with `lit-vision fit --resume {folds.folder}`"
    try:
        with claimed(folds.folder), Launcher() as launcher:
            for fold in folds.runs:
                _run(launcher, folds, fold, reported)
            folds.summary = summary(folds, reported)
            folds.save()
    except FoldError as failed:
        if (folds.folder / NAME).is_file():
            print(f"what is done is kept in {folds.folder}; {again}", file=sys.stderr)
        return failed.code
    except SystemExit:  # after SIGTERM
        print(f"stopped; {again}", file=sys.stderr)
        raise
    console = Console()
    console.print(table_of(folds))
    for line in sentences(folds, reported):
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def _run(launcher: Launcher, folds: Folds, fold: Fold, reported: str) -> None:
    """Trains and validates one fold, as far as it is not done."""
    count, path = len(folds.runs), folds.run_dir(fold.fold)
    group = os.environ.get("WANDB_RUN_GROUP", f"{folds.experiment}-{folds.folder.name}")
    if not fold.trained:
        rank_zero_info(f"fold {fold.fold} ({fold.fold + 1} of {count}): {path}")
        words = [*folds.words, "--experiment", folds.experiment, "--run_dir", str(path), "--resume", "auto"]
        words += ["--data.folds", str(count), "--data.fold", str(fold.fold)]
        started = time.monotonic()
        try:
            _succeed(launcher.run(["fit", *words], WANDB_RUN_GROUP=group))
            fold.trained = True
        finally:
            fold.seconds += time.monotonic() - started
            if path.is_dir():  # something is there to be continued
                folds.save()
    others = ["best", "last"] if reported == "last" else ["last", "best"]
    if _same(path):
        others = [reported]
    for which in others:  # what is reported comes last, so that its evidence stays
        if getattr(fold, which) is None or which == others[-1]:
            _validate(launcher, folds, fold, which)
    if len(others) == 1:
        fold.best = fold.last = getattr(fold, reported)
    folds.save()


def _validate(launcher: Launcher, folds: Folds, fold: Fold, which: str) -> None:
    path = folds.run_dir(fold.fold)
    told = path / "validate" / "metrics.json"
    if not _is_of(told, which):
        _succeed(launcher.run(["validate", "--run_dir", str(path), "--ckpt_path", which, "--wandb", "off"]))
    facts = json.loads(told.read_text())
    folds.metric = facts["monitor"]
    if folds.metric not in facts["metrics"]:
        raise UserError(f"{told} has no {folds.metric}, by which the task chooses its best checkpoint")
    setattr(fold, which, facts["metrics"][folds.metric])
    seen = path / "validate" / evidence.NAME
    fold.pictures = len(evidence.read(seen)) if seen.is_file() else None


def _is_of(told: Path, which: str) -> bool:
    """Whether a validation was of this checkpoint, as it is now."""
    if not told.is_file():
        return False
    checkpoint = Path(json.loads(told.read_text())["checkpoint"] or "")
    return (
        checkpoint.name == f"{which}.ckpt"
        and checkpoint.is_file()
        and checkpoint.stat().st_mtime <= told.stat().st_mtime
    )


def _same(path: Path) -> bool:
    """Whether the best checkpoint is the last one."""
    files = [path / "checkpoints" / f"{which}.ckpt" for which in ("best", "last")]
    return all(file.is_file() for file in files) and len({read_header(file)["step"] for file in files}) == 1


def _succeed(code: int) -> None:
    if code == 143:
        raise SystemExit(code)
    if code != 0:
        raise FoldError(code if code > 0 else 1)


# --- what came out ----------------------------------------------------------------------------------------------
def summary(folds: Folds, reported: str) -> dict[str, Any]:
    """Mean, interval and standard deviation over the folds, and where the metric allows it the value of all pictures.

    Args:
        folds: finished ones.
        reported: "last" or "best".
    """
    values = [float(getattr(fold, reported)) for fold in folds.runs]
    mean, low, high = bootstrap.mean_interval(values, LEVEL)
    found: dict[str, Any] = {"reported": reported, "mean": mean, "low": low, "high": high}
    found["standard_deviation"] = float(np.std(values, ddof=1))
    paths = [folds.run_dir(fold.fold) / "validate" / evidence.NAME for fold in folds.runs]
    if all(path.is_file() for path in paths):
        seen = evidence.pooled([evidence.read(path) for path in paths])
        if seen.kind in ADDITIVE:
            found["pooled"] = _pooled(seen)
    return found


def _pooled(seen: evidence.Evidence) -> dict[str, Any]:
    """The metric of all pictures, each as the network saw it that was not trained on it."""
    metric = weighted(seen.kind, seen.metric, seen.arrays, list(seen.class_names))
    drawn = bootstrap.resamples(len(seen), RESAMPLES, 0)
    low, high = bootstrap.interval(np.concatenate([metric(block) for block in drawn]), LEVEL)
    return {"value": float(metric(np.ones((1, len(seen))))[0]), "low": low, "high": high, "pictures": len(seen)}


def table_of(folds: Folds) -> Table:
    """A row for each fold."""
    table = Table(title=f"{folds.metric} of {len(folds.runs)} folds: {folds.folder}", title_justify="left")
    for heading in ("fold", "pictures", "last", "best", "seconds"):
        table.add_column(heading, justify="right")
    for fold in folds.runs:
        pictures = "" if fold.pictures is None else str(fold.pictures)
        table.add_row(str(fold.fold), pictures, f"{fold.last:.4f}", f"{fold.best:.4f}", f"{fold.seconds:.0f}")
    return table


def sentences(folds: Folds, reported: str) -> list[str]:
    """Mean, interval, what to know about them, and where everything is."""
    found = folds.summary
    lines = [
        f"{reported}: mean {found['mean']:.4f}, 95 % interval {found['low']:.4f} .. {found['high']:.4f} "
        f"(Student's t, {len(folds.runs) - 1} degrees of freedom), standard deviation {found['standard_deviation']:.4f}"
    ]
    if "pooled" in found:
        pooled = found["pooled"]
        lines.append(
            f"all {pooled['pictures']} pictures, each when it was not trained on: {pooled['value']:.4f}, "
            f"95 % interval {pooled['low']:.4f} .. {pooled['high']:.4f} (bootstrap over pictures)"
        )
    lines.append("folds share training pictures: intervals over folds are rather too narrow")
    if reported == "best":
        lines.append("best was chosen on the fold that it is measured on, which flatters it; last was not")
    return [*lines, f"written: {folds.folder / NAME}"]
