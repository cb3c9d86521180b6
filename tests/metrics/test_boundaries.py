"""Boundary IoU and boundary F1 against definitions written down in numpy and scipy, and by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from lit_vision.metrics.boundaries import COUNTS, boundary_counts
from lit_vision.metrics.segmentation import SegmentationMetrics

NAMES = ["sky", "tree", "car", "dog"]


def scenes(seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Truths of a few blobs with unknown pixels, and predictions that are shifted and torn."""
    rng = np.random.default_rng(seed)
    truth = ndimage.zoom(rng.integers(0, 3, (count, 5, 6)), (1, 9, 8), order=0)
    predicted = np.roll(truth, rng.integers(-3, 4, 2), axis=(1, 2))
    predicted = np.where(rng.random(truth.shape) < 0.03, rng.integers(0, 4, truth.shape), predicted)
    truth[rng.random(truth.shape) < 0.02] = 255
    truth[:, 20:24, 10:20] = 255
    return predicted, truth


def band(labels: np.ndarray, c: int, width: int) -> np.ndarray:
    """What erosions take away, the outside being background (mask_to_boundary of the paper's authors).

    Unknown pixels are of the class itself for the erosions, so that they take nothing away, and then left out.
    """
    inside = ndimage.binary_erosion((labels == c) | (labels == 255), np.ones((3, 3)), iterations=width, border_value=0)
    return (labels == c) & ~inside


def outline(labels: np.ndarray, c: int) -> np.ndarray:
    """Pixels of class c with another known label among their eight neighbours; the edge of the picture is none."""
    padded = np.pad(labels, 1, constant_values=255)
    near = [
        padded[1 + y : 1 + y + labels.shape[0], 1 + x : 1 + x + labels.shape[1]] for y in (-1, 0, 1) for x in (-1, 0, 1)
    ]
    return (labels == c) & np.any([(one != labels) & (one != 255) for one in near], axis=0)


def recount(predicted: np.ndarray, truth: np.ndarray, width: int, tolerance: float) -> np.ndarray:
    counts = np.zeros((len(NAMES), len(COUNTS)), int)
    predicted = np.where(truth == 255, 255, predicted)
    for c in range(len(NAMES)):
        guess, true = band(predicted, c, width), band(truth, c, width)
        counts[c, :2] = (guess & true).sum(), (guess | true).sum()
        lines = outline(predicted, c), outline(truth, c)
        for k, (own, other) in enumerate((lines, lines[::-1])):
            away = ndimage.distance_transform_edt(~other) if other.any() else np.full(own.shape, np.inf)
            counts[c, 2 + 2 * k : 4 + 2 * k] = (own & (away <= tolerance)).sum(), own.sum()
    return counts


@pytest.mark.parametrize(("share", "tolerance"), [(0.001, 0.001), (0.03, 0.02), (0.08, 0.05)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definitions(seed: int, share: float, tolerance: float) -> None:
    predicted, truth = scenes(seed)
    diagonal = float(np.hypot(45, 48))
    width, reach = max(round(share * diagonal), 1), max(tolerance * diagonal, 1.0)
    for guess, true in zip(predicted, truth, strict=True):
        ours = boundary_counts(guess, true, len(NAMES), band=share, tolerance=tolerance)
        assert ours.tolist() == recount(guess, true, width, reach).tolist()


def test_the_metric_adds_up_over_pictures() -> None:
    predicted, truth = scenes(5)
    metric = SegmentationMetrics(NAMES, boundaries=True)
    for k in range(3):
        metric.update(torch.from_numpy(predicted[k : k + 1]), torch.from_numpy(truth[k : k + 1]))
    values = {key: float(value) for key, value in metric.compute().items()}
    total = sum(recount(p, t, 1, 1.0) for p, t in zip(predicted, truth, strict=True))  # 2 % and 0.75 % of 66 pixels
    both, either, hit_guess, guess, hit_truth, true = total.T.astype(float)
    present = either > 0
    assert values["boundary_iou"] == pytest.approx((both[present] / either[present]).mean())
    assert values["boundary_iou/tree"] == pytest.approx(both[1] / either[1])
    precision, recall = hit_guess / np.maximum(guess, 1), hit_truth / np.maximum(true, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert values["boundary_f1"] == pytest.approx(f1[guess + true > 0].mean())
    assert 0.05 < values["boundary_f1"] < 0.95  # neither side of the comparison is trivial


def test_a_perfect_prediction_is_one_and_an_absent_class_is_left_out() -> None:
    truth = torch.zeros(1, 20, 20, dtype=torch.long)
    truth[0, 5:12, 5:12] = 1
    metric = SegmentationMetrics(NAMES, boundaries=True)
    metric.update(truth, truth)
    values = metric.compute()
    assert float(values["boundary_iou"]) == float(values["boundary_f1"]) == 1.0
    assert "boundary_iou/car" not in values


@pytest.mark.parametrize("shape", ["strip along the border", "island across it", "island beside it", "everywhere"])
def test_a_perfect_prediction_is_one_beside_unknown_pixels_too(shape: str) -> None:
    """Pascal VOC paints a strip over every border."""
    real = np.zeros((40, 40), int)
    real[:, 20:] = 1
    truth = real.copy()
    place = {"strip along the border": np.s_[:, 17:23], "island across it": np.s_[10:20, 15:25]}
    truth[(place | {"island beside it": np.s_[5:9, 30:34], "everywhere": np.s_[:]})[shape]] = 255
    counts = boundary_counts(real, truth, 2)
    both, either, hit_guess, guess, hit_truth, true = counts.sum(0).tolist()
    assert (both, hit_guess, hit_truth) == (either, guess, true)
    assert (either > 0) == (shape != "everywhere")
    assert (true > 0) == ("island" in shape)


def test_padding_beside_the_picture_changes_nothing() -> None:
    predicted, truth = scenes(1)
    alone, padded = (SegmentationMetrics(NAMES, boundaries=True) for _ in range(2))
    alone.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    room = ((0, 0), (3, 10), (5, 0))
    parts = [(slice(3, 48), slice(5, 53))] * 3
    guess, true = np.pad(predicted, room, constant_values=2), np.pad(truth, room, constant_values=255)
    padded.update(torch.from_numpy(guess), torch.from_numpy(true), parts=parts)
    assert torch.equal(alone.outlines, padded.outlines)
    assert float(alone.compute()["miou"]) == float(padded.compute()["miou"])
