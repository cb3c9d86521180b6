"""Data that cannot be classified, through the command line: one sentence, exit code 2, nothing written."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from lit_vision.__main__ import main
from lit_vision.data.classification import ClassificationDataModule
from lit_vision.errors import DataError

# Folder -> number of pictures; options of the data module; what the sentence says.
FAULTS: dict[str, tuple[dict[str, int], dict[str, Any], str]] = {
    "one class": ({"cat": 4}, {}, "pictures lie in one class folder only, cat, so add one for each other class"),
    "one class with splits": ({"train/cat": 2, "val/cat": 2}, {}, "one class folder only, cat,"),
    "one class, format given": ({"cat": 4}, {"format": "folder"}, "has one class only, cat"),
    "one class chosen": ({"cat": 2, "dog": 2}, {"options": {"classes": ["dog"]}}, "has one class only, dog"),
    "fewer pictures than classes": (
        {"a": 1, "b": 1, "c": 0, "d": 0},
        {"val_fraction": 0.5},
        "has 2 pictures to train on, fewer than its 4 classes: add pictures, or set the option classes",
    ),
    "too few to validate on": (
        {"a": 1, "b": 1, "c": 1},
        {"val_fraction": 0.3},
        "so few images (3) that val_fraction 0.3 leaves none to validate on: add images of each class",
    ),
    "no training pictures": (
        {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1, "val/eel": 1},
        {},
        "the training split never shows eel: add examples",
    ),
    "an empty folder": (
        {"train/cat": 2, "train/dog": 2, "train/eel": 0, "val/cat": 1, "val/dog": 1},
        {},
        "the training split never shows eel (nor does any other): add examples",
    ),
    "only empty folders": ({"cat": 0, "dog": 0}, {}, "the folders (cat, dog) hold no file, so fill them"),
}


def pictures(root: Path, counts: dict[str, int]) -> Path:
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (12, 10), (20 * i, 90, 40)).save(root / folder / f"{i}.png")
    return root


def experiment(workspace: Path, root: Path, options: dict[str, Any]) -> str:
    data = {"root": str(root), "image_size": 32, "batch_size": 2, "num_workers": 0, **options}
    content = {
        "model": {"class_path": "TransferClassifier", "init_args": {"backbone": "test_resnet"}},
        "data": {"class_path": "ClassificationDataModule", "init_args": data},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "wandb": "off",
    }
    (workspace / "faulty.yaml").write_text(yaml.safe_dump(content))
    return str(workspace / "faulty.yaml")


@pytest.mark.parametrize("name", FAULTS)
def test_one_sentence_and_nothing_written(name: str, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts, options, words = FAULTS[name]
    root = pictures(workspace / "data", counts)
    file = experiment(workspace, root, options)
    before = sorted(root.rglob("*"))
    assert main(["fit", "-c", file]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in said if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert str(root) in errors[0]
    assert not any("Traceback" in line for line in said)
    assert sorted(root.rglob("*")) == before
    assert not (workspace / "runs").exists()


def test_two_classes_with_a_picture_in_each_split_are_enough(workspace: Path) -> None:
    root = pictures(workspace / "data", {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1})
    assert main(["fit", "-c", experiment(workspace, root, {})]) == 0


def test_one_label_in_a_table(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(workspace / "data", {"images": 4})
    rows = [f"images/{i}.png,{'cat' if i % 2 else ''},{'train' if i < 2 else 'val'}" for i in range(4)]
    (root / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    file = experiment(workspace, root / "labels.csv", {"options": {"multi_label": True}})
    assert main(["fit", "-c", file]) == 2
    assert "has one class only, cat" in capsys.readouterr().err


def test_fewer_pictures_than_classes_may_be_accepted(tmp_path: Path) -> None:
    root = pictures(tmp_path, {"train/a": 1, "train/b": 1, "train/c": 0, "val/a": 1})
    assert ClassificationDataModule(str(root), missing_classes="note").num_classes == 3
    with pytest.raises(DataError, match="fewer than its 3 classes"):
        ClassificationDataModule(str(root)).index  # noqa: B018  # it is read here
