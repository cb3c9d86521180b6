"""Semantic metrics against hand counts and an independent count in numpy; on two processes as on one.

Run as a program with the name of a part and a folder, this is one of two processes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed
from torchmetrics.classification import MulticlassCalibrationError
from two_ranks import both as both_ranks

from lit_vision.errors import UserError
from lit_vision.metrics.segmentation import SegmentationMetrics

NAMES = ["sky", "tree", "car", "dog"]


def recount(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    known = truth != 255
    predicted, truth = predicted[known], truth[known]
    ious, dices, values, recalls, shares = [], [], {}, [], []
    for c, name in enumerate(NAMES):
        both, either = ((predicted == c) & (truth == c)).sum(), ((predicted == c) | (truth == c)).sum()
        if either:
            ious.append(both / either)
            dices.append(2 * both / ((predicted == c).sum() + (truth == c).sum()))
            values[f"iou/{name}"] = both / either
            shares.append((truth == c).mean())
        if (truth == c).any():
            recalls.append(both / (truth == c).sum())
    values |= {"class_accuracy": np.mean(recalls), "fw_iou": np.dot(shares, ious)}
    accuracy = (predicted == truth).mean()
    return values | {"miou": np.mean(ious), "dice": np.mean(dices), "pixel_accuracy": accuracy}


def test_by_hand() -> None:
    metric = SegmentationMetrics(NAMES)
    metric.update(torch.tensor([[[0, 0, 1, 1, 1]]]), torch.tensor([[[0, 1, 1, 1, 255]]]))
    values = {key: float(value) for key, value in metric.compute().items()}
    # sky: 1 of 2; tree: 2 of 3; car and dog are nowhere and left out
    assert values == pytest.approx(
        {"iou/sky": 1 / 2, "iou/tree": 2 / 3, "miou": 7 / 12, "dice": (2 / 3 + 4 / 5) / 2, "pixel_accuracy": 3 / 4}
        | {"class_accuracy": (1 + 2 / 3) / 2, "fw_iou": 1 / 4 * 1 / 2 + 3 / 4 * 2 / 3}
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
        "class_accuracy": 0.0,
        "fw_iou": 0.0,
    }


def test_ranks_add_up_exactly_whatever_the_share_of_each() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = (torch.from_numpy(rng.integers(0, 4, (7, 16, 16))) for _ in range(2))
    whole, first, second = (SegmentationMetrics(NAMES) for _ in range(3))
    whole.update(predicted, truth)
    first.update(predicted[:1], truth[:1])  # a mean of the ranks' means would weigh this one image as much as six
    second.update(predicted[1:], truth[1:])
    first.counts += second.counts  # what dist_reduce_fx="sum" does
    assert {k: float(v) for k, v in first.compute().items()} == {k: float(v) for k, v in whole.compute().items()}


def drawn(pictures: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions, truths and confidences of pictures of 24 x 20."""
    generator = torch.Generator().manual_seed(3)
    probabilities = torch.randn(pictures, 4, 24, 20, generator=generator).mul(2).softmax(1)
    truth = torch.randint(0, 4, (pictures, 24, 20), generator=generator)
    truth[:, :3], truth[0] = 255, 255  # of the first picture nothing is known
    confidence, predicted = probabilities.max(1)
    return predicted, truth, confidence


def test_calibration_is_that_of_an_independent_count_and_of_torchmetrics() -> None:
    predicted, truth, confidence = drawn(4)
    metric = SegmentationMetrics(NAMES)
    metric.update(predicted, truth, confidence)
    ours, known = float(metric.compute()["ece"]), (truth != 255).numpy()
    sure, right = confidence.numpy()[known].astype(float), (predicted == truth).numpy()[known]
    expected = 0.0
    for k in range(15):
        inside = (sure > k / 15) & (sure <= (k + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert ours == pytest.approx(expected, abs=1e-6)
    theirs = MulticlassCalibrationError(num_classes=4, n_bins=15, ignore_index=255)
    rest = ((1 - confidence) / 3)[:, None].expand(-1, 4, -1, -1).clone()
    rest.scatter_(1, predicted[:, None], confidence[:, None])
    assert ours == pytest.approx(float(theirs(rest, truth)), abs=1e-5)


def test_the_first_bin_ends_at_a_fifteenth_and_the_last_one_holds_1() -> None:
    metric, nowhere = SegmentationMetrics(NAMES), torch.zeros(1, 1, 5, dtype=torch.long)
    metric.update(nowhere, nowhere, torch.tensor([[[0.0, 0.05, 0.1, 0.95, 1.0]]]))
    assert metric.calibration[:, 0].tolist() == [2, 1] + [0] * 12 + [2]


def test_confidences_that_are_not_numbers_do_not_stop_a_test() -> None:
    metric = SegmentationMetrics(NAMES)
    metric.update(
        torch.zeros(1, 1, 2, dtype=torch.long),
        torch.zeros(1, 1, 2, dtype=torch.long),
        torch.tensor([[[torch.nan, 1.0]]]),
    )
    assert float(metric.compute()["ece"]) == 0.5  # nothing known of the first counts as no confidence at all


def test_calibration_is_counted_where_only_deterministic_algorithms_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.bincount

    def as_on_cuda(values: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0) -> torch.Tensor:
        if weights is not None:
            raise RuntimeError("_bincount_cuda does not have a deterministic implementation")
        return plain(values, minlength=minlength)

    monkeypatch.setattr(torch, "bincount", as_on_cuda)
    metric = SegmentationMetrics(NAMES)
    metric.update(*drawn(2))
    assert 0 < float(metric.compute()["ece"]) < 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_is_true_of_a_gpu() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        metric, on_gpu = SegmentationMetrics(NAMES), SegmentationMetrics(NAMES).cuda()
        metric.update(*drawn(3))
        on_gpu.update(*(values.cuda() for values in drawn(3)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(metric.calibration, on_gpu.calibration.cpu())


@pytest.mark.slow
def test_two_processes_give_the_values_of_one_to_the_bit(tmp_path: Path) -> None:
    first, second = both_ranks(__file__, "share", tmp_path)
    metric = SegmentationMetrics(NAMES, boundaries=True)
    metric.update(*drawn(5))
    assert first == second == {key: float(value) for key, value in metric.compute().items()}
    assert {"ece", "boundary_iou", "boundary_f1", "fw_iou"} <= first.keys()


@pytest.mark.parametrize("predicted", [0, 3])
def test_a_mask_value_without_a_name_is_named(predicted: int) -> None:
    with pytest.raises(UserError, match="class 4"):
        SegmentationMetrics(NAMES).update(torch.full((1, 2, 2), predicted), torch.full((1, 2, 2), 4))


def share() -> dict[str, float]:
    """Values of all pictures on this process, which has seen four of the five, or one."""
    distributed.init_process_group("gloo")
    own = slice(0, 4) if distributed.get_rank() == 0 else slice(4, 5)
    metric = SegmentationMetrics(NAMES, boundaries=True)
    metric.update(*(values[own] for values in drawn(5)))
    values = {key: float(value) for key, value in metric.compute().items()}
    distributed.destroy_process_group()
    return values


if __name__ == "__main__":
    print(json.dumps({"share": share}[sys.argv[1]]()))
