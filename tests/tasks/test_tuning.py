"""Thresholds that a run finds suit objects of any size."""

import numpy as np
import pytest
import torch

from lit_vision.metrics.instances import InstanceMetrics
from lit_vision.ops.separation import Maps
from lit_vision.tasks.tuning import Tuning


def found(truth: np.ndarray, foreground: np.ndarray, area: float | None = None) -> tuple[float, float]:
    """The smallest area that is found for such maps, and the AP with it."""
    tuning, metrics = Tuning(None, None, area, "nearest", True), InstanceMetrics(1)
    tuning.begin()
    maps = Maps(foreground.astype(np.uint8), np.zeros(truth.shape, np.uint8), np.ones(truth.shape, np.uint8))
    count = int(truth.max())
    given = {"index": [0], "instances": [truth], "labels": [np.zeros(count, np.int64)], "mask": [truth]}
    batch = {key: torch.from_numpy(np.array(value)) for key, value in given.items()}
    assert tuning.keep(batch, 0, maps)  # type: ignore[arg-type]  # what it reads of a batch
    best = tuning.finish(metrics, lambda _: None)
    assert best is not None
    return best.min_area, float(metrics.compute()["ap"])


def squares(side: int, step: int, size: int = 96) -> np.ndarray:
    truth = np.zeros((size, size), np.int32)
    for k, (y, x) in enumerate(np.ndindex(size // step, size // step), 1):
        truth[y * step : y * step + side, x * step : x * step + side] = k
    return truth


def test_objects_far_below_the_usual_smallest_area_are_found() -> None:
    truth = squares(side=2, step=8)
    assert found(truth, np.where(truth > 0, 240, 0)) == (2.5, 1.0)
    assert found(truth, np.where(truth > 0, 240, 0), area=20) == (20, 0.0)  # what is set stays


def test_dirt_far_above_it_is_dropped() -> None:
    truth = np.where(squares(side=30, step=48) == 4, 0, squares(side=30, step=48)).astype(np.int32)
    dirt = np.where(squares(side=9, step=16) % 7 == 6, 240, 0)  # 81 pixels each
    area, ap = found(truth, np.where(truth > 0, 240, dirt))
    assert 81 < area <= 320
    assert ap == pytest.approx(1.0)


def test_the_usual_area_stays_where_no_other_is_better() -> None:
    truth = squares(side=10, step=16)
    assert found(truth, np.where(truth > 0, 240, 0)) == (20, 1.0)
