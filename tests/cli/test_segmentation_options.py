"""What a segmentation's YAML can name: losses, schedules, crops, tiles and views, through the real command line."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny import command, write_experiment

from lit_vision.__main__ import main
from lit_vision.losses.pixel_choice import BoundaryCrossEntropyLoss, OHEMCrossEntropyLoss
from lit_vision.losses.segmentation import TverskyLoss
from lit_vision.predict import predict_images

OPTIMIZER = {"class_path": "SGD", "init_args": {"lr": 0.1}}


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize(
    ("scheduler", "factor"),
    [
        ({"class_path": "PolynomialLR", "init_args": {"total_iters": 4, "power": 0.9}}, (1 - 3 / 4) ** 0.9),
        ({"class_path": "CosineAnnealingLR", "init_args": {"T_max": 6}}, 0.5),
    ],
)
def test_schedules_by_class_path(
    scheduler: dict[str, Any], factor: float, interval: str, drawn: Path, workspace: Path
) -> None:
    model = {"optimizer": OPTIMIZER, "scheduler": scheduler, "scheduler_interval": interval}
    path = write_experiment(workspace / "toy.yaml", "segmentation", drawn, model, max_epochs=3, limit_val_batches=0)
    done = command("fit", path)
    assert done.trainer.global_step == 3  # four pictures, a batch each epoch
    rates = [group["lr"] for group in done.trainer.optimizers[0].param_groups]
    assert rates == pytest.approx([0.1 * factor] * len(rates))


@pytest.mark.parametrize(
    ("task", "key", "value", "wanted"),
    [
        ("instances", "border_radius", "2.5", "a whole number or auto"),
        ("instances", "border_radius", "wide", "a whole number or auto"),
        ("segmentation", "image_size", "[64, 64, 64]", "a whole number or a list of 2\n"),
        ("segmentation", "image_size", "wide", "a whole number or a list of 2\n"),
    ],
)
def test_a_value_of_no_type_asks_for_all(
    task: str, key: str, value: str, wanted: str, drawn: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(workspace / "toy.yaml", task, drawn)
    assert main(["fit", "-c", str(path), f"--data.{key}", value]) == 2
    assert f"data.{key} is {value}, but must be {wanted}" in capsys.readouterr().err


def test_a_list_or_a_word_is_asked_for_by_both(
    drawn: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(workspace / "toy.yaml", "segmentation", drawn)
    options = ["--model.loss", "CrossEntropyLoss", "--model.loss.class_weights", "atuo"]
    assert main(["fit", "-c", str(path), *options]) == 2
    said = "model.loss.class_weights is atuo, but must be a list or auto; did you mean 'auto'?"
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_losses_crops_tiles_and_views_by_yaml(drawn: Path, workspace: Path) -> None:
    losses = [
        {"class_path": "OHEMCrossEntropyLoss", "init_args": {"class_weights": "auto", "threshold": 0.6}},
        {"class_path": "BoundaryCrossEntropyLoss", "init_args": {"class_weights": "auto", "width": 2}},
        {"class_path": "TverskyLoss", "init_args": {"alpha": 0.2, "beta": 0.8}},
    ]
    model = {
        "loss": {"class_path": "SumLoss", "init_args": {"losses": losses, "weights": [1.0, 0.5, 0.5]}},
        "grad_checkpointing": True,
        "tile": 32,
        "tta_flips": ["horizontal"],
        "tta_scales": [1.0, 1.25],
    }
    data = {"fit": "native", "rare_crops": 0.5, "image_size": 48}
    path = write_experiment(workspace / "toy.yaml", "segmentation", drawn, model, data)
    loss = command("fit", path).model.loss
    assert [type(one) for one in loss.losses] == [OHEMCrossEntropyLoss, BoundaryCrossEntropyLoss, TverskyLoss]
    assert loss.losses[0].class_weights.tolist() == loss.losses[1].class_weights.tolist()
    tested = command("test", path)
    assert {"test/boundary_f1", "test/boundary_iou", "test/ece", "test/fw_iou"} <= tested.metrics.keys()
    assert (tested.folder.path / "test" / "per_image.npz").is_file()
    assert loss.losses[0].class_weights.tolist() == tested.model.loss.losses[0].class_weights.tolist()

    (workspace / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8)
    cv2.imwrite(str(workspace / "photos" / "large.png"), pixels)
    out = predict_images(tested.options.ckpt_path, workspace / "photos", workspace / "out")
    mask = cv2.imread(str(out / "masks" / "large.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape[:2] == (70, 101)
    classes = json.loads((out / "classes.json").read_text())
    assert len(classes["classes"] if isinstance(classes, dict) else classes) == len(tested.model.class_names)
