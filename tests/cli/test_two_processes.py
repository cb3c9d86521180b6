"""Two real processes over gloo give what one gives: the same metrics, every picture once, one W&B run a command."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TASKS, command, write_experiment

from lit_vision.metrics.weighted import weighted
from lit_vision.runs.evidence import read

pytestmark = pytest.mark.slow
SECONDS = 300


def two(name: str, experiment: Path, *options: str, wandb: str = "off") -> str:
    """One command in two processes, as a user starts it; gives what it said."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(root)}
    words = [
        name,
        "-c",
        str(experiment),
        "--wandb",
        wandb,
        "--trainer.strategy",
        "ddp",
        "--trainer.devices",
        "2",
        *options,
    ]
    process = subprocess.run(
        [sys.executable, "-m", "lit_vision", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


def metrics(folder: Path, name: str) -> dict[str, float]:
    values: dict[str, float] = json.loads((folder / name / "metrics.json").read_text())["metrics"]
    return values


def names_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same_results(one: Path, other: Path) -> None:
    """Equal files in equal order; numbers to the last digits, which the division into batches may change."""
    assert names_of(one) == names_of(other)
    for name in names_of(one):
        if name.endswith(".csv"):
            rows = [list(csv.reader((folder / name).open(newline=""))) for folder in (one, other)]
            assert [row[:2] for row in rows[0]] == [row[:2] for row in rows[1]]
            numbers = [np.array([row[2:] for row in table[1:]], float) for table in rows]
            np.testing.assert_allclose(*numbers, atol=2e-5)
        elif name.endswith(".json"):
            contents = [json.loads((folder / name).read_text()) for folder in (one, other)]
            assert contents[0].get("images") == contents[1].get("images")
            assert len(contents[0].get("annotations", [])) == len(contents[1].get("annotations", []))
        elif name.endswith(".png"):
            assert np.array_equal(*(np.asarray(Image.open(folder / name)) for folder in (one, other)))


def assert_every_picture_once(folder: Path, task: str, paths: list[Path]) -> None:
    """As many pictures as the test split has, in its order where a file has an order."""
    stems = [path.stem for path in paths]
    assert sorted(path.stem for path in (folder / "pictures").rglob("*.jpg")) == sorted(stems)
    if task == "classification":
        rows = list(csv.reader((folder / "predictions.csv").open(newline="")))[1:]
        assert [row[0] for row in rows] == [str(path) for path in paths]
    elif task == "segmentation":
        assert sorted(path.stem for path in (folder / "masks").rglob("*.png")) == sorted(stems)
    else:
        images = json.loads((folder / "predictions.json").read_text())["images"]
        assert [(image["id"], image["file_name"]) for image in images] == list(enumerate(map(str, paths), 1))


@pytest.mark.parametrize("task", TASKS)
def test_metrics_and_predictions_are_those_of_one_process(task: str, workspace: Path, drawn: Path) -> None:
    root = workspace / "set"
    shutil.copytree(drawn / task, root / task)
    if task == "classification":
        next((root / task / "test").rglob("*.jpg")).unlink()  # an odd number: one process has a repeat at the end
    low = {"objectness_threshold": 0.0, "score_threshold": 0.01, "max_detections": 5} if task == "detection" else {}
    experiment = write_experiment(Path("two.yaml"), task, root, low, {"batch_size": 2})
    fitted = command("fit", experiment)
    folder, index = fitted.folder.path, fitted.datamodule.index
    paths = [index.path(i) for i in index.indices("test").tolist()]
    assert len(paths) % 2 == 1

    one = ("--data.batch_size", "1")  # Dice is the loss of a batch: another division is another loss
    two("test", experiment, *one)
    found, kept = metrics(folder, "test"), read(folder / "test" / "per_image.npz")
    expected = command("test", experiment, *one).metrics
    alone = read(folder / "test" / "per_image.npz")
    assert kept.files == alone.files == [path.relative_to(index.root).as_posix() for path in paths]  # no padding
    assert kept.labels.tolist() == alone.labels.tolist()
    for name, values in alone.arrays.items():
        np.testing.assert_allclose(kept.arrays[name], values, rtol=1e-5, err_msg=name)
    value = weighted(kept.kind, kept.metric, kept.arrays, kept.class_names)(np.ones((1, len(paths))))[0]
    assert value == pytest.approx(found[f"test/{kept.metric}"], abs=6e-8)
    for values in (found, expected):
        assert values.pop("test/ms_per_picture", 1.0) > 0  # of a detector, and other each time
    assert found == pytest.approx(expected, abs=1e-6, rel=1e-6, nan_ok=True)
    assert expected != pytest.approx(command("validate", experiment).metrics)  # the control: they say something

    two("predict", experiment)
    shutil.move(folder / "predict", "two")
    command("predict", experiment)
    (folder / "predict" / "config.yaml").unlink()
    (Path("two") / "config.yaml").unlink()
    assert_every_picture_once(Path("two"), task, paths)
    assert_same_results(Path("two"), folder / "predict")


def test_a_training_of_two_writes_one_run(workspace: Path, drawn: Path) -> None:
    experiment = write_experiment(Path("two.yaml"), "classification", drawn)
    two("fit", experiment, wandb="offline")
    two("test", experiment, wandb="offline")
    (folder,) = Path("runs/two").iterdir()
    assert {"config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= set(names_of(folder))
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    assert len(rows) == 1
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    alone = command("validate", experiment, "--ckpt_path", checkpoint).metrics
    for name in ("val/loss", "val/accuracy", "val/f1"):
        assert float(rows[0][name]) == pytest.approx(alone[name], abs=1e-6)
    sent = [sorted(path.name.split("_")[0] for path in run.rglob("media/images/pictures/*")) for run in wandb(folder)]
    assert sent == [["confusion", "first", "val"], ["confusion", "test"]]


def wandb(folder: Path) -> list[Path]:
    """Offline runs of a run folder, the oldest first."""
    return sorted((folder / "wandb").glob("offline-run-*"))
