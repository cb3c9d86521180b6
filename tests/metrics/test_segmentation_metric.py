"""Semantic metrics against hand counts and an independent count in numpy."""

import numpy as np
import pytest
import torch

from lit_vision.errors import UserError
from lit_vision.metrics.segmentation import SegmentationMetrics

NAMES = ["sky", "tree", "car", "dog"]


def recount(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    known = truth != 255
    predicted, truth = predicted[known], truth[known]
    ious, dices, values = [], [], {}
    for c, name in enumerate(NAMES):
        both, either = ((predicted == c) & (truth == c)).sum(), ((predicted == c) | (truth == c)).sum()
        if either:
            ious.append(both / either)
            dices.append(2 * both / ((predicted == c).sum() + (truth == c).sum()))
            values[f"iou/{name}"] = both / either
    accuracy = (predicted == truth).mean()
    return values | {"miou": np.mean(ious), "dice": np.mean(dices), "pixel_accuracy": accuracy}


def test_by_hand() -> None:
    metric = SegmentationMetrics(NAMES)
    metric.update(torch.tensor([[[0, 0, 1, 1, 1]]]), torch.tensor([[[0, 1, 1, 1, 255]]]))
    values = {key: float(value) for key, value in metric.compute().items()}
    # sky: 1 of 2; tree: 2 of 3; car and dog are nowhere and left out
    assert values == pytest.approx(
        {"iou/sky": 1 / 2, "iou/tree": 2 / 3, "miou": 7 / 12, "dice": (2 / 3 + 4 / 5) / 2, "pixel_accuracy": 3 / 4}
    )


@pytest.mark.parametrize("seed", range(5))
def test_equals_an_independent_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 255], size=(6, 20, 30)) if seed % 2 else rng.choice([0, 1, 2, 3, 255], (6, 20, 30))
    predicted = np.where(
        rng.random(truth.shape) < 0.6, np.where(truth == 255, 0, truth), rng.integers(0, 3, truth.shape)
    )
    metric = SegmentationMetrics(NAMES)
    for k in range(0, 6, 2):
        metric.update(torch.from_numpy(predicted[k : k + 2]), torch.from_numpy(truth[k : k + 2]))
    values = {key: float(value) for key, value in metric.compute().items()}
    assert values == pytest.approx(recount(predicted, truth), abs=1e-12)


def test_a_class_predicted_only_where_ignored_is_absent() -> None:
    metric = SegmentationMetrics(NAMES)
    metric.update(torch.tensor([[[0, 3]]]), torch.tensor([[[0, 255]]]))
    assert "iou/dog" not in metric.compute()
    assert float(metric.compute()["miou"]) == 1.0


def test_a_class_predicted_but_never_true_counts_as_zero() -> None:
    metric = SegmentationMetrics(NAMES)
    metric.update(torch.tensor([[[0, 3]]]), torch.tensor([[[0, 0]]]))
    assert float(metric.compute()["miou"]) == 0.25  # sky 1/2, dog 0


def test_nothing_known_is_zero_not_nan() -> None:
    metric = SegmentationMetrics(NAMES)
    metric.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), 255))
    assert {key: float(value) for key, value in metric.compute().items()} == {
        "miou": 0.0,
        "dice": 0.0,
        "pixel_accuracy": 0.0,
    }


def test_ranks_add_up_exactly_whatever_the_share_of_each() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = (torch.from_numpy(rng.integers(0, 4, (7, 16, 16))) for _ in range(2))
    whole, first, second = (SegmentationMetrics(NAMES) for _ in range(3))
    whole.update(predicted, truth)
    first.update(predicted[:1], truth[:1])  # a mean of the ranks' means would weigh this one image as much as six
    second.update(predicted[1:], truth[1:])
    first.confusion += second.confusion  # what dist_reduce_fx="sum" does
    assert {k: float(v) for k, v in first.compute().items()} == {k: float(v) for k, v in whole.compute().items()}


@pytest.mark.parametrize("predicted", [0, 3])
def test_a_mask_value_without_a_name_is_named(predicted: int) -> None:
    with pytest.raises(UserError, match="class 4"):
        SegmentationMetrics(NAMES).update(torch.full((1, 2, 2), predicted), torch.full((1, 2, 2), 4))
