"""Cross entropy in which the pixels that matter count more: the hardest ones, or those along the outlines."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_vision.errors import UserError
from lit_vision.losses.segmentation import ClassWeights, CrossEntropyLoss, two_classes
from lit_vision.types import IGNORE_INDEX


class OHEMCrossEntropyLoss(CrossEntropyLoss):
    """Mean cross entropy of the hardest pixels of a batch alone (online hard example mining).

    Shrivastava et al. 2016, https://arxiv.org/abs/1604.03540, for pixels: those count whose true class has a
    probability below `threshold`, and at least the share `min_kept` of all that are not ignored, the hardest first.

    Args:
        threshold: pixels below it are hard, in [0, 1]; 0 = the share alone decides.
        min_kept: smallest share of the pixels that counts, in (0, 1]; 1 = all of them, plain cross entropy.
        class_weights: as in CrossEntropyLoss; they do not change which pixels are hard.
        ignore_index: mask value of pixels that do not count.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: float = 0.1,
        class_weights: ClassWeights = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(class_weights, ignore_index=ignore_index)
        if not 0 <= threshold <= 1 or not 0 < min_kept <= 1:
            raise UserError(
                f"OHEMCrossEntropyLoss has threshold {threshold:g} and min_kept {min_kept:g}: give a probability from "
                "0 to 1 and a share above 0, up to 1"
            )
        self.threshold, self.min_kept = threshold, min_kept

    def cost(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Weighted mean over the hard pixels."""
        logits = two_classes(logits)
        losses = F.cross_entropy(logits, mask, ignore_index=self.ignore_index, reduction="none")
        weights = self.pixel_weights(logits, mask) * self.hard(losses.detach(), mask != self.ignore_index)
        return (losses * weights).sum() / weights.sum().clamp_min(1e-12)

    def hard(self, losses: Tensor, known: Tensor) -> Tensor:
        """(B, H, W) bool: which pixels count, of their losses and whether they are known, both (B, H, W)."""
        candidates = losses[known]
        if candidates.numel() == 0:
            return known
        kept = max(int(self.min_kept * candidates.numel()), 1)
        least = candidates.kthvalue(candidates.numel() - kept + 1).values  # a selection, far cheaper than sorting
        below = losses > -torch.tensor(self.threshold, device=losses.device).log()
        return known & (below | (losses >= least))


class BoundaryCrossEntropyLoss(CrossEntropyLoss):
    """Mean cross entropy in which pixels near the outline of a class count more, see `boundary_weights`.

    Args:
        strength: a pixel on an outline counts 1 + strength.
        width: pixels over which that falls to 1.
        class_weights: as in CrossEntropyLoss; both are multiplied.
        ignore_index: mask value of pixels that do not count.
    """

    def __init__(
        self,
        strength: float = 4.0,
        width: int = 3,
        class_weights: ClassWeights = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(class_weights, ignore_index=ignore_index)
        if strength < 0 or width < 1:
            raise UserError(
                f"BoundaryCrossEntropyLoss has strength {strength:g} and width {width}: give a factor from 0 and whole "
                "pixels from 1"
            )
        self.strength, self.width = strength, width

    def cost(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Weighted mean."""
        logits = two_classes(logits)
        losses = F.cross_entropy(logits, mask, ignore_index=self.ignore_index, reduction="none")
        near = boundary_weights(mask, self.strength, self.width, self.ignore_index)
        weights = self.pixel_weights(logits, mask) * near
        return (losses * weights).sum() / weights.sum().clamp_min(1e-12)


def boundary_weights(mask: Tensor, strength: float, width: int, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Weights that fall from 1 + strength on the outlines of the classes to 1 at `width` pixels from them.

    The idea of U-Net's weight map (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597), with a linear fall,
    which takes `width` - 1 poolings of the mask and no distance transform. Distance is that of a king's moves.

    Args:
        mask: (B, H, W) int64; a pixel is on an outline if one of its four neighbours has another class. Where the
            neighbour's is not known there is no outline.
        strength: weight on top of 1, on the outline itself.
        width: pixels, from 1 (the outline alone).
        ignore_index: mask value of pixels whose class is not known.

    Returns:
        (B, H, W) float32.
    """
    outline = torch.zeros_like(mask, dtype=torch.bool)
    for axis in (1, 2):
        length = mask.shape[axis] - 1
        one, other = mask.narrow(axis, 0, length), mask.narrow(axis, 1, length)
        differ = (one != other) & (one != ignore_index) & (other != ignore_index)
        outline.narrow(axis, 0, length).logical_or_(differ)
        outline.narrow(axis, 1, length).logical_or_(differ)
    ring = outline.float()[:, None]
    rings = ring.clone()
    for _ in range(width - 1):
        ring = F.max_pool2d(ring, 3, stride=1, padding=1)
        rings += ring
    return 1 + strength * rings[:, 0] / width
