"""What all data modules share."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from lit_vision.data.classification import ClassificationDataModule
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
