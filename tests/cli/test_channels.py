"""Pictures of five bands through every task, and how many channels the model has: as many as the data."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image
from tiny import TASKS, command, to_bands, write_experiment

from lit_vision.__main__ import main
from lit_vision.tasks.checkpoints import load_task


@pytest.fixture(scope="session")
def bands(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_bands(drawn, tmp_path_factory.mktemp("bands") / "set")


def written(folder: Path, task: str) -> list[np.ndarray]:
    """What `predict` wrote for each picture, in order: probabilities, boxes with scores, or a map of numbers."""
    if task in ("segmentation", "instances"):
        paths = sorted((folder / ("masks" if task == "segmentation" else "labels")).glob("*.png"))
        return [np.asarray(Image.open(path)) for path in paths]
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    if task == "classification":
        return [np.array(row[3:], float) for row in rows]
    images = json.loads((folder / "predictions.json").read_text())["images"]
    names = [image["file_name"] for image in images]
    return [np.array([row[2:] for row in rows if row[0] == name], float) for name in names]


def expected(task: str, prediction: dict[str, torch.Tensor]) -> np.ndarray:
    if task == "detection":
        return torch.cat([prediction["scores"][:, None], prediction["boxes"]], 1).numpy()
    return prediction[
        {"classification": "probabilities", "segmentation": "mask", "instances": "instances"}[task]
    ].numpy()


def by_place(rows: np.ndarray) -> np.ndarray:
    """Detections (score, box) in the order of their boxes, to the pixel."""
    return rows[np.lexsort((rows[:, 0], *rows[:, 1:].round().T))]


@pytest.mark.parametrize("task", TASKS)
def test_five_bands_from_training_to_prediction(task: str, workspace: Path, bands: Path) -> None:
    low = {"objectness_threshold": 0.0, "score_threshold": 0.0} if task == "detection" else {}
    data = {"in_channels": 5, "batch_size": 2}
    experiment = write_experiment(Path("five.yaml"), task, bands, low, data, limit_train_batches=2)
    fitted = command("fit", experiment)
    assert fitted.trainer.global_step == 2
    convolutions = [module for module in fitted.model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert convolutions[0].in_channels == 5
    saved = yaml.safe_load((fitted.folder.path / "config.yaml").read_text())
    assert saved["data"]["init_args"]["in_channels"] == 5
    assert "in_channels" not in saved["model"]["init_args"]  # a run with other data has one key to change
    assert cv2.imread(str(fitted.folder.path / "pictures" / "first_batch.jpg")) is not None
    assert np.isfinite(command("test", experiment).metrics["test/loss"])

    experiment.unlink()
    pictures = bands / task / ("test" if task == "classification" else "images/test")
    checkpoint = fitted.folder.checkpoints / "last.ckpt"
    options = ["--images", str(pictures), "--output", "alone", "--batch_size", "2"]
    assert main(["predict", "--ckpt_path", str(checkpoint), *options]) == 0
    found, alone = written(Path("alone"), task), load_task(checkpoint)
    assert len(found) == len(list(pictures.rglob("*.tif")))
    for path, values in zip(sorted(pictures.rglob("*.tif")), found, strict=True):
        image = torch.from_numpy(tifffile.imread(path)).permute(2, 0, 1)[None]
        assert image.shape == (1, 5, 64, 64)
        frame, size = torch.eye(2, 3)[None], torch.tensor([[64, 64]])
        batch = {"image": image, "frame": frame, "size": size, "index": size[0]}
        with torch.inference_mode():
            (wanted,) = alone.predict_step(batch, 0)
            outputs, turned = alone(image), alone(image.flip(1))
        truth = expected(task, wanted)
        if task == "detection":  # scores that are equal but for rounding have no order
            values, truth = by_place(values), by_place(truth)
        np.testing.assert_allclose(values, truth, atol=0.01)
        assert values.size > 0
        assert not all(map(torch.allclose, outputs, turned))  # the negative control: the order of bands matters


def fit(experiment: Path, *options: str) -> int:
    return main(["fit", "-c", str(experiment), "--trainer.fast_dev_run", "true", *options])


def test_channels_are_said_once_or_alike(workspace: Path, bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    five = write_experiment(Path("five.yaml"), "classification", bands, data={"in_channels": 5})
    both = write_experiment(Path("both.yaml"), "classification", bands, {"in_channels": 5}, {"in_channels": 5})
    assert fit(five) == fit(both) == 0
    three = write_experiment(Path("three.yaml"), "classification", bands, {"in_channels": 3}, {"in_channels": 5})
    capsys.readouterr()
    for given in (
        [str(three)],
        [str(five), "--model.in_channels=3"],
        [str(both), "--model.init_args.in_channels", "3"],
    ):
        assert fit(Path(given[0]), *given[1:]) == 2
        assert capsys.readouterr().err.splitlines()[-1:] == [
            "error: model.in_channels is 3, but data.in_channels is 5; leave the model's out: it comes from the data"
        ]
    assert fit(both, "--data.in_channels", "4") == 2
    assert "error: model.in_channels is 5, but data.in_channels is 4;" in capsys.readouterr().err
    assert fit(five, "--data.in_channels", "4") == 2
    assert "has 5 bands but in_channels is 4" in capsys.readouterr().err


def test_checkpoint_of_other_channels_names_both(
    workspace: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = write_experiment(Path("grey.yaml"), "classification", drawn, data={"in_channels": 1})
    command("fit", experiment, "--trainer.limit_val_batches", "0")
    options = ["--ckpt_path", "last", "--data.in_channels", "3"]
    assert main(["test", "-c", str(experiment), *options]) == 2
    assert "last.ckpt does not fit this network: model.in_channels is 3 now, was 1" in capsys.readouterr().err
