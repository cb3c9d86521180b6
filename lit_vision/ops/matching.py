"""Predicted objects against true ones in one image, as COCO and the panoptic quality count them."""

from dataclasses import dataclass

import numpy as np

from lit_vision.ops.instances import overlaps
from lit_vision.types import BoolArray, FloatArray, Int32Array, Int64Array

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's
MISSED, MATCHED, IGNORED = 0, 1, 2


@dataclass(frozen=True)
class Matches:
    """What became of P predictions.

    Args:
        outcomes: (P, 10) MISSED, MATCHED or IGNORED at each of THRESHOLDS, as COCO counts.
        shared: (P,) pixels shared with the true object of the same class at an IoU over 0.5; 0 = none.
        joined: (P,) pixels of the union with it, void left out.
        void: (P,) more than half of the prediction's pixels are void: it counts neither for nor against.
    """

    outcomes: Int64Array
    shared: Int64Array
    joined: Int64Array
    void: BoolArray


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
    void_map = (truth < 0) if ignored is None else ((truth < 0) | (ignored & (truth <= 0)))
    table = overlaps(np.where(void_map, len(truth_labels) + 1, truth).astype(np.int32), predicted)
    table = np.pad(table, ((0, len(truth_labels) + 2 - table.shape[0]), (0, len(labels) + 1 - table.shape[1])))
    areas, true_areas = table.sum(0)[1:], table.sum(1)[1:-1]  # of predictions, of true objects
    shared, void = table[1:-1, 1:], table[-1, 1:]
    same = truth_labels[:, None] == labels[None]
    unions = true_areas[:, None] + areas[None] - shared
    outcomes = _coco_outcomes(np.where(same, shared / np.maximum(unions, 1), 0), scores)
    in_void = void / np.maximum(areas, 1)
    outcomes[(outcomes == MISSED) & (in_void[:, None] >= THRESHOLDS)] = IGNORED
    counted = unions - void[None]
    partner = same & (2 * shared > counted)
    return Matches(outcomes, (shared * partner).sum(0), (counted * partner).sum(0), in_void > 0.5)


def _coco_outcomes(ious: np.ndarray[tuple[int, int], np.dtype[np.float64]], scores: FloatArray) -> Int64Array:
    """(T, P) IoUs of pairs of one class -> (P, 10) MISSED or MATCHED, in order of falling scores."""
    outcomes = np.zeros((ious.shape[1], len(THRESHOLDS)), np.int64)
    rows, columns = np.nonzero(ious >= THRESHOLDS[0])
    order = np.argsort(-scores[columns], kind="stable")
    rows, columns = rows[order], columns[order]
    _, first = np.unique(rows, return_index=True)
    rows, columns = rows[first], columns[first]  # an object two predictions halve goes to the higher score
    outcomes[columns] = ious[rows, columns][:, None] >= THRESHOLDS
    return outcomes
