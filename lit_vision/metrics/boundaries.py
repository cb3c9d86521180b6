"""How well outlines agree: pixel counts per class, which add up over pictures and processes."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from lit_vision.types import IGNORE_INDEX, BoolArray, Int64Array, UInt8Array

COUNTS = ("both", "either", "hit_guess", "guess", "hit_truth", "truth")  # columns of `boundary_counts`
BAND = 0.02  # of the diagonal
TOLERANCE = 0.0075  # of the diagonal


def boundary_counts(
    predicted: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    classes: int,
    ignore_index: int = IGNORE_INDEX,
    band: float = BAND,
    tolerance: float = TOLERANCE,
) -> Int64Array:
    """What boundary IoU and boundary F1 are made of.

    Boundary IoU (Cheng et al. 2021, https://arxiv.org/abs/2103.16562): of each class the pixels within `band` of its
    outline, where the picture's edge is an outline, too; `either` counts those of truth or prediction, `both` those of
    both. Boundary F1 (Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?"): `guess` and
    `truth` count outline pixels, `hit_guess` and `hit_truth` those that have one of the other kind, of their class,
    within `tolerance`; the picture's edge is no outline. Both shares are of the diagonal. Pixels whose class is not
    known are not counted, whatever is predicted there, and no outline runs between them and the others: where a true
    border is painted over, nobody knows where it should be.

    Args:
        predicted: (H, W) classes, 0 to classes - 1.
        truth: (H, W) likewise, or ignore_index.
        classes: K, at most 255.
        ignore_index: in the truth: not known.
        band: width of the bands, at least one pixel.
        tolerance: largest distance of a hit, at least one pixel.

    Returns:
        (K, 6) int64, columns as COUNTS.
    """
    known = truth != ignore_index
    guess, true = (np.where(known, labels, IGNORE_INDEX).astype(np.uint8) for labels in (predicted, truth))
    diagonal = float(np.hypot(*truth.shape))
    width = max(round(band * diagonal), 1)
    in_guess, in_truth = (_near_another(labels, known, width, edge=True) for labels in (guess, true))
    both = _per_class(true, in_guess & in_truth & (guess == true), classes)
    either = _per_class(guess, in_guess, classes) + _per_class(true, in_truth, classes) - both
    outlines = [_near_another(labels, known, 1, edge=False) for labels in (guess, true)]
    hits = _hits((guess, true), outlines, classes, max(tolerance * diagonal, 1.0))
    counted = [_per_class(own, line, classes) for own, line in zip((guess, true), outlines, strict=True)]
    return np.stack([both, either, hits[0], counted[0], hits[1], counted[1]], axis=1)


def _near_another(labels: UInt8Array, known: BoolArray, width: int, edge: bool) -> BoolArray:
    """Known pixels that have another known label, or (`edge`) the outside, within `width` moves of a king."""
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    outside: dict[str, Any] = {"borderType": cv2.BORDER_CONSTANT, "borderValue": IGNORE_INDEX} if edge else {}
    # Unknown pixels, 255, are never the lowest label; as 0 they are never the highest.
    highest = cv2.dilate(np.where(known, labels, np.uint8(0)), window, **outside)
    different: BoolArray = (cv2.erode(labels, window) != highest) & known
    return different


def _per_class(labels: UInt8Array, chosen: BoolArray, classes: int) -> Int64Array:
    return np.bincount(labels[chosen], minlength=256)[:classes].astype(np.int64)


def _hits(
    labels: tuple[UInt8Array, UInt8Array], outlines: list[BoolArray], classes: int, tolerance: float
) -> Int64Array:
    """(2, K) outline pixels of each kind that have one of the other kind, and of their class, within the tolerance."""
    hits = np.zeros((2, classes), np.int64)
    places = [np.argwhere(line) for line in outlines]
    classes_of = [own[line] for own, line in zip(labels, outlines, strict=True)]
    for c in np.intersect1d(classes_of[0], classes_of[1]).tolist():
        points = [own[of == c] for own, of in zip(places, classes_of, strict=True)]
        for kind, (own, other) in enumerate((points, points[::-1])):
            # A tree of the few points on outlines is far cheaper than a distance transform of the picture per class.
            away, _ = KDTree(other).query(own, distance_upper_bound=tolerance + 1e-6)
            hits[kind, c] = np.count_nonzero(away <= tolerance)
    return hits
