"""Predicted objects against true ones in one image, as COCO and the panoptic quality count them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lit_vision.ops.instances import shared_pixels
from lit_vision.types import BoolArray, FloatArray, Int32Array, Int64Array

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's
MISSED, MATCHED, IGNORED = 0, 1, 2
AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}  # COCO's, pixels


@dataclass(frozen=True)
class Overlap:
    """Which of T true and P predicted objects of one picture meet, whatever their classes.

    Args:
        truth: (M,) positions of true objects, from 0.
        predicted: (M,) positions of predictions, from 0.
        shared: (M,) pixels that they have in common, 1 or more.
        true_areas: (T,) pixels of the true objects.
        areas: (P,) pixels of the predictions.
        void: (P,) pixels of the predictions where nothing counts.
    """

    truth: Int64Array
    predicted: Int64Array
    shared: Int64Array
    true_areas: Int64Array
    areas: Int64Array
    void: Int64Array

    @property
    def unions(self) -> Int64Array:
        """(M,) pixels of both objects of each pair."""
        return self.true_areas[self.truth] + self.areas[self.predicted] - self.shared

    def merges(self) -> list[tuple[int, Int64Array]]:
        """Predictions that glue objects: (prediction, true objects more than half of which lie in it), two or more."""
        return _several(self.predicted, self.truth, 2 * self.shared > self.true_areas[self.truth])

    def splits(self) -> list[tuple[int, Int64Array]]:
        """True objects that are cut: (object, predictions more than half of which lie in it), two or more."""
        return _several(self.truth, self.predicted, 2 * self.shared > self.areas[self.predicted])

    def jaccard(self) -> tuple[int, int]:
        """Numerator and denominator of the aggregated Jaccard index.

        Kumar et al. 2017, https://doi.org/10.1109/TMI.2017.2677499: each true object with the prediction of the highest
        IoU, whether or not another one has it too; what nobody has chosen counts to the denominator. Void pixels of
        predictions do not count.
        """
        areas = self.areas - self.void
        unions = self.true_areas[self.truth] + areas[self.predicted] - self.shared
        order = np.lexsort((-self.shared / unions, self.truth))
        objects, first = np.unique(self.truth[order], return_index=True)
        best = order[first]
        missed = self.true_areas.sum() - self.true_areas[objects].sum()
        unused = areas.sum() - areas[np.unique(self.predicted[best])].sum()
        return int(self.shared[best].sum()), int(unions[best].sum() + missed + unused)


def _several(one: Int64Array, other: Int64Array, chosen: BoolArray) -> list[tuple[int, Int64Array]]:
    """Each of `one` that has at least two chosen partners, with them."""
    one, other = one[chosen], other[chosen]
    order = np.argsort(one, kind="stable")
    numbers, first, counts = np.unique(one[order], return_index=True, return_counts=True)
    found = zip(numbers[counts > 1].tolist(), first[counts > 1], counts[counts > 1], strict=True)
    return [(number, other[order[at : at + count]]) for number, at, count in found]


@dataclass(frozen=True)
class Matches:
    """What became of P predictions.

    Args:
        outcomes: (P, 10) MISSED, MATCHED or IGNORED at each of THRESHOLDS, as COCO counts.
        shared: (P,) pixels shared with the true object of the same class at an IoU over 0.5; 0 = none.
        joined: (P,) pixels of the union with it, void left out.
        void: (P,) more than half of the prediction's pixels are void: it counts neither for nor against.
        overlap: which objects meet, whatever their classes.
    """

    outcomes: Int64Array
    shared: Int64Array
    joined: Int64Array
    void: BoolArray
    overlap: Overlap


def overlap(
    truth: Int32Array, objects: int, predicted: Int32Array, count: int, ignored: BoolArray | None = None
) -> Overlap:
    """What the objects of two label maps share.

    Args:
        truth: label map; negative = crowd.
        objects: T.
        predicted: label map.
        count: P.
        ignored: (H, W), where nothing counts; pixels of true objects are never void. Crowds are added to it.
    """
    void = truth < 0
    if ignored is not None:
        void |= ignored & (truth <= 0)
    numbers = np.where(void, objects + 1, truth).astype(np.int32) if void.any() else truth
    rows, columns, shared = shared_pixels(numbers, predicted)
    true_areas = np.bincount(rows, shared, objects + 2)[1 : objects + 1].astype(np.int64)
    areas = np.bincount(columns, shared, count + 1)[1:].astype(np.int64)
    nowhere = rows == objects + 1
    in_void = np.bincount(columns[nowhere], shared[nowhere], count + 1)[1:].astype(np.int64)
    pairs = (rows > 0) & (columns > 0) & ~nowhere
    return Overlap(rows[pairs] - 1, columns[pairs] - 1, shared[pairs], true_areas, areas, in_void)


def match(
    truth: Int32Array,
    truth_labels: Int64Array,
    predicted: Int32Array,
    labels: Int64Array,
    scores: FloatArray,
    ignored: BoolArray | None = None,
) -> Matches:
    """Match by overlap, each with its own class.

    Objects of a label map do not overlap, so at an IoU over 0.5 there is at most one partner on either side. At
    exactly 0.5 there can be two: the higher score takes it.

    Args:
        truth: label map with T objects; negative = crowd.
        truth_labels: (T,) classes.
        predicted: label map with P objects.
        labels: (P,) classes.
        scores: (P,) in [0, 1].
        ignored: (H, W), where nothing counts; pixels of true objects are never void. Crowds are added to it.
    """
    found = overlap(truth, len(truth_labels), predicted, len(labels), ignored)
    same = truth_labels[found.truth] == labels[found.predicted]
    rows, columns, shared = found.truth[same], found.predicted[same], found.shared[same]
    unions = found.unions[same]
    outcomes = _coco_outcomes(rows, columns, shared / unions, scores)
    in_void = found.void / np.maximum(found.areas, 1)
    outcomes[(outcomes == MISSED) & (in_void[:, None] >= THRESHOLDS)] = IGNORED
    counted = unions - found.void[columns]
    partner = 2 * shared > counted
    both = [np.bincount(columns[partner], values[partner], len(labels)) for values in (shared, counted)]
    return Matches(outcomes, both[0].astype(np.int64), both[1].astype(np.int64), in_void > 0.5, found)


def _coco_outcomes(
    rows: Int64Array, columns: Int64Array, ious: npt.NDArray[np.float64], scores: FloatArray
) -> Int64Array:
    """IoUs of pairs of one class -> (P, 10) MISSED or MATCHED, in order of falling scores."""
    outcomes = np.zeros((len(scores), len(THRESHOLDS)), np.int64)
    near = ious >= THRESHOLDS[0]
    rows, columns, ious = rows[near], columns[near], ious[near]
    order = np.lexsort((columns, -scores[columns]))
    _, first = np.unique(rows[order], return_index=True)
    kept = order[first]  # an object two predictions halve goes to the higher score
    outcomes[columns[kept]] = ious[kept, None] >= THRESHOLDS
    return outcomes


def match_boxes(
    predicted: npt.NDArray[np.floating],
    truth: npt.NDArray[np.floating],
    crowd: BoolArray,
    apart: BoolArray | None = None,
) -> npt.NDArray[np.int8]:
    """Match the boxes of one image and class as COCO does, without a limit on the predictions' sizes.

    Args:
        predicted: (P, 4) xyxy, the highest score first.
        truth: (T, 4) xyxy.
        crowd: (T,); what is matched to a crowd counts neither way.
        apart: (T,), objects of other sizes: what is matched to one, one each, counts neither way; None = none are.

    Returns:
        (P, 10) MISSED, MATCHED or IGNORED at each of THRESHOLDS.
    """
    outcomes = np.zeros((len(predicted), len(THRESHOLDS)), np.int8)
    ious = box_ious(predicted, truth, crowd)
    beside = crowd if apart is None else crowd | apart
    single, needed = ious[:, ~beside], np.minimum(THRESHOLDS, 1 - 1e-10)
    free = np.ones((len(THRESHOLDS), single.shape[1]), bool)
    levels = np.arange(len(THRESHOLDS))
    for p in np.flatnonzero(single.max(1, initial=0) >= needed[0]).tolist():
        left = np.where(free, single[p], -1)
        best = left.shape[1] - 1 - left[:, ::-1].argmax(1)  # the last of equal ones, as in COCO
        found = left[levels, best] >= needed
        free[levels[found], best[found]] = False
        outcomes[p, found] = MATCHED
    free = np.ones((len(THRESHOLDS), int(beside.sum())), bool)
    aside, again = ious[:, beside], crowd[beside]
    for p in np.flatnonzero(aside.max(1, initial=0) >= needed[0]).tolist():
        left = np.where(free | again, aside[p], -1)
        best = left.shape[1] - 1 - left[:, ::-1].argmax(1)
        found = (left[levels, best] >= needed) & (outcomes[p] == MISSED)
        free[levels[found], best[found]] = False
        outcomes[p, found] = IGNORED
    return outcomes


def box_ious(
    predicted: npt.NDArray[np.floating], truth: npt.NDArray[np.floating], crowd: BoolArray | None = None
) -> npt.NDArray[np.float64]:
    """IoUs (P, T) float64 of boxes (P, 4) and (T, 4) xyxy; of a crowd, the share of the prediction that lies in it."""
    predicted, truth = predicted.astype(np.float64), truth.astype(np.float64)
    corners = np.minimum(predicted[:, None, 2:], truth[None, :, 2:]) - np.maximum(
        predicted[:, None, :2], truth[None, :, :2]
    )
    shared = np.clip(corners, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (predicted, truth)]
    others = areas[1] - shared
    unions = areas[0][:, None] + (others if crowd is None else np.where(crowd, 0, others))
    return np.asarray(shared / np.maximum(unions, np.finfo(float).tiny), np.float64)
