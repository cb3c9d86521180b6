"""The border's loss, by hand and against torch's own."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lit_vision.errors import UserError
from lit_vision.losses.border import BorderLoss
from lit_vision.losses.segmentation import CrossEntropyLoss, DiceLoss


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 6, 7, generator=generator)
    return logits, torch.randint(0, 2, (2, 6, 7), generator=generator)


def test_without_weights_it_is_cross_entropy_and_dice() -> None:
    logits, mask = batch()
    mask[0, :2] = 255
    expected = CrossEntropyLoss([1.0, 5.0])(logits, mask) + DiceLoss()(logits, mask)
    assert float(BorderLoss(5.0)(logits, mask)) == pytest.approx(float(expected), rel=1e-6)
    plain = F.binary_cross_entropy_with_logits(logits[:, 0][mask != 255], mask[mask != 255].float())
    assert float(BorderLoss(1.0, dice=0)(logits, mask)) == pytest.approx(float(plain), rel=1e-6)


def test_weights_are_repetitions_of_pixels() -> None:
    logits, mask = torch.tensor([[[[2.0, -1.0, 0.5]]]]), torch.tensor([[[1, 0, 0]]])
    weighted = BorderLoss(1.0, dice=0)(logits, mask, torch.tensor([[[3.0, 1.0, 2.0]]]))
    again = [0, 0, 0, 1, 2, 2]
    repeated = BorderLoss(1.0, dice=0)(logits[..., again], mask[..., again])
    assert float(weighted) == pytest.approx(float(repeated), rel=1e-6)


def test_ignored_pixels_have_no_gradient_and_a_batch_of_them_costs_nothing() -> None:
    logits, mask = batch()
    logits.requires_grad_()
    mask[:, 3:] = 255
    BorderLoss()(logits, mask, torch.full(mask.shape, 7.0)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0, 3:] == 0).all()
    assert (logits.grad[:, 0, :3] != 0).all()
    nothing = BorderLoss()(logits, torch.full_like(mask, 255))
    assert float(nothing.detach()) == 0
    nothing.backward()  # each process of DDP needs a gradient
    assert np.isfinite(logits.grad.numpy()).all()


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(UserError, match="border_pixel_weight above 0"):
        BorderLoss(0)


def test_logits_of_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"is for one map of yes or no, as model\.border_loss, but got 3 classes"):
        BorderLoss()(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
