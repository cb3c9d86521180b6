"""Which class detections take for which, what they miss, and what they see where nothing is."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lit_vision.ops.matching import box_ious
from lit_vision.types import BoolArray, FloatArray, Int64Array

LEAST = 0.5  # IoU from which a detection is of an object, and share of it from which it lies in a crowd


class Boxes(NamedTuple):
    """N boxes of many images. images: (N,) whose they are. boxes: (N, 4) xyxy. labels: (N,) of K classes."""

    images: Int64Array
    boxes: FloatArray
    labels: Int64Array


def box_confusion(predicted: Boxes, surest: Int64Array, truth: Boxes, crowd: BoolArray, num_classes: int) -> Int64Array:
    """Counts (K + 1, K + 1): rows are the truth, columns the predictions, the last of each is background.

    Detections of the right class take their objects first, the surest before the others, as in COCO's matching; then
    what is left of both is paired whatever the classes. An object without a detection is in the last column, a
    detection without an object in the last row. A detection in a crowd of its class counts neither way.

    Args:
        predicted: detections above their thresholds.
        surest: positions of the detections, the highest score first.
        truth: the objects.
        crowd: (T,) which of them are crowds.
        num_classes: K.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    rows = _by_image(predicted.images[surest], surest)
    columns = _by_image(truth.images, np.arange(len(truth.images)))
    for image in rows.keys() | columns.keys():
        own, there = (found.get(image, np.zeros(0, np.int64)) for found in (rows, columns))
        there, aside = there[~crowd[there]], there[crowd[there]]
        labels, objects = predicted.labels[own], truth.labels[there]
        ious = box_ious(predicted.boxes[own], truth.boxes[there])
        partners = _partners(ious, labels[:, None] == objects)
        unseen = np.setdiff1d(np.arange(len(there)), partners)
        alone = (partners < 0) & ~_inside(predicted, own, truth, aside)
        np.add.at(counts, (objects[partners[partners >= 0]], labels[partners >= 0]), 1)
        np.add.at(counts, (np.full(alone.sum(), num_classes), labels[alone]), 1)
        np.add.at(counts, (objects[unseen], np.full(len(unseen), num_classes)), 1)
    return counts


def _by_image(images: Int64Array, places: Int64Array) -> dict[int, Int64Array]:
    order = np.argsort(images, kind="stable")
    numbers, first = np.unique(images[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(places[order], first[1:]), strict=False))  # one part even of nothing


def _partners(ious: npt.NDArray[np.float64], same: BoolArray) -> Int64Array:
    """(P,) position of each detection's object, -1 for none."""
    partners, free = np.full(len(ious), -1), np.ones(ious.shape[1], bool)
    for allowed in (same, ~same):
        for p in np.flatnonzero((partners < 0) & (ious.max(1, initial=0) >= LEAST)).tolist():
            left = np.where(free & allowed[p], ious[p], 0)
            best = int(left.argmax())
            if left[best] >= LEAST:
                partners[p], free[best] = best, False
    return partners


def _inside(predicted: Boxes, own: Int64Array, truth: Boxes, crowds: Int64Array) -> BoolArray:
    if not len(crowds):
        return np.zeros(len(own), bool)
    shares = box_ious(predicted.boxes[own], truth.boxes[crowds], np.ones(len(crowds), bool))
    same = predicted.labels[own][:, None] == truth.labels[crowds]
    inside: BoolArray = ((shares >= LEAST) & same).any(1)
    return inside
