"""Metrics of a class per pixel, from integer counts over the whole set."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lit_vision.errors import UserError
from lit_vision.metrics.boundaries import COUNTS, boundary_counts
from lit_vision.metrics.per_image import Arrays
from lit_vision.types import IGNORE_INDEX

BINS = 15
SCALE = 2**24  # confidences are summed as whole numbers of 1 / SCALE: sums of floats would depend on their order


class SegmentationMetrics(Metric):
    """Mean IoU, IoU per class, accuracies, mean Dice, calibration; agreement of outlines where that is asked for.

    Pixels are counted in integers over all images and processes; nothing is averaged per batch. A class that is
    neither in the truth nor predicted is left out of the means, and has no `iou/<class>`. Without any pixel that
    counts, the means are 0.

    Args:
        class_names: K names.
        ignore_index: pixels of this value in the truth do not count.
        boundaries: also count along the outlines, see `boundary_counts`: a few times the work of all else.

    Attributes:
        confusion: (K, K) int64 pixels of the last `compute()`, rows = truth, columns = prediction; None before.
        keeps_images: set before the first update, for `per_image`.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor  # (K, K) row = truth, column = prediction
    calibration: Tensor  # (BINS, 3) pixels, right ones, sum of confidences
    outlines: Tensor  # (K, 6)

    def __init__(self, class_names: Sequence[str], ignore_index: int = IGNORE_INDEX, boundaries: bool = False) -> None:
        super().__init__()
        self.class_names, self.ignore_index, self.boundaries = list(class_names), ignore_index, boundaries
        size = len(self.class_names)
        shapes = {"counts": (size, size), "calibration": (BINS, 3), "outlines": (size, len(COUNTS))}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.confusion: Tensor | None = None
        self.keeps_images = False
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []  # of each picture: confusion, calibration, outlines

    def reset(self) -> None:
        """Forgets all pictures."""
        super().reset()
        self._kept = []

    def update(
        self,
        predicted: Tensor,
        truth: Tensor,
        confidence: Tensor | None = None,
        parts: Sequence[tuple[slice, slice]] | None = None,
    ) -> None:
        """Counts the pixels of B pictures.

        Args:
            predicted: (B, H, W) integer classes.
            truth: (B, H, W) likewise, or ignore_index.
            confidence: (B, H, W) float, probability of the predicted class; without it nothing is said of calibration.
            parts: rows and columns of each that hold the picture, without the padding; None = all. Only outlines need
                them.

        Raises:
            UserError: the truth has a class that has no name.
        """
        size = len(self.class_names)
        pairs = torch.where(truth == self.ignore_index, 0, truth.long() * size + predicted + 1)  # bin 0 does not count
        counts = torch.bincount(pairs.flatten(), minlength=size * size + 1)
        if len(counts) > size * size + 1:
            highest = int(truth[truth != self.ignore_index].max())
            raise UserError(f"a mask has class {highest}, but there are {size} class names: name it or mend the mask")
        self.counts += counts[1:].view(size, size)
        calibration, outlines = self.calibration.new_zeros(len(truth), BINS, 3), self.outlines.new_zeros(len(truth), 0)
        if confidence is not None:
            calibration = self._calibration(predicted == truth, confidence, truth != self.ignore_index)
            self.calibration += calibration.sum(0)
        if self.boundaries:
            outlines = self._outlines(predicted, truth, parts or [(slice(None), slice(None))] * len(truth))
            self.outlines += outlines.sum(0)
        if self.keeps_images:
            # Picture by picture: a batch of matrices of many classes would be large, its cells that are not 0 are few.
            cells = [torch.bincount(one.flatten(), minlength=size * size + 1)[1:].to_sparse().cpu() for one in pairs]
            self._kept += list(zip(cells, calibration.cpu(), outlines.cpu(), strict=True))

    @staticmethod
    def _calibration(right: Tensor, confidence: Tensor, known: Tensor) -> Tensor:
        """(B, BINS, 3) counts; bin k holds confidences in (k / BINS, (k + 1) / BINS], and the first one 0 as well."""
        sure = confidence.double().nan_to_num().clamp(0, 1)
        place = torch.where(known, (sure * BINS).ceil().long().clamp_min(1), 0)  # bin 0 does not count
        pictures = len(place)
        place = (place + (BINS + 1) * torch.arange(pictures, device=place.device)[:, None, None]).flatten()
        rows = [torch.ones_like(place), right.flatten().long(), (sure * SCALE).round().long().flatten()]
        # Not bincount: with weights it has no deterministic form on CUDA, and raises where that is asked for.
        sums = [place.new_zeros(pictures * (BINS + 1)).index_add_(0, place, row) for row in rows]
        return torch.stack(sums, dim=1).view(pictures, BINS + 1, 3)[:, 1:]

    def _outlines(self, predicted: Tensor, truth: Tensor, parts: Sequence[tuple[slice, slice]]) -> Tensor:
        """(B, K, 6) counts."""
        counts = [
            boundary_counts(guess[part], true[part], len(self.class_names), self.ignore_index)
            for guess, true, part in zip(predicted.cpu().numpy(), truth.cpu().numpy(), parts, strict=True)
        ]
        stacked = np.stack(counts) if counts else np.zeros((0, *self.outlines.shape), np.int64)
        return torch.from_numpy(stacked).to(self.outlines.device)

    def per_image(self) -> Arrays:
        """What this process has seen, in order: what is not 0 of each picture's counts.

        Returns:
            pixels: (N,) int64, pixels that count.
            cell/picture, cell/truth, cell/guess, cell/pixels: (M,), a row for each cell of the confusion matrices.
            calibration: (N, BINS, 3) int64.
            outline/picture, outline/class: (L,), and outline/counts: (L, 6), where outlines are counted.
        """
        cells = [one.coalesce().indices()[0].numpy() for one, _, _ in self._kept]
        counts = [one.coalesce().values().numpy() for one, _, _ in self._kept]
        cell = np.concatenate([np.zeros(0, np.int64), *cells])
        outlines: Arrays = {}
        if self.boundaries:
            none = np.zeros((0, *self.outlines.shape), np.int64)
            lines = np.concatenate([none, *(one[None].numpy() for _, _, one in self._kept)])
            picture, label = lines.any(2).nonzero()
            outlines = {"picture": picture, "class": label.astype(np.int32), "counts": lines[picture, label]}
        return {
            "pixels": np.array([own.sum() for own in counts], np.int64),
            "cell/picture": np.repeat(np.arange(len(cells)), [len(own) for own in cells]),
            "cell/truth": (cell // len(self.class_names)).astype(np.int32),
            "cell/guess": (cell % len(self.class_names)).astype(np.int32),
            "cell/pixels": np.concatenate([np.zeros(0, np.int64), *counts]),
            "calibration": np.stack([np.zeros((BINS, 3), np.int64), *(one.numpy() for _, one, _ in self._kept)])[1:],
            **{f"outline/{name}": values for name, values in outlines.items()},
        }

    def compute(self) -> dict[str, Tensor]:
        """Float64 scalars in [0, 1].

        miou, dice: means over the classes that are there. iou/<class>. pixel_accuracy. class_accuracy: mean recall of
        the classes in the truth. fw_iou: IoU weighted with the classes' share of the truth. ece: mean distance between
        confidence and accuracy, over BINS bins weighted with their pixels (Guo et al. 2017,
        https://arxiv.org/abs/1706.04599). boundary_iou, boundary_iou/<class> and boundary_f1, where they are counted.
        """
        self.confusion = self.counts.clone()
        counts = self.confusion.double()
        hit, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        both = truth + predicted
        iou = hit / (both - hit)  # NaN where a class is nowhere
        values = {
            "miou": _mean(iou),
            "dice": _mean(2 * hit / both),
            "pixel_accuracy": hit.sum() / counts.sum().clamp_min(1),
            "class_accuracy": _mean(hit / truth),
            "fw_iou": (truth * iou.nan_to_num()).sum() / counts.sum().clamp_min(1),
            **self._named("iou", iou),
        }
        if self.calibration[:, 0].any():
            pixels, right, sure = self.calibration.double().unbind(1)
            values["ece"] = (right - sure / SCALE).abs().sum() / pixels.sum()
        return values | (self._outline_values() if self.boundaries else {})

    def _outline_values(self) -> dict[str, Tensor]:
        both, either, hit_guess, guess, hit_truth, truth = self.outlines.double().unbind(1)
        iou, there = both / either, guess + truth > 0
        precision, recall = (hit / total.clamp_min(1) for hit, total in ((hit_guess, guess), (hit_truth, truth)))
        f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
        values = {"boundary_iou": _mean(iou), "boundary_f1": _mean(f1[there])}
        return values | self._named("boundary_iou", iou)

    def _named(self, name: str, values: Tensor) -> dict[str, Tensor]:
        """Those that are not NaN, by class."""
        pairs = zip(self.class_names, values, values.isnan().tolist(), strict=True)
        return {f"{name}/{label}": value for label, value, absent in pairs if not absent}


def _mean(values: Tensor) -> Tensor:
    """Of those that are not NaN; 0 where there is none."""
    return values.nanmean().nan_to_num()
