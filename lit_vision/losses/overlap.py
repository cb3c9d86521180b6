"""Overlap of predicted and true pixels, counted softly: what Dice and Tversky losses are made of.

No map of classes is made one-hot: a pixel's true class is picked out of the probabilities, and the sums run over those.
"""

import torch
from torch import Tensor


def soft_counts(logits: Tensor, mask: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of each class: as the probabilities have them, as the mask has them, and those that agree.

    Args:
        logits: (B, K, H, W) float32; with K = 1 the logit is that of class 1 against class 0.
        mask: (B, H, W) int64.
        ignore_index: mask value of pixels that do not count.

    Returns:
        Three of (K,) float32, with K = 1 of class 1: sum of its probabilities, its pixels, and the sum of its
        probabilities over its own pixels.
    """
    known = (mask != ignore_index).to(logits)
    if logits.shape[1] == 1:
        probabilities, true = logits[:, 0].sigmoid() * known, (mask == 1).to(logits) * known
        sums = torch.stack([probabilities.sum(), true.sum(), (probabilities * true).sum()])
        return sums[0:1], sums[1:2], sums[2:3]
    images, classes = logits.shape[:2]
    probabilities = logits.softmax(1)
    target = torch.where(known > 0, mask, 0)
    agreed = probabilities.gather(1, target[:, None])[:, 0] * known
    with torch.autocast(logits.device.type, enabled=False):  # which would round the sums to three digits
        found = torch.einsum("bkp,bp->bk", probabilities.flatten(2), known.flatten(1)).sum(0)
    # Image by image: float32 counts to no more than 2^24 pixels.
    place = (target + classes * torch.arange(images, device=mask.device)[:, None, None]).flatten()
    none = logits.new_zeros(images * classes)
    true, both = (none.index_add(0, place, one.flatten()).view(images, classes).sum(0) for one in (known, agreed))
    return found, true, both


def tversky_loss(
    logits: Tensor, mask: Tensor, ignore_index: int, alpha: float, beta: float, smooth: float = 0.0
) -> Tensor:
    """1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth), averaged over the classes; absent classes cost 0.

    Args:
        logits: (B, K, H, W) float32.
        mask: (B, H, W) int64.
        ignore_index: mask value of pixels that do not count.
        alpha: price of pixels that are found but not there.
        beta: price of pixels that are there but not found.
        smooth: added to both parts of the fraction.
    """
    found, true, both = soft_counts(logits, mask, ignore_index)
    parts = both + alpha * (found - both) + beta * (true - both) + smooth
    losses: Tensor = (1 - (both + smooth) / parts.clamp_min(1e-7)) * (true > 0)
    return losses.mean()
