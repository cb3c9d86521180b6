"""DetectionDataModule: what samples and batches hold, in training and in evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_vision.data.detection import DetectionDataModule
from lit_vision.data.detection_dataset import place_boxes
from lit_vision.data.restore import restore_boxes
from lit_vision.data.shapes import draw_shapes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("drawn") / "set", train=6, val=3, test=2, size=96) / "detection"


def module(root: Path, **settings: Any) -> DetectionDataModule:
    return DetectionDataModule(str(root), **{"image_size": 64, "batch_size": 3, "num_workers": 0, **settings})


def test_boxes_move_with_a_frame() -> None:
    frame = np.array([[2.0, 0.0, 5.0], [0.0, 3.0, -1.0]], np.float32)
    moved = place_boxes(np.array([[1.0, 2.0, 3.0, 4.0]], np.float32), frame)
    assert moved.tolist() == [[7.0, 5.0, 11.0, 11.0]]
    assert moved.dtype == np.float32


def test_a_batch_holds_lists_of_boxes(root: Path) -> None:
    batch = next(iter(module(root).train_dataloader()))
    assert batch["image"].shape == (3, 3, 64, 64)
    assert batch["image"].dtype == torch.uint8
    for boxes, labels, crowd in zip(batch["boxes"], batch["labels"], batch["crowd"], strict=True):
        assert boxes.dtype == torch.float32
        assert boxes.shape == (len(labels), 4)
        assert (labels.dtype, crowd.dtype) == (torch.int64, torch.bool)
        assert bool((boxes >= 0).all() and (boxes <= 64).all() and (boxes[:, 2:] > boxes[:, :2]).all())


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop", "native"])
def test_evaluation_keeps_every_box_of_the_file(root: Path, fit: str) -> None:
    data = module(root, fit=fit, image_size=[32, 64])
    count = 0
    for batch in data.val_dataloader():
        for i, boxes, frame, size in zip(*(batch[key] for key in ("index", "boxes", "frame", "size")), strict=True):
            own = data.index.boxes[data.index.span(int(i))]  # type: ignore[index]
            np.testing.assert_allclose(restore_boxes(boxes, frame, size).numpy(), own, atol=1e-4)
            count += len(own)
    assert count == sum(len(data.index.labels[data.index.span(int(i))]) for i in data.index.indices("val")) > 6


def test_augmentation_depends_on_the_epoch_alone(root: Path) -> None:
    first, again = (module(root).dataset("train", augmented=True)[(2, 1)] for _ in range(2))
    other = module(root).dataset("train", augmented=True)[(3, 1)]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["boxes"], again["boxes"])
    assert not torch.equal(first["image"], other["image"])


def test_sizes_for_anchors_are_those_of_the_training_split_in_network_pixels(root: Path) -> None:
    data = module(root, image_size=[48, 96], fit="stretch")
    expected = np.concatenate([data.index.boxes[data.index.span(int(i))] for i in data.index.indices("train")])  # type: ignore[index]
    sizes = (expected[:, 2:] - expected[:, :2]) * np.array([1.0, 0.5], np.float32)
    np.testing.assert_allclose(data.training_box_sizes().numpy(), sizes, rtol=1e-6)
    assert data.training_box_sizes().dtype == torch.float32
