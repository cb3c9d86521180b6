"""Predicted objects against true ones in one image, as COCO and the panoptic quality count them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


def match_boxes(
    predicted: npt.NDArray[np.floating], truth: npt.NDArray[np.floating], crowd: BoolArray
) -> npt.NDArray[np.int8]:
    """Match the boxes of one image and class as COCO does, without a limit on sizes.

    Args:
        predicted: (P, 4) xyxy, the highest score first.
        truth: (T, 4) xyxy.
        crowd: (T,); what is matched to a crowd counts neither way.

    Returns:
        (P, 10) MISSED, MATCHED or IGNORED at each of THRESHOLDS.
    """
    outcomes = np.zeros((len(predicted), len(THRESHOLDS)), np.int8)
    ious = _box_ious(predicted.astype(np.float64), truth.astype(np.float64), crowd)
    single, needed = ious[:, ~crowd], np.minimum(THRESHOLDS, 1 - 1e-10)
    free = np.ones((len(THRESHOLDS), single.shape[1]), bool)
    levels = np.arange(len(THRESHOLDS))
    for p in np.flatnonzero(single.max(1, initial=0) >= needed[0]).tolist():
        left = np.where(free, single[p], -1)
        best = left.shape[1] - 1 - left[:, ::-1].argmax(1)  # the last of equal ones, as in COCO
        found = left[levels, best] >= needed
        free[levels[found], best[found]] = False
        outcomes[p, found] = MATCHED
    in_crowd = ious[:, crowd].max(1, initial=0)[:, None] >= needed
    outcomes[(outcomes == MISSED) & in_crowd] = IGNORED
    return outcomes


def _box_ious(
    predicted: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], crowd: BoolArray
) -> npt.NDArray[np.float64]:
    """(P, T); of a crowd, the share of the predicted box that lies in it."""
    corners = np.minimum(predicted[:, None, 2:], truth[None, :, 2:]) - np.maximum(
        predicted[:, None, :2], truth[None, :, :2]
    )
    shared = np.clip(corners, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (predicted, truth)]
    unions = areas[0][:, None] + np.where(crowd, 0, areas[1] - shared)
    return np.asarray(shared / np.maximum(unions, np.finfo(float).tiny), np.float64)
