"""Cross-entropy whose targets may be mixtures of classes, weighted by class."""

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy against class probabilities, averaged with the class weights of the targets.

    With one-hot targets it equals `F.cross_entropy` against their labels, weights and smoothing included; that
    function itself averages over images instead where targets are probabilities, so that mixing pictures would
    change the size of a weighted loss. Where all that is there has weight 0 the loss is 0, not NaN as torch's.

    Shape:
        logits: (B, K). targets: (B, K), rows sum to 1. weight: (K,). Result: scalar.
    """
    losses = -F.log_softmax(logits.float(), dim=1)  # (B, K)
    weighted = losses if weight is None else losses * weight
    hard = (targets * weighted).sum(1)
    total = (1 - label_smoothing) * hard + label_smoothing * weighted.mean(1)
    size = targets.sum() if weight is None else (targets * weight).sum()
    return total.sum() * (size > 0) / size.clamp_min(1e-12)


def smooth_binary_cross_entropy(
    logits: Tensor, targets: Tensor, positive_weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean over images and classes of the binary cross-entropy; targets move by `label_smoothing` towards 1/2.

    Shape:
        logits, targets: (B, K), targets in [0, 1]. positive_weight: (K,), factor on the loss of present classes.
    """
    targets = targets * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=positive_weight)
