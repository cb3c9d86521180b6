from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from lit_vision.data.classification import ClassificationDataModule
from lit_vision.data.dataset import without_padding
from lit_vision.data.sampler import PADDING_EPOCH, EpochSampler


def test_what_only_fills_up_a_process_s_share_says_so(tmp_path: Path) -> None:
    """Five images on two processes: the sixth is an image again, and must not be counted twice."""
    for i in range(5):
        for split in ("train", "val"):
            path = tmp_path / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((8, 8, 3), i, np.uint8))
    data = ClassificationDataModule(str(tmp_path), image_size=8, num_workers=0, augmentation="none")
    dataset, positions = data.dataset("val"), data.index.indices("val").tolist()
    shares = [[dataset[key]["index"] for key in EpochSampler(5, rank=rank, world_size=2)] for rank in (0, 1)]
    assert sorted(index for share in shares for index in share) == [-1, *positions]
    assert dataset[(PADDING_EPOCH, 0)]["index"] == -1
    assert dataset[(0, 0)]["index"] == dataset[0]["index"] == positions[0]


def test_without_padding_filters_tensors_and_lists() -> None:
    batch: Any = {"index": torch.tensor([3, -1, 5]), "image": torch.arange(3), "boxes": ["x", "y", "z"]}
    kept: Any = without_padding(batch)
    assert kept["image"].tolist() == [0, 2]
    assert kept["boxes"] == ["x", "z"]
