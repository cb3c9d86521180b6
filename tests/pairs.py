"""Pictures of touching squares for InstanceSegmenter, with label maps and two classes."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from lit_vision.data.instances import InstanceDataModule
from lit_vision.types import InstanceBatch

TINY: dict[str, Any] = {"encoder": "mobilenetv3_small_050", "decoder_args": {"decoder_channels": [24, 16, 16, 8, 8]}}
NAMES = ["red", "blue"]


def draw_pairs(root: Path) -> Path:
    """Draws eight pictures of 48 x 64, each with a red and a blue square that touch along 16 pixels, and one alone."""
    (root / "classes.json").write_text(json.dumps({"classes": NAMES}))
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for folder in ("images", "labels", "classes"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            y, x = (int(v) for v in rng.integers(2, 24, 2))
            labels, classes = np.zeros((48, 64), np.uint16), np.zeros((48, 64), np.uint8)
            for number, (left, kind) in enumerate([(x, 1), (x + 12, 2)], 1):
                labels[y : y + 16, left : left + 12], classes[y : y + 16, left : left + 12] = number, kind
            labels[30:44, 52:62], classes[30:44, 52:62] = 7, 1 + i % 2
            image = rng.integers(90, 130, (48, 64, 3), dtype=np.uint8)
            image[classes == 1], image[classes == 2] = (40, 40, 230), (230, 40, 40)  # OpenCV's BGR
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), image)
            cv2.imwrite(str(root / "labels" / split / f"{i}.png"), labels)
            cv2.imwrite(str(root / "classes" / split / f"{i}.png"), classes)
    return root


def data_module(root: Path, **settings: Any) -> InstanceDataModule:
    common = {"image_size": 64, "batch_size": 3, "num_workers": 0, "augmentation": "none"}
    return InstanceDataModule(str(root), **{**common, **settings})


def perfect(batch: InstanceBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that a network without faults would give."""
    classes = torch.where(batch["mask"] == 255, 1, batch["mask"])  # nonsense in the padding
    pixels = 20.0 * torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2)
    return pixels, 20.0 * (batch["border"][:, None] == 1).float() - 10
