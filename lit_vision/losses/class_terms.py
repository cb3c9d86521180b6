"""Cross-entropy of many classes at many places of which few are objects, without a table of targets."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

VARIFOCAL_SHARE = 0.75  # alpha of the varifocal loss


class SparseClassTerm(Function):
    """Sum over (B, N, C) logits of the cross-entropy to 0, but at Q places to their `quality`.

    Beside the logits it holds one tensor of their size, and only while the gradient is made: dense targets, and what
    autograd keeps for each step of the formula, would be several. With `gamma` above 0 it is the varifocal loss (Zhang
    et al. 2020, arXiv:2008.13367): p ** gamma * 0.75 weighs the places without an object, the quality those with one;
    these weights have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, counted: Tensor, image: Tensor, place: Tensor, label: Tensor, quality: Tensor,
        chosen: Tensor, gamma: float,
    ) -> Tensor:  # fmt: skip
        """The sum, a scalar.

        Args:
            logits: (B, N, C) float32.
            counted: (B, N) float32, factor on the places without an object.
            image: (Q,) of the places with one.
            place: (Q,) likewise.
            label: (Q,) likewise.
            quality: (Q,) in [0, 1].
            chosen: (Q,) float32, 0 takes an entry out.
            gamma: 0, or the exponent of the varifocal loss.
        """
        ctx.save_for_backward(logits, counted, image, place, label, quality, chosen)
        ctx.gamma = gamma
        negative = torch.stack([_negative(own, gamma).sum(dim=-1) for own in logits])  # (B, N), image by image
        own = logits[image, place, label]
        weight = quality if gamma else chosen
        wanted = weight * F.binary_cross_entropy_with_logits(own, quality, reduction="none")
        instead = counted[image, place] * _negative(own, gamma)
        return (negative * counted).sum() + (chosen * (wanted - instead)).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient on the logits alone."""
        logits, counted, image, place, label, quality, chosen = ctx.saved_tensors
        slope = _negative_slope(logits, ctx.gamma).mul_(counted[..., None])
        own = logits[image, place, label]
        weight = quality if ctx.gamma else chosen
        wanted = weight * (own.sigmoid() - quality)
        instead = counted[image, place] * _negative_slope(own, ctx.gamma)
        slope.index_put_((image, place, label), chosen * (wanted - instead), accumulate=True)
        return slope.mul_(gradients[0]), None, None, None, None, None, None, None


def _negative(logits: Tensor, gamma: float) -> Tensor:
    """Cross-entropy to 0, weighted."""
    plain = F.softplus(logits)
    return plain.mul_(VARIFOCAL_SHARE * logits.sigmoid() ** gamma) if gamma else plain


def _negative_slope(logits: Tensor, gamma: float) -> Tensor:
    chances = logits.sigmoid()
    return VARIFOCAL_SHARE * chances ** (gamma + 1) if gamma else chances


def sparse_class_term(
    logits: Tensor, counted: Tensor, image: Tensor, place: Tensor, label: Tensor, quality: Tensor, chosen: Tensor,
    gamma: float = 0.0,
) -> Tensor:  # fmt: skip
    """See `SparseClassTerm`."""
    apply = cast(Any, SparseClassTerm.apply)
    return cast(Tensor, apply(logits, counted, image, place, label, quality, chosen.float(), gamma))
