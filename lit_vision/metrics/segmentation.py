"""Metrics of a class per pixel, from one confusion matrix over the whole set."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lit_vision.errors import UserError
from lit_vision.metrics.per_image import Arrays
from lit_vision.types import IGNORE_INDEX


class SegmentationMetrics(Metric):
    """Mean IoU, IoU per class, pixel accuracy and mean Dice.

    Pixels are counted in integers over all images and processes; nothing is averaged per batch. A class that is
    neither in the truth nor predicted is left out of the means, and has no `iou/<class>`. Without any pixel that
    counts, the means are 0.

    Args:
        class_names: K names.
        ignore_index: pixels of this value in the truth do not count.

    Attributes:
        keeps_images: set before the first update, for `per_image`.
    """

    full_state_update = False
    higher_is_better = True
    confusion: Tensor

    def __init__(self, class_names: Sequence[str], ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.class_names, self.ignore_index = list(class_names), ignore_index
        size = len(self.class_names)
        self.add_state("confusion", torch.zeros(size, size, dtype=torch.int64), dist_reduce_fx="sum")
        self.keeps_images = False
        self._kept: list[Tensor] = []

    def reset(self) -> None:
        """Forgets all pictures."""
        super().reset()
        self._kept = []

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count pixels: both (B, H, W) integer classes. Row of the matrix = truth, column = prediction.

        Raises:
            UserError: the truth has a class that has no name.
        """
        size = len(self.class_names)
        pairs = torch.where(truth == self.ignore_index, 0, truth.long() * size + predicted + 1)  # bin 0 does not count
        counts = torch.bincount(pairs.flatten(), minlength=size * size + 1)
        if len(counts) > size * size + 1:
            highest = int(truth[truth != self.ignore_index].max())
            raise UserError(f"a mask has class {highest}, but there are {size} class names: name it or mend the mask")
        self.confusion += counts[1:].view(size, size)
        if self.keeps_images:
            # Picture by picture: a batch of matrices of many classes would be large, its cells that are not 0 are few.
            self._kept += [
                torch.bincount(one.flatten(), minlength=size * size + 1)[1:].to_sparse().cpu() for one in pairs
            ]

    def per_image(self) -> Arrays:
        """What this process has seen, in order: the cells that are not 0 of each picture's confusion matrix.

        Returns:
            pixels: (N,) int64, pixels that count.
            cell/picture, cell/truth, cell/guess, cell/pixels: (M,), a row for each such cell.
        """
        cells = [one.coalesce().indices()[0].numpy() for one in self._kept]
        counts = [one.coalesce().values().numpy() for one in self._kept]
        cell = np.concatenate([np.zeros(0, np.int64), *cells])
        return {
            "pixels": np.array([own.sum() for own in counts], np.int64),
            "cell/picture": np.repeat(np.arange(len(cells)), [len(own) for own in cells]),
            "cell/truth": (cell // len(self.class_names)).astype(np.int32),
            "cell/guess": (cell % len(self.class_names)).astype(np.int32),
            "cell/pixels": np.concatenate([np.zeros(0, np.int64), *counts]),
        }

    def compute(self) -> dict[str, Tensor]:
        """{"miou", "dice", "pixel_accuracy", "iou/<class>"}: float64 scalars in [0, 1]."""
        counts = self.confusion.double()
        hit, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        present = (truth + predicted) > 0
        hit, both = hit[present], (truth + predicted)[present]
        iou = hit / (both - hit)
        values = {
            "miou": _mean(iou),
            "dice": _mean(2 * hit / both),
            "pixel_accuracy": hit.sum() / counts.sum().clamp_min(1),
        }
        names = [name for name, shown in zip(self.class_names, present.tolist(), strict=True) if shown]
        return values | {f"iou/{name}": value for name, value in zip(names, iou, strict=True)}


def _mean(values: Tensor) -> Tensor:
    return values.mean() if values.numel() else values.new_zeros(())
