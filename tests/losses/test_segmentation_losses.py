"""Losses of a class per pixel: by hand, ignored pixels without gradient, never NaN."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_vision.errors import UserError
from lit_vision.losses.pixel_choice import BoundaryCrossEntropyLoss, OHEMCrossEntropyLoss
from lit_vision.losses.segmentation import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    SumLoss,
    TverskyLoss,
    inverse_log_weights,
)
from lit_vision.tasks.instances import InstanceSegmenter
from lit_vision.tasks.segmentation import SemanticSegmenter

ALL = [
    CrossEntropyLoss(),
    CrossEntropyLoss(label_smoothing=0.1),
    DiceLoss(),
    DiceLoss(smooth=1.0),
    FocalLoss(),
    FocalLoss(gamma=0.5),
    LovaszLoss(),
    LovaszLoss(per_image=True),
    TverskyLoss(),
    TverskyLoss(0.6, 0.4, smooth=1.0),
    OHEMCrossEntropyLoss(),
    OHEMCrossEntropyLoss(threshold=0.0, min_kept=0.3),
    BoundaryCrossEntropyLoss(),
    SumLoss([CrossEntropyLoss(), DiceLoss()], [1.0, 0.5]),
]


def batch(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 6, 5, generator=generator, requires_grad=True)
    mask = torch.randint(0, max(classes, 2), (2, 6, 5), generator=generator)
    mask[0, :2], mask[1, :, 3] = 255, 255
    return logits, mask


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_ignored_pixels_carry_no_gradient_and_do_not_matter(loss: nn.Module, classes: int) -> None:
    logits, mask = batch(classes)
    value = loss(logits, mask)
    value.backward()
    assert value.ndim == 0
    assert value > 0
    ignored = (mask == 255)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).any()
    changed = logits.detach().clone()
    changed[ignored] = 50.0
    assert loss(changed, mask).item() == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_only_ignored_pixels_cost_nothing(loss: nn.Module, classes: int) -> None:
    logits, mask = batch(classes)
    value = loss(logits, torch.full_like(mask, 255))
    value.backward()
    assert float(value.detach()) == 0.0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", [CrossEntropyLoss([0.0, 1.0, 2.0], 0.1), FocalLoss(2.0, [0.0, 1.0, 2.0])])
def test_only_pixels_of_a_class_of_weight_0_cost_nothing(loss: nn.Module) -> None:
    logits, mask = batch(3)
    value = loss(logits, torch.zeros_like(mask))
    value.backward()
    assert float(value.detach()) == 0.0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_one_image_of_only_ignored_pixels_leaves_the_other_alone(loss: nn.Module) -> None:
    logits, mask = batch(3)
    logits, mask[0] = logits.detach(), 255
    assert float(loss(logits, mask)) == pytest.approx(float(loss(logits[1:], mask[1:])), rel=1e-6)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_half_precision_does_not_overflow(loss: nn.Module) -> None:
    logits = torch.full((1, 2, 300, 300), 5.0, dtype=torch.float16)
    value = loss(logits, torch.ones(1, 300, 300, dtype=torch.long))
    assert value.dtype == torch.float32
    assert bool(value.isfinite())


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs(weights: list[float] | None, smoothing: float) -> None:
    logits, mask = batch(3)
    theirs = nn.CrossEntropyLoss(
        None if weights is None else torch.tensor(weights), ignore_index=255, label_smoothing=smoothing
    )
    ours = CrossEntropyLoss(weights, smoothing)
    assert float(ours(logits, mask)) == pytest.approx(float(theirs(logits, mask)), rel=1e-6)


def test_cross_entropy_of_one_logit_is_binary() -> None:
    logits, mask = batch(1)
    known = mask != 255
    theirs = F.binary_cross_entropy_with_logits(logits[:, 0][known], mask[known].float())
    assert float(CrossEntropyLoss()(logits, mask)) == pytest.approx(float(theirs), rel=1e-6)
    # weighted by hand: one pixel of each class with p = 1/2 and p = 1/4 for class 1
    logits = torch.tensor([0.0, math.log(1 / 3)]).view(1, 1, 1, 2)
    value = CrossEntropyLoss([1.0, 5.0])(logits, torch.tensor([[[1, 0]]]))
    assert float(value) == pytest.approx((5 * math.log(2) - math.log(0.75)) / 6, rel=1e-6)


def test_dice_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 4)  # p = 1/2 everywhere
    mask = torch.tensor([[[1, 1, 1, 0]]])
    # class 0: 2 * .5 / (2 + 1) = 1/3; class 1: 2 * 1.5 / (2 + 3) = 3/5
    assert float(DiceLoss()(logits, mask)) == pytest.approx(1 - (1 / 3 + 3 / 5) / 2, rel=1e-6)
    assert float(DiceLoss()(logits[:, :1], mask)) == pytest.approx(1 - 3 / 5, rel=1e-6)


def test_focal_by_hand() -> None:
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 1, 1, 2)  # p = .75 and .5
    mask = torch.tensor([[[1, 0]]])
    expected = (0.25**2 * -math.log(0.75) + 0.5**2 * -math.log(0.5)) / 2
    assert float(FocalLoss(gamma=2.0)(logits, mask)) == pytest.approx(expected, rel=1e-5)
    three = torch.log(torch.tensor([0.2, 0.5, 0.3])).view(1, 3, 1, 1)
    assert float(FocalLoss(3.0)(three, torch.tensor([[[1]]]))) == pytest.approx(0.5**3 * math.log(2), rel=1e-5)
    logits, mask = batch(3)
    weights = [1.0, 2.0, 5.0]
    assert float(FocalLoss(0.0, weights)(logits, mask)) == pytest.approx(float(CrossEntropyLoss(weights)(logits, mask)))


def test_lovasz_of_one_class_error_by_hand() -> None:
    # One pixel of two is wrong for sure: the IoU of class 0 is 1/2, of class 1 it is 0; the loss: mean of 1 - IoU.
    logits = torch.tensor([[100.0, 100.0], [-100.0, -100.0]]).view(1, 2, 1, 2)
    mask = torch.tensor([[[0, 1]]])
    assert float(LovaszLoss()(logits, mask)) == pytest.approx((0.5 + 1.0) / 2, rel=1e-6)


def test_a_perfect_prediction_costs_next_to_nothing() -> None:
    mask = torch.tensor([[[0, 1, 2], [2, 1, 0]]])
    logits = 40.0 * F.one_hot(mask, 3).permute(0, 3, 1, 2)
    for loss in (CrossEntropyLoss(), DiceLoss(), FocalLoss(), LovaszLoss()):
        assert float(loss(logits, mask)) == pytest.approx(0.0, abs=1e-5)


def test_sum_is_weighted() -> None:
    logits, mask = batch(3)
    value = SumLoss([CrossEntropyLoss(), DiceLoss()], [0.5, 2.0])(logits, mask)
    expected = 0.5 * CrossEntropyLoss()(logits, mask) + 2 * DiceLoss()(logits, mask)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_wrong_counts_are_named() -> None:
    logits, mask = batch(3)
    with pytest.raises(UserError, match="2 losses and 1 weights"):
        SumLoss([CrossEntropyLoss(), DiceLoss()], [1.0])
    with pytest.raises(UserError, match=r"SumLoss has weights \[1.0, -0.5\]: give numbers from 0"):
        SumLoss([CrossEntropyLoss(), DiceLoss()], [1.0, -0.5])
    with pytest.raises(UserError, match="class_weights has 2 values, but the network tells 3 classes"):
        CrossEntropyLoss([1.0, 2.0])(logits, mask)


def test_class_weights_go_where_the_logits_are_but_not_into_checkpoints() -> None:
    loss = CrossEntropyLoss([1.0, 5.0, 2.0])
    logits, mask = batch(3)
    loss.cost(logits.double(), mask)
    assert loss.class_weights.dtype == torch.float64
    assert not loss.state_dict()
    assert not list(loss.buffers())


def test_tversky_by_hand_and_as_dice() -> None:
    # Certain pixels, class 1: one found, one missed, two false; class 0: one right, two missed, one false.
    mask = torch.tensor([[[1, 1, 0, 0, 0, 255]]])
    logits = 100.0 * F.one_hot(torch.tensor([[[1, 0, 1, 1, 0, 1]]]), 2).permute(0, 3, 1, 2)
    expected = 1 - (1 / (1 + 0.2 * 2 + 0.8 * 1) + 1 / (1 + 0.2 * 1 + 0.8 * 2)) / 2
    assert float(TverskyLoss(0.2, 0.8)(logits, mask)) == pytest.approx(expected, rel=1e-5)
    logits, mask = batch(4)
    assert float(TverskyLoss(0.5, 0.5)(logits, mask)) == pytest.approx(float(DiceLoss()(logits, mask)), rel=1e-5)
    with pytest.raises(UserError, match="not both 0"):
        TverskyLoss(0, 0)


def test_what_no_batch_could_satisfy_is_refused_by_the_tasks() -> None:
    within = SumLoss([DiceLoss(), CrossEntropyLoss(ignore_index=11)])
    said = "CrossEntropyLoss has ignore_index 11, but data modules mark what is unknown by 255: leave it out"
    with pytest.raises(UserError, match=rf"model\.loss: {said}"):
        SemanticSegmenter(["a", "b"], encoder="resnet10t", loss=within)
    with pytest.raises(UserError, match=rf"model\.border_loss: {said}"):
        InstanceSegmenter(["a"], encoder="resnet10t", border_loss=within)
    automatic = SumLoss([FocalLoss(class_weights="auto")])
    with pytest.raises(
        UserError, match=r"model\.loss: FocalLoss has class_weights: auto, which SemanticSegmenter alone"
    ):
        InstanceSegmenter(["a"], encoder="resnet10t", loss=automatic)
    SemanticSegmenter(["a", "b"], encoder="resnet10t", loss=automatic)


def test_automatic_weights_by_hand() -> None:
    weights = inverse_log_weights([900, 100, 0])
    assert weights == pytest.approx([1 / math.log(1.92), 1 / math.log(1.12), 1 / math.log(1.02)])
    with pytest.raises(UserError, match="no pixel of any class"):
        inverse_log_weights([0, 0])
    logits, mask = batch(3)
    with pytest.raises(UserError, match="auto is worked out by SemanticSegmenter alone"):
        CrossEntropyLoss("auto")(logits, mask)
    with pytest.raises(UserError, match="class_weights is 'balanced'"):
        CrossEntropyLoss("balanced")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropyLoss(label_smoothing=3), "label_smoothing is 3: give a share"),
        (lambda: CrossEntropyLoss([1.0, -2.0]), r"class_weights is \[1\.0, -2\.0\]: give numbers from 0, not all 0"),
        (lambda: CrossEntropyLoss([0.0, 0.0]), r"class_weights is \[0\.0, 0\.0\]: give numbers from 0, not all 0"),
        (lambda: FocalLoss(class_weights=[1.0, math.nan]), r"class_weights is \[1\.0, nan\]: give numbers from 0"),
        (lambda: CrossEntropyLoss([math.inf, 1.0]), r"class_weights is \[inf, 1\.0\]: give numbers from 0"),
        (lambda: FocalLoss(gamma=-1), "gamma -1: give a number from 0"),
    ],
)
def test_arguments_without_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
