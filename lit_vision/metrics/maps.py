"""How good the maps of two networks are before objects are made of them."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_vision.types import IGNORE_INDEX


class MapIoU(Metric):
    """IoU of the object pixels and of the border pixels over the whole set, both maps cut at one half.

    pixel_iou: of foreground, whatever the class. border_iou: of the pixels where objects touch.
    Ignored pixels do not count; 0 where there is nothing, there or predicted.
    """

    full_state_update = False
    shared: Tensor
    joined: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for state in ("shared", "joined"):  # (2,): pixels, border
            self.add_state(state, torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, foreground: Tensor, border: Tensor, mask: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            foreground: (B, H, W) probability of any class.
            border: (B, H, W) probability.
            mask: (B, H, W) int64, 0 = background, IGNORE_INDEX does not count.
            target: (B, H, W) int64 of 0 and 1, IGNORE_INDEX does not count.
        """
        for k, (probability, truth) in enumerate([(foreground, mask), (border, target)]):
            known = truth != IGNORE_INDEX
            predicted, there = (probability > 0.5) & known, (truth > 0) & known
            self.shared[k] += (predicted & there).sum()
            self.joined[k] += (predicted | there).sum()

    def compute(self) -> dict[str, Tensor]:
        """{"pixel_iou", "border_iou"}: float64 scalars."""
        iou = self.shared.double() / self.joined.clamp_min(1)
        return {"pixel_iou": iou[0], "border_iou": iou[1]}
