"""Trainings of a last layer, with and without kept features, through the command line; also as a program.

python caching.py <root of draw_shapes> <runs folder> <options as JSON>
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from tiny import command, write_experiment

from lit_vision.cli.vision_cli import VisionCLI

EPOCHS, BATCH = 3, 3  # 20 pictures: six steps an epoch, and two pictures that an epoch leaves out
FLIPS = {"class_path": "lit_vision.data.augmentation.Augmentation", "init_args": {"crop_area": [0.4, 1.0]}}


class Sources(pl.Callback):
    """Notes for each training batch whether it was one of features, and the files that there were at each epoch."""

    def __init__(self) -> None:
        self.kept: list[bool] = []
        self.files: list[list[str]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.files.append(kept_files(Path(trainer.default_root_dir)))

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, i: int) -> None:
        self.kept.append("features" in batch)


class Open(pl.Callback):
    """Lets the backbone train between two steps, as somebody's own callback may."""

    def __init__(self, step: int, until: int = 999) -> None:
        self.step, self.until = step, until

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        for name, parameter in pl_module.network.named_parameters():
            if not name.startswith("fc."):
                parameter.requires_grad_(self.step <= trainer.global_step < self.until)


def kept_files(run: Path) -> list[str]:
    """Names of the files of features without their keys."""
    return sorted("-".join(path.name.split("-")[:2]) for path in (run / "features").glob("*.features"))


def fit(
    root: Path,
    runs: Path,
    cached: bool = True,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    options: tuple[str, ...] = (),
    **trainer: Any,
) -> VisionCLI:
    """One training; the run's folder is the only one in `runs`.

    Args:
        root: of `draw_shapes`.
        runs: folder of run folders.
        cached: with kept features.
        model: init_args beside those of a frozen backbone with dropout before the last layer.
        data: init_args of the data.
        options: of the command line.
        trainer: init_args of the trainer.
    """
    runs.mkdir(parents=True, exist_ok=True)
    arguments = {"freeze": "backbone", "dropout": 0.3, **({"cache_features": True} if cached else {}), **(model or {})}
    callbacks = [*trainer.pop("callbacks", []), {"class_path": "caching.Sources"}, {"class_path": "tiny.RecordOutputs"}]
    given = {"max_epochs": EPOCHS, "log_every_n_steps": 1, **trainer, "callbacks": callbacks}
    chosen = {"batch_size": BATCH, "augmentation": "none", **(data or {})}
    path = write_experiment(runs.parent / f"{runs.name}.yaml", "classification", root, arguments, chosen, **given)
    return command("fit", path, "--runs", str(runs), *options)


def sources(done: VisionCLI) -> Sources:
    (one,) = [one for one in done.trainer.callbacks if isinstance(one, Sources)]
    return one


def die_at_row(number: int) -> None:
    """A kill -9 between a row's numbers and its tag."""
    write, count = os.pwrite, 0

    def counted(file: int, data: bytes, offset: int) -> int:
        nonlocal count
        count += 1
        if count == 2 * number:  # each row is two writes
            os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data, offset)

    os.pwrite = counted


def main(root: Path, runs: Path, given: dict[str, Any]) -> None:
    """As one process, or one of two."""
    row = given.pop("die_at_row", 0)
    if row:
        die_at_row(row)
    done = fit(root, runs, **given)
    if done.trainer.is_global_zero:  # not printed: two processes and their libraries write to one pipe
        runs.with_suffix(".json").write_text(json.dumps(sources(done).kept))


if __name__ == "__main__":
    import caching  # the classes that the experiment names

    caching.main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
