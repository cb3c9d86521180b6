"""Soft counts: against segmentation_models_pytorch's Dice and Tversky, which make the mask one-hot, and by hand."""

import pytest
import torch
from segmentation_models_pytorch import losses as smp_losses
from torch import nn

from lit_vision.losses.overlap import soft_counts
from lit_vision.losses.segmentation import DiceLoss, SegmentationLoss, TverskyLoss

PAIRS = {
    "dice": (DiceLoss(), lambda mode: smp_losses.DiceLoss(mode, ignore_index=255)),
    "smooth dice": (DiceLoss(smooth=3.0), lambda mode: smp_losses.DiceLoss(mode, smooth=3.0, ignore_index=255)),
    "tversky": (
        TverskyLoss(0.2, 0.9, smooth=1.0),
        lambda mode: smp_losses.TverskyLoss(mode, alpha=0.2, beta=0.9, smooth=1.0, ignore_index=255),
    ),
}


@pytest.mark.parametrize("classes", [1, 2, 7])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", PAIRS)
def test_losses_and_gradients_are_those_of_segmentation_models_pytorch(
    name: str, layout: torch.memory_format, classes: int
) -> None:
    ours, make = PAIRS[name]
    theirs = make("binary" if classes == 1 else "multiclass")
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(3, classes, 33, 40, generator=generator, dtype=torch.float64) * 3
    mask = torch.randint(max(classes, 2), (3, 33, 40), generator=generator)
    mask[mask == classes - 2], mask[0, :9], mask[2] = classes - 1, 255, 255  # a class without pixels, unknown ones
    logits = logits.contiguous(memory_format=layout)
    value, gradient = both(ours, logits, mask)
    expected, expected_gradient = both(theirs, logits, mask)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-9)


def both(loss: SegmentationLoss | nn.Module, logits: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, mask)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach().double(), gradient


def test_counts_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.4], [0.2, 0.5, 0.4], [0.1, 0.3, 0.2]])).view(1, 3, 1, 3)
    found, true, agreed = soft_counts(logits, torch.tensor([[[0, 2, 255]]]), 255)
    torch.testing.assert_close(found, torch.tensor([0.9, 0.7, 0.4]))
    assert true.tolist() == [1, 0, 1]
    torch.testing.assert_close(agreed, torch.tensor([0.7, 0.0, 0.3]))


def test_more_pixels_than_float32_counts_to() -> None:
    mask = torch.zeros(5, 2048, 2048, dtype=torch.int64)
    true = soft_counts(torch.zeros(5, 2, 1, 1).expand(-1, -1, 2048, 2048), mask, 255)[1]
    assert true.tolist() == [5 * 2**22, 0]  # adding ones would stop at 2^24


@pytest.mark.parametrize("classes", [1, 3])
def test_autocast_does_not_round_the_counts(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 40, 40, generator=generator)
    mask = torch.randint(0, max(classes, 2), (2, 40, 40), generator=generator)
    expected = soft_counts(logits, mask, 255)
    with torch.autocast("cpu", torch.bfloat16):
        found = soft_counts(logits, mask, 255)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
