"""Losses of a class per pixel; pixels marked IGNORE_INDEX carry no gradient, and a batch of only those costs 0.

All take logits (B, K, H, W) and a mask (B, H, W) int64 and give a scalar. With K = 1 the logit is that of class 1
against class 0. Logits are taken to float32, since sums over pixels overflow float16.
"""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from segmentation_models_pytorch import losses as smp_losses
from torch import Tensor, nn
from torch.nn import functional as F

from lit_vision.errors import UserError
from lit_vision.losses.overlap import tversky_loss
from lit_vision.types import IGNORE_INDEX

ClassWeights: TypeAlias = list[float] | Literal["auto"] | None


class SegmentationLoss(nn.Module):
    """Base of the losses below: subclasses write `cost`.

    Args:
        ignore_index: mask value of pixels that do not count.
    """

    def __init__(self, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """(B, K, H, W) logits and (B, H, W) mask in, scalar out."""
        return self.cost(logits.float(), mask)

    def cost(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The loss itself; 0, but part of the graph, where no pixel counts: each process of DDP needs a gradient."""
        raise NotImplementedError


class CrossEntropyLoss(SegmentationLoss):
    """Mean cross entropy of the pixels that count.

    Args:
        class_weights: K factors (two for a single logit); the mean is weighted with them, as in torch. "auto" =
            `inverse_log_weights` of the training split; the task works them out and keeps them in its checkpoints.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        ignore_index: mask value of pixels that do not count.

    Attributes:
        class_weights: (K,) float32, None where all classes count alike, or where "auto" is not worked out yet. No
            buffer: an average of the weights pairs the buffers before the data are known.
        automatic: whether they are "auto".
    """

    def __init__(
        self,
        class_weights: ClassWeights = None,
        label_smoothing: float = 0.0,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(ignore_index)
        if isinstance(class_weights, str) and class_weights != "auto":
            raise UserError(f"class_weights is {class_weights!r}: give auto, or one number for each class")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing is {label_smoothing:g}: give a share from 0 to below 1")
        if class_weights is not None and not isinstance(class_weights, str):
            _check_weights(class_weights)
        self.automatic = class_weights == "auto"
        self.class_weights = None if class_weights is None or self.automatic else torch.tensor(class_weights)
        self.label_smoothing = label_smoothing

    def cost(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Weighted mean; 0 where only classes of weight 0 are in the mask."""
        logits = two_classes(logits)
        size = self.pixel_weights(logits, mask).sum()  # no selection: that would wait for the GPU at every step
        # Smoothing costs something even where size is 0.
        return self.total(logits, mask) * (size > 0) / size.clamp_min(1e-12)

    def pixel_weights(self, logits: Tensor, mask: Tensor) -> Tensor:
        """(B, H, W) float32, 0 where a pixel does not count, else the weight of its class."""
        weights, known = self.weights_for(logits), mask != self.ignore_index
        return known.float() if weights is None else weights[torch.where(known, mask, 0)] * known

    def weights_for(self, logits: Tensor) -> Tensor | None:
        """The class weights on the device of the logits.

        Raises:
            UserError: there are not as many as classes, or nobody has worked out "auto".
        """
        if self.automatic and self.class_weights is None:
            raise UserError(
                "class_weights: auto is worked out by SemanticSegmenter alone; give one number for each class"
            )
        if self.class_weights is None:
            return None
        if len(self.class_weights) != logits.shape[1]:
            raise UserError(
                f"class_weights has {len(self.class_weights)} values, but the network tells {logits.shape[1]} classes "
                "apart"
            )
        self.class_weights = self.class_weights.to(logits)  # once: later it is there
        return self.class_weights

    def total(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Weighted sum over pixels."""
        weights, ignored, smoothing = self.weights_for(logits), self.ignore_index, self.label_smoothing
        return F.cross_entropy(logits, mask, weights, ignore_index=ignored, reduction="sum", label_smoothing=smoothing)


class DiceLoss(SegmentationLoss):
    """1 - 2 |P T| / (|P| + |T|) with soft P, over the batch, averaged over the classes; absent classes cost 0.

    Milletari et al. 2016, V-Net, https://arxiv.org/abs/1606.04797. With a single logit it is the Dice of class 1 alone.

    Args:
        smooth: added to both parts of the fraction; steadies objects of few pixels.
        ignore_index: mask value of pixels that do not count.
    """

    def __init__(self, smooth: float = 0.0, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__(ignore_index)
        self.smooth = smooth

    def cost(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean over classes."""
        return tversky_loss(logits, mask, self.ignore_index, 0.5, 0.5, self.smooth)


class FocalLoss(CrossEntropyLoss):
    """Cross entropy times (1 - p)^gamma, p the softmax probability of the true class: easy pixels count less.

    Lin et al. 2017, https://arxiv.org/abs/1708.02002, for classes that exclude each other; for a single logit it is
    the paper's. With gamma 0 it is CrossEntropyLoss.

    Args:
        gamma: 2 is the paper's.
        class_weights: K factors (two for a single logit), the paper's alpha; or "auto".
        ignore_index: mask value of pixels that do not count.
    """

    def __init__(
        self, gamma: float = 2.0, class_weights: ClassWeights = None, ignore_index: int = IGNORE_INDEX
    ) -> None:
        super().__init__(class_weights, ignore_index=ignore_index)
        if gamma < 0:
            raise UserError(f"FocalLoss has gamma {gamma:g}: give a number from 0; 2 is the paper's")
        self.gamma = gamma

    def total(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Sum over pixels."""
        plain = F.cross_entropy(logits, mask, ignore_index=self.ignore_index, reduction="none")
        focal = (1 - torch.exp(-plain)).clamp_min(1e-7) ** self.gamma * plain  # 0 ** gamma has no slope
        return (focal * self.pixel_weights(logits, mask)).sum()


class TverskyLoss(SegmentationLoss):
    """1 - TP / (TP + alpha FP + beta FN) with soft counts, over the batch, averaged over the classes.

    Salehi et al. 2017, https://arxiv.org/abs/1706.05721. With alpha = beta = 0.5 it is DiceLoss. Absent classes cost 0;
    with a single logit it is the loss of class 1 alone.

    Args:
        alpha: price of pixels that are found but not there.
        beta: price of pixels that are there but not found; above alpha, small classes are found more often.
        smooth: added to both parts of the fraction.
        ignore_index: mask value of pixels that do not count.
    """

    def __init__(
        self, alpha: float = 0.3, beta: float = 0.7, smooth: float = 0.0, ignore_index: int = IGNORE_INDEX
    ) -> None:
        super().__init__(ignore_index)
        if min(alpha, beta) < 0 or alpha + beta == 0:
            raise UserError(f"TverskyLoss has alpha {alpha:g} and beta {beta:g}: give numbers from 0, not both 0")
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def cost(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean over classes."""
        return tversky_loss(logits, mask, self.ignore_index, self.alpha, self.beta, self.smooth)


class LovaszLoss(SegmentationLoss):
    """Lovász softmax: a surrogate of the mean IoU over the classes in the batch.

    Berman et al. 2018, https://arxiv.org/abs/1705.08790; computed by segmentation_models_pytorch.

    Args:
        per_image: average over images instead of the batch as one.
        ignore_index: mask value of pixels that do not count.
    """

    def __init__(self, per_image: bool = False, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__(ignore_index)
        self.per_image = per_image
        self.multiclass = smp_losses.LovaszLoss("multiclass", ignore_index=ignore_index)

    def cost(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean over classes; images without a pixel that counts are left out."""
        logits, known = two_classes(logits), mask != self.ignore_index
        parts = [slice(i, i + 1) for i in range(len(mask))] if self.per_image else [slice(None)]
        losses = [self.multiclass(logits[part], mask[part]) for part in parts if bool(known[part].any())]
        return torch.stack(losses).mean() if losses else (logits * 0.0).sum()


class SumLoss(SegmentationLoss):
    """Weighted sum of losses.

    Args:
        losses: each maps (logits, mask) to a scalar, and has its own `ignore_index`.
        weights: one factor per loss; null = all 1.
    """

    def __init__(self, losses: list[SegmentationLoss], weights: list[float] | None = None) -> None:
        super().__init__()
        self.weights = [1.0] * len(losses) if weights is None else weights
        if not losses or len(self.weights) != len(losses):
            raise UserError(
                f"SumLoss has {len(losses)} losses and {len(self.weights)} weights: give one weight per loss"
            )
        if not all(0 <= weight < math.inf for weight in self.weights):
            raise UserError(
                f"SumLoss has weights {list(self.weights)}: give numbers from 0; below it a loss would grow"
            )
        self.losses = nn.ModuleList(losses)

    def cost(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The sum."""
        terms = [weight * loss(logits, mask) for loss, weight in zip(self.losses, self.weights, strict=True)]
        return torch.stack(terms).sum()


def _check_weights(weights: Sequence[float]) -> None:
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise UserError(f"class_weights is {list(weights)}: give numbers from 0, not all 0")


def inverse_log_weights(pixels: Sequence[int]) -> list[float]:
    """Class weights 1 / ln(1.02 + p), p the class's share of all pixels: from 1.42 (all) to 50.5 (none).

    Paszke et al. 2016, ENet, https://arxiv.org/abs/1606.02147.

    Args:
        pixels: (K,) pixels of each class in the training split; what is ignored is not among them.

    Raises:
        UserError: there is no pixel at all.
    """
    total = sum(pixels)
    if total == 0:
        raise UserError("class_weights: auto finds no pixel of any class in the training split: mend the masks")
    return [1 / math.log(1.02 + count / total) for count in pixels]


def check_loss(name: str, loss: nn.Module, automatic: bool) -> None:
    """Refuses settings of a loss that no batch of a data module could satisfy.

    Args:
        name: of the task's argument.
        loss: with all its parts.
        automatic: whether the task works `class_weights: auto` out.

    Raises:
        UserError: unknown pixels would count as a class, or "auto" stay unknown.
    """
    for part in loss.modules():
        kind, ignored = type(part).__name__, getattr(part, "ignore_index", IGNORE_INDEX)
        if isinstance(part, SegmentationLoss) and ignored != IGNORE_INDEX:
            raise UserError(
                f"model.{name}: {kind} has ignore_index {ignored}, but data modules mark what is unknown by "
                f"{IGNORE_INDEX}: leave it out; the number in your own files is data.options.ignore_index"
            )
        if isinstance(part, CrossEntropyLoss) and part.automatic and not automatic:
            raise UserError(
                f"model.{name}: {kind} has class_weights: auto, which SemanticSegmenter alone works out; give one "
                "number for each class"
            )


def two_classes(logits: Tensor) -> Tensor:
    """Logits (B, 1, H, W) of class 1 against 0 as (B, 2, H, W), whose softmax is the sigmoid; others unchanged."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
