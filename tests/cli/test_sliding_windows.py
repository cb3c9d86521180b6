"""A classifier and the windows over it, from the command line: fit, test, predict, and what is refused."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny import command, write_experiment

from lit_vision.__main__ import main
from lit_vision.errors import UserError


@pytest.fixture(scope="module")
def classifier(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs of an experiment: one run of a classifier of drawn objects."""
    place = tmp_path_factory.mktemp("crops")
    data = {"root": str(drawn / "detection"), "image_size": 32, "fit": "stretch", "crops": {"background": 2}}
    experiment = write_experiment(place / "crops.yaml", "classification", drawn, data=data)
    command("fit", experiment, "--runs", str(place / "runs"))
    return place / "runs" / "crops"


@pytest.fixture
def experiment(workspace: Path, drawn: Path, classifier: Path) -> Path:
    """windows.yaml in an empty working folder."""
    arguments = {
        "classifier": str(classifier),
        "window_sizes": [24],
        "background": "background",
        "score_threshold": 0.2,
    }
    content = {
        "model": {"class_path": "SlidingWindowDetector", "init_args": arguments},
        "data": {
            "class_path": "DetectionDataModule",
            "init_args": {"root": str(drawn / "detection"), "fit": "native", "batch_size": 2, "num_workers": 0},
        },
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
        "wandb": "off",
    }
    path = workspace / "windows.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_from_the_classifiers_folder_to_boxes_on_pictures(experiment: Path, drawn: Path) -> None:
    done = command("test", experiment)
    folder = done.folder.path
    metrics = json.loads((folder / "test" / "metrics.json").read_text())["metrics"]
    assert {"test/map", "test/map_50", "test/ms_per_picture", "test/windows_per_picture"} <= set(metrics)
    assert (folder / "pictures" / "test.jpg").is_file()
    assert (folder / "test" / "per_image.npz").is_file()
    kept = yaml.safe_load((folder / "test" / "config.yaml").read_text())
    assert kept["model"]["init_args"]["classifier"].endswith("checkpoints/best.ckpt")  # which run it was

    command("predict", experiment, "--run_dir", str(folder))
    assert len(json.loads((folder / "predict" / "predictions.json").read_text())["images"]) == 5

    best = str(folder / "checkpoints" / "best.ckpt")
    images = str(drawn / "detection" / "images" / "test")
    assert main(["predict", "--ckpt_path", best, "--images", images, "--output", "found"]) == 0
    with (folder / "predict" / "predictions.csv").open() as one, Path("found/predictions.csv").open() as other:
        rows = [[row[1:] for row in csv.reader(file)] for file in (one, other)]
    assert rows[0] == rows[1]
    assert len(rows[0]) > 5
    assert main(["predict", "--ckpt_path", best, "--images", images, "--output", "none", "--threshold", "1"]) == 0
    assert len(Path("none/predictions.csv").read_text().splitlines()) == 1


def test_crops_can_be_tested_and_predicted(classifier: Path, drawn: Path, workspace: Path) -> None:
    (run,) = classifier.iterdir()
    assert main(["test", "-c", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 0
    assert main(["predict", "-c", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 0
    rows = (run / "predict" / "predictions.csv").read_text().splitlines()
    pictures = list((run / "predict" / "pictures").rglob("*.jpg"))
    assert len(rows) - 1 == len(pictures) > 5 * 3
    facts = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["lit_vision"]
    assert facts["class_names"] == ["disc", "square", "triangle", "star", "background"]


def test_there_is_nothing_to_fit_and_no_other_checkpoint(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["fit"], ["advise"]):
        assert main([*words, "-c", str(experiment)]) == 2
        assert "a SlidingWindowDetector has nothing to train: fit its classifier" in capsys.readouterr().err
    assert main(["test", "-c", str(experiment), "--ckpt_path", "best"]) == 2
    assert "has its weights from model.classifier: leave out --ckpt_path best" in capsys.readouterr().err
    assert main(["fit", "-c", str(experiment), "--print_config"]) == 0


def test_a_folder_without_a_run_is_named(experiment: Path, workspace: Path) -> None:
    (workspace / "empty").mkdir()
    with pytest.raises(UserError, match="there is no checkpoint in empty"):
        command("test", experiment, "--model.classifier", "empty")


def test_window_sizes_must_be_given(experiment: Path) -> None:
    text = yaml.safe_load(experiment.read_text())
    del text["model"]["init_args"]["window_sizes"]
    experiment.write_text(yaml.safe_dump(text))
    with pytest.raises(UserError, match=r"SlidingWindowDetector needs model\.window_sizes"):
        command("test", experiment)
