"""What all data modules share."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from lit_vision.data.classification import ClassificationDataModule
from lit_vision.data.detection import DetectionDataModule
from lit_vision.errors import UserError


def test_a_process_without_any_picture_is_refused(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 1)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(tmp_path / split / name / f"{i}.png"), np.zeros((8, 8, 3), np.uint8))
    data: Any = ClassificationDataModule(str(tmp_path), image_size=8, batch_size=2, num_workers=0)
    device = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
    data.trainer = SimpleNamespace(global_rank=0, world_size=2, strategy=device)
    assert len(data.val_dataloader()) == 1
    data.trainer.world_size = 3
    with pytest.raises(UserError, match="a split of 2 pictures for 3 processes"):
        data.val_dataloader()


@pytest.mark.parametrize("unknown", ["mosaic", "nonee", None])
def test_an_unknown_augmentation_is_refused(tmp_path: Path, unknown: Any) -> None:
    with pytest.raises(UserError, match=r"data\.augmentation is .*; for classification give default, none"):
        ClassificationDataModule(str(tmp_path), augmentation=unknown)


def yolo(root: Path, entries: str) -> Path:
    for split in ("train", "other"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for k in range(5):
            cv2.imwrite(str(root / "images" / split / f"{k}.png"), np.full((8, 8, 3), k, np.uint8))
            (root / "labels" / split / f"{k}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text(f"train: images/train\n{entries}\nnames: [cat]\n")
    return root


def test_where_val_repeats_train_a_fraction_is_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = str(yolo(tmp_path, "val: images/train"))
    data = DetectionDataModule(root, image_size=32, val_fraction=0.4, num_workers=0)
    assert [len(data.index.indices(split)) for split in ("train", "val", "test")] == [3, 2, 0]
    with caplog.at_level("INFO"), pytest.raises(UserError, match=r"has no images to validate on: set val_fraction"):
        _ = DetectionDataModule(root, image_size=32, num_workers=0).index
    assert caplog.messages[-1] == "data.yaml: val names the same images as train, and is left out."


def test_a_test_split_that_is_named_and_missing_is_missed_by_tests_alone(tmp_path: Path) -> None:
    root = str(yolo(tmp_path, "val: images/other\ntest: ../test/images"))
    data = DetectionDataModule(root, image_size=32, num_workers=0)
    assert len(data.val_dataloader().dataset) == 5  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^data\.yaml: test is \.\./test/images, but there is no folder"):
        data.test_dataloader()
    drawn = DetectionDataModule(root, image_size=32, num_workers=0, test_fraction=0.4)
    assert len(drawn.test_dataloader().dataset) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, (32, -1), (64, 64, 64)])
def test_a_size_that_no_picture_has_is_refused(tmp_path: Path, size: Any) -> None:
    with pytest.raises(UserError) as refused:
        ClassificationDataModule(str(tmp_path), image_size=size)
    assert str(refused.value) == f"data.image_size is {size}; give a side in pixels from 1, or [height, width]"
