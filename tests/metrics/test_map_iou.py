"""IoU of the two maps, by hand."""

import pytest
import torch

from lit_vision.metrics.maps import MapIoU


def test_by_hand_and_over_batches() -> None:
    metric = MapIoU()
    pixels, border = torch.tensor([[[0.9, 0.6, 0.2, 0.8]]]), torch.tensor([[[0.1, 0.7, 0.9, 0.9]]])
    mask, target = torch.tensor([[[1, 0, 2, 255]]]), torch.tensor([[[0, 1, 0, 255]]])
    metric.update(pixels, border, mask, target)
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values == {"pixel_iou": pytest.approx(1 / 3), "border_iou": 0.5}
    metric.update(pixels, border, torch.ones_like(mask), target)
    assert float(metric.compute()["pixel_iou"]) == pytest.approx((1 + 3) / (3 + 4))


def test_nothing_at_all_is_zero() -> None:
    metric = MapIoU()
    assert {float(value) for value in metric.compute().values()} == {0.0}
