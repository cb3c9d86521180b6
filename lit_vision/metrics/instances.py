"""Metrics of instances from label maps: average precision, F1, panoptic quality, Jaccard index, merges and splits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lit_vision.errors import UserError
from lit_vision.metrics.per_image import Arrays
from lit_vision.ops.matching import IGNORED, MATCHED, MISSED, THRESHOLDS, match
from lit_vision.types import BoolArray, Int64Array

RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's points of the precision-recall curve
LABEL, SHARED, JOINED, VOID, OUTCOMES = 0, 1, 2, 3, 4  # columns of a prediction's row; OUTCOMES and nine more
F1_LEVELS = {"50": 0, "75": 5, "90": 8}  # positions in THRESHOLDS
IMAGE = 7  # columns of an image
STATES = ("images", "predictions", "scores", "truths")


class InstanceMetrics(Metric):
    """How well objects are found and outlined, over the whole set.

    ap, ap_50, ap_75: COCO's average precision of masks (mean over IoU .5:.05:.95, classes and 101 recalls), without a
        limit on the number of objects per image; equals pycocotools. ap/<class> where the class has objects and a name.
    pq, sq, rq: panoptic quality = segmentation quality (mean IoU of matches) x recognition quality (F1), per class,
        averaged over the classes present (Kirillov et al. 2019, https://arxiv.org/abs/1801.00868).
    f1_50, f1_75, f1_90: 2 TP / (2 TP + FP + FN) at that IoU, per class, averaged over the classes present.
    aji: aggregated Jaccard index, the mean over images with objects, there or predicted; classes do not count.
    count_error: mean over images of |objects predicted - objects there|.
    merged, split: share of the true objects that one prediction glues to others, and that are cut in two or more, see
        `ops.matching.Overlap`; classes do not count.

    Pixels of crowds, and those marked as ignored, are void: a prediction mostly inside counts neither way. States are
    a row of integers per prediction, never stacks of masks.

    Args:
        num_classes: K.
        class_names: K names; None = nothing is said of each class.
    """

    full_state_update = False
    images: list[Tensor]
    predictions: list[Tensor]
    scores: list[Tensor]
    truths: list[Tensor]

    def __init__(self, num_classes: int, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.num_classes, self.class_names = num_classes, class_names
        # images: (I, 7) index, predictions, objects, glued and cut objects, numerator and denominator of the Jaccard
        # index. The rows of all others are in its order.
        for state in STATES:
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self,
        index: int,
        predicted: Tensor,
        labels: Tensor,
        scores: Tensor,
        truth: Tensor,
        truth_labels: Tensor,
        ignored: Tensor | None = None,
    ) -> None:
        """Add one image.

        Args:
            index: which image; one that comes twice (a padded share of a process) counts once.
            predicted: (H, W) label map of P objects.
            labels: (P,) classes.
            scores: (P,).
            truth: (H, W) label map of T objects, negative in crowds.
            truth_labels: (T,) classes.
            ignored: (H, W) bool, where nothing counts.
        """
        for name, numbers, classes in (("true", truth, truth_labels), ("predicted", predicted, labels)):
            if numbers.numel() and int(numbers.max()) > len(classes):
                raise UserError(
                    f"the {name} label map goes up to object {int(numbers.max())}, but there are {len(classes)} "
                    "labels: number the objects 1..N, as ops.instances.relabel does"
                )
        kinds = labels.cpu().numpy()
        there = (truth.cpu().numpy(), truth_labels.cpu().numpy())
        given = (predicted.cpu().numpy(), kinds, scores.float().cpu().numpy())
        found = match(*there, *given, None if ignored is None else ignored.cpu().numpy())
        columns = [kinds, found.shared, found.joined, found.void, *found.outcomes.T]
        rows = np.stack([np.asarray(column, np.int64) for column in columns], 1)
        glued = sum(len(objects) for _, objects in found.overlap.merges())
        counts = [glued, len(found.overlap.splits()), *found.overlap.jaccard()]
        image = torch.tensor([[index, len(labels), len(truth_labels), *counts]])
        self._append(image, torch.from_numpy(rows), scores.float(), truth_labels.long())

    def _append(self, images: Tensor, predictions: Tensor, scores: Tensor, truths: Tensor) -> None:
        self.images.append(images.to(self.device))
        self.predictions.append(predictions.to(self.device))
        self.scores.append(scores.to(self.device))
        self.truths.append(truths.to(self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics, but a process that has seen no image takes part with empty states instead of failing."""
        if len(self.images) == 0:
            empty = torch.zeros(0, dtype=torch.int64)
            self._append(empty.view(0, IMAGE), empty.view(0, OUTCOMES + len(THRESHOLDS)), empty.float(), empty)
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """The values above by name: float64 scalars; 0 where nothing was to find."""
        if len(self.images) == 0:
            raise ValueError("InstanceMetrics has seen no image")
        rows, scores, truths, images = _rows([dim_zero_cat(getattr(self, name)).cpu().numpy() for name in STATES])
        precision = {
            c: _average_precision(rows[rows[:, LABEL] == c], scores[rows[:, LABEL] == c], int((truths == c).sum()))
            for c in range(self.num_classes)
            if (truths == c).any()
        }
        ap = np.mean(list(precision.values()), 0) if precision else np.zeros(len(THRESHOLDS))
        quality = _panoptic(rows, truths, self.num_classes)
        counted = np.bincount(np.repeat(np.arange(len(images)), images[:, 1]), rows[:, VOID] == 0, len(images))
        values = {"ap": ap.mean(), "ap_50": ap[0], "ap_75": ap[5]}
        values |= {f"ap/{self.class_names[c]}": own.mean() for c, own in precision.items()} if self.class_names else {}
        values |= dict(zip(("pq", "sq", "rq"), quality, strict=True))
        values |= {f"f1_{name}": _f1(rows, truths, self.num_classes, level) for name, level in F1_LEVELS.items()}
        values["count_error"] = np.abs(counted - images[:, 2]).mean()
        values |= _by_image(images)
        return {
            key: torch.tensor(float(value), dtype=torch.float64, device=self.device) for key, value in values.items()
        }

    def per_image(self) -> Arrays:
        """What this process has seen, image by image in the order of their indices.

        Returns:
            index: (N,) the images' positions in the data set.
            merged, split: (N,) true objects that are glued, and cut.
            jaccard: (N, 2) numerator and denominator of the aggregated Jaccard index.
            prediction/picture, /label, /score, /shared, /joined, /void: (P,), see `ops.matching.Matches`.
            prediction/outcome: (P, 10) MISSED, MATCHED or IGNORED at each IoU.
            object/picture, object/label: (T,).
        """
        empty = torch.zeros(0, dtype=torch.int64)
        first = (empty.view(0, IMAGE), empty.view(0, OUTCOMES + len(THRESHOLDS)), empty.float(), empty)
        seen = [torch.cat([none, *getattr(self, name)]) for none, name in zip(first, STATES, strict=True)]
        rows, scores, truths, images = _rows([one.cpu().numpy() for one in seen])
        places = np.arange(len(images))
        columns = {"label": LABEL, "shared": SHARED, "joined": JOINED, "void": VOID}
        return {
            "index": images[:, 0],
            "merged": images[:, 3],
            "split": images[:, 4],
            "jaccard": images[:, 5:7],
            "prediction/picture": np.repeat(places, images[:, 1]),
            **{f"prediction/{name}": rows[:, column].astype(np.int32) for name, column in columns.items()},
            "prediction/score": scores,
            "prediction/outcome": rows[:, OUTCOMES:].astype(np.int8),
            "object/picture": np.repeat(places, images[:, 2]),
            "object/label": truths.astype(np.int32),
        }


def _rows(seen: Sequence[Any]) -> tuple[Int64Array, Any, Int64Array, Int64Array]:
    """Predictions, their scores, true labels and images, each image once and in the order of its index."""
    images, rows, scores, truths = seen
    _, first = np.unique(images[:, 0], return_index=True)
    starts = np.cumsum(images[:, :3], 0) - images[:, :3]
    spans = [_spans(starts[first, column], images[first, column]) for column in (1, 2)]
    return rows[spans[0]], scores[spans[0]], truths[spans[1]], images[first]


def _spans(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """Positions start..start + length - 1 of every span, one after the other."""
    shifts = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return np.asarray(np.arange(len(shifts)) + shifts, np.int64)


def _average_precision(rows: Int64Array, scores: Any, objects: int) -> Any:
    """COCO's AP of one class at each of THRESHOLDS: (10,)."""
    outcomes = rows[np.argsort(-scores, kind="stable"), OUTCOMES:]
    return np.array([_interpolated(column[column != IGNORED] == MATCHED, objects) for column in outcomes.T])


def _interpolated(hits: BoolArray, objects: int) -> float:
    """Mean over 101 recalls of the best precision at that recall or beyond; hits in order of falling scores."""
    if not len(hits):
        return 0.0
    found = np.cumsum(hits)
    precision = np.maximum.accumulate((found / np.arange(1, len(hits) + 1))[::-1])[::-1]
    reached = np.searchsorted(found / objects, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(reached, len(hits))].mean())


def _f1(rows: Int64Array, truths: Int64Array, num_classes: int, level: int) -> float:
    """F1 at one of THRESHOLDS, averaged over the classes that are present or predicted."""
    label, outcome = rows[:, LABEL], rows[:, OUTCOMES + level]
    hits, false = (np.bincount(label[outcome == kind], minlength=num_classes) for kind in (MATCHED, MISSED))
    size = hits + false + np.bincount(truths, minlength=num_classes)
    return float((2 * hits[size > 0] / size[size > 0]).mean()) if size.any() else 0.0


def _by_image(images: Int64Array) -> dict[str, float]:
    objects, glued, cut, shared, joined = images[:, 2:].T
    there = joined > 0
    aji = float((shared[there] / joined[there]).mean()) if there.any() else 0.0
    return {"aji": aji, "merged": glued.sum() / max(objects.sum(), 1), "split": cut.sum() / max(objects.sum(), 1)}


def _panoptic(rows: Int64Array, truths: Int64Array, num_classes: int) -> tuple[float, float, float]:
    """PQ, SQ and RQ, each averaged over the classes that are present or predicted."""
    matched = rows[:, SHARED] > 0
    label = rows[:, LABEL]
    ious = np.bincount(label[matched], rows[matched, SHARED] / rows[matched, JOINED], num_classes)
    hits = np.bincount(label[matched], minlength=num_classes)
    false = np.bincount(label[~matched & (rows[:, VOID] == 0)], minlength=num_classes)
    missed = np.bincount(truths, minlength=num_classes) - hits
    size = hits + 0.5 * (false + missed)
    present = size > 0
    if not present.any():
        return 0.0, 0.0, 0.0
    quality, recognition = ious[present] / size[present], hits[present] / size[present]
    segmentation = ious[present] / np.maximum(hits[present], 1)
    return float(quality.mean()), float(segmentation.mean()), float(recognition.mean())
