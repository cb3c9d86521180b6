"""Hard pixels and outlines: which pixels count and how much, by hand."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from lit_vision.errors import UserError
from lit_vision.losses.pixel_choice import BoundaryCrossEntropyLoss, OHEMCrossEntropyLoss, boundary_weights
from lit_vision.losses.segmentation import CrossEntropyLoss


def pixels(*chances: float) -> torch.Tensor:
    """Logits (1, 2, 1, N) whose probability of class 1 is as given."""
    one = torch.tensor(chances)
    return torch.stack([(1 - one).log(), one.log()])[None, :, None]


def test_pixels_below_the_threshold_count_and_at_least_the_share() -> None:
    logits, mask = pixels(0.9, 0.6, 0.5, 0.2, 0.1), torch.tensor([[[1, 1, 1, 1, 255]]])
    losses = -torch.tensor([0.9, 0.6, 0.5, 0.2]).log()
    assert float(OHEMCrossEntropyLoss(0.55, 0.25)(logits, mask)) == pytest.approx(float(losses[2:].mean()), rel=1e-5)
    # a quarter of the four known pixels would be one, three quarters are three
    assert float(OHEMCrossEntropyLoss(0.0, 0.25)(logits, mask)) == pytest.approx(float(losses[3]), rel=1e-5)
    assert float(OHEMCrossEntropyLoss(0.55, 0.75)(logits, mask)) == pytest.approx(float(losses[1:].mean()), rel=1e-5)
    assert float(OHEMCrossEntropyLoss(0.0, 1.0)(logits, mask)) == pytest.approx(float(losses.mean()), rel=1e-5)


def test_easy_pixels_carry_no_gradient() -> None:
    logits = pixels(0.9, 0.6, 0.2).requires_grad_()
    OHEMCrossEntropyLoss(0.5, 0.1)(logits, torch.ones(1, 1, 3, dtype=torch.long)).backward()
    assert (logits.grad[0, :, 0] != 0).any(0).tolist() == [False, False, True]


def test_class_weights_weigh_the_hard_pixels_but_do_not_choose_them() -> None:
    logits, mask = pixels(0.4, 0.7, 0.9), torch.tensor([[[1, 0, 1]]])
    losses = -torch.tensor([0.4, 0.3]).log()
    value = OHEMCrossEntropyLoss(0.5, 0.1, [5.0, 1.0])(logits, mask)
    assert float(value) == pytest.approx(float((losses[0] + 5 * losses[1]) / 6), rel=1e-5)


def test_weights_fall_with_the_distance_from_the_outline() -> None:
    mask = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]]).repeat(1, 3, 1)
    weights = boundary_weights(mask, strength=6.0, width=3)
    assert weights[0, 1].tolist() == [1, 3, 5, 7, 7, 5, 3, 1]
    assert boundary_weights(mask, 6.0, 1)[0, 1].tolist() == [1, 1, 1, 7, 7, 1, 1, 1]


def test_an_unknown_neighbour_is_no_outline() -> None:
    mask = torch.tensor([[[0, 0, 255, 1, 1, 1, 2]]])
    assert boundary_weights(mask, 1.0, 1)[0, 0].tolist() == [1, 1, 1, 1, 1, 2, 2]


def test_outlines_count_more_in_the_mean() -> None:
    logits = torch.randn(1, 3, 1, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[[0, 0, 0, 1, 255]]])
    losses = F.cross_entropy(logits, mask, reduction="none", ignore_index=255)[0, 0]
    weights = torch.tensor([1.0, 1.0, 5.0, 5.0 * 2, 0.0])
    value = BoundaryCrossEntropyLoss(4.0, 1, [1.0, 2.0, 1.0])(logits, mask)
    assert float(value) == pytest.approx(float((losses * weights).sum() / weights.sum()), rel=1e-5)
    plain = BoundaryCrossEntropyLoss(0.0)(logits, mask)
    assert float(plain) == pytest.approx(float(CrossEntropyLoss()(logits, mask)), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (OHEMCrossEntropyLoss, {"threshold": 1.5}, "threshold 1.5"),
        (OHEMCrossEntropyLoss, {"min_kept": 0.0}, "min_kept 0"),
        (BoundaryCrossEntropyLoss, {"width": 0}, "width 0"),
        (BoundaryCrossEntropyLoss, {"strength": -1.0}, "strength -1"),
    ],
)
def test_settings_out_of_range_are_named(kind: type, settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        kind(**settings)


@pytest.mark.slow  # a process each: here other tests have imported what a task forgets to
@pytest.mark.parametrize("module", ["segmentation", "instances"])
def test_each_task_knows_these_losses_by_their_short_names(module: str) -> None:
    said = f"import sys, lit_vision.tasks.{module}; print('lit_vision.losses.pixel_choice' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "True\n"
