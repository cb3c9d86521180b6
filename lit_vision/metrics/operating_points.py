"""Score thresholds of a detector at their best F1, from what became of its predictions."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lit_vision.types import BoolArray, FloatArray, Int64Array

Floats = npt.NDArray[np.float64]


class Scored(NamedTuple):
    """P predictions that count, of any order, and the objects there are.

    scores: (P,) in [0, 1]. labels: (P,) of K classes. hits: (P,) matched to an object. objects: (K,) number of each.
    """

    scores: FloatArray
    labels: Int64Array
    hits: BoolArray
    objects: Int64Array


class OperatingPoints(NamedTuple):
    """thresholds: (K,) float32, a detection's score is to be above. f1: (K,) there, NaN for a class without objects."""

    thresholds: FloatArray
    f1: Floats


class Curve(NamedTuple):
    """What detections of a class at least so sure are worth.

    scores: (N,) falling, each that occurs. recall, precision: (N,) float64. average_precision: COCO's, mean over 101
    recalls of the highest precision at that recall or a higher one.
    """

    scores: FloatArray
    recall: Floats
    precision: Floats
    average_precision: float

    @property
    def f1(self) -> Floats:
        """(N,), 0 where nothing is found."""
        both = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, both, out=np.zeros_like(both), where=both > 0)

    def f1_above(self, thresholds: Floats) -> Floats:
        """F1 of the detections whose score is above each threshold."""
        count = np.searchsorted(-self.scores, -thresholds.astype(np.float32))
        return np.asarray(np.append(0.0, self.f1)[count])

    def at_recalls(self) -> Floats:
        """(101,) the highest precision at recalls 0, 0.01, ..., 1 or above; 0 where none is reached."""
        highest = np.append(np.maximum.accumulate(self.precision[::-1])[::-1], 0.0)
        return np.asarray(highest[np.searchsorted(self.recall, np.linspace(0, 1, 101))])


def curves(scored: Scored) -> list[Curve | None]:
    """K curves; None for a class without objects."""
    groups = zip(_by_class(scored), scored.objects.tolist(), strict=True)
    return [_curve(scored.scores[own], scored.hits[own], objects) if objects else None for own, objects in groups]


def _curve(scores: FloatArray, hits: BoolArray, objects: int) -> Curve:
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)[: len(order)])
    found = np.cumsum(hits[order])[ends]
    curve = Curve(falling[ends], found / objects, found / (ends + 1.0), 0.0)
    return curve._replace(average_precision=float(curve.at_recalls().mean()))


def best_thresholds(scored: Scored) -> OperatingPoints:
    """For each class the threshold with the highest F1 = 2 hits / (predictions + objects).

    It lies half-way between the lowest score that is above it and the next one below (or 0), since nothing tells scores
    in between apart. Of equal F1 the highest threshold counts: fewer false detections. A class without objects gets the
    threshold that is best for all classes together; where there are no objects at all, 0.5.
    """
    overall, _ = _best(scored.scores, scored.hits, int(scored.objects.sum()))
    points = [
        _best(scored.scores[own], scored.hits[own], objects) if objects else (overall, np.nan)
        for own, objects in zip(_by_class(scored), scored.objects.tolist(), strict=True)
    ]
    thresholds, f1 = zip(*points, strict=True)
    return OperatingPoints(np.array(thresholds, np.float32), np.array(f1, np.float64))


def f1_at(scored: Scored, thresholds: FloatArray) -> OperatingPoints:
    """F1 of each class at given thresholds (K,)."""
    above = scored.scores > thresholds[scored.labels]
    size = len(scored.objects)
    predicted, hits = (np.bincount(scored.labels[rows], minlength=size) for rows in (above, above & scored.hits))
    with np.errstate(invalid="ignore"):
        f1 = np.where(scored.objects > 0, 2 * hits / (predicted + scored.objects), np.nan)
    return OperatingPoints(thresholds, f1)


def _by_class(scored: Scored) -> list[Int64Array]:
    order = np.argsort(scored.labels, kind="stable")
    edges = np.searchsorted(scored.labels[order], np.arange(len(scored.objects) + 1))
    return [order[edges[k] : edges[k + 1]] for k in range(len(scored.objects))]


def _best(scores: FloatArray, hits: BoolArray, objects: int) -> tuple[float, float]:
    possible = scores > 0  # a score of 0 is above no threshold
    scores, hits = scores[possible], hits[possible]
    if not len(scores) or not objects:
        return 0.5, 0.0
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    f1 = 2 * np.cumsum(hits[order]) / (np.arange(1, len(order) + 1) + objects)
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))  # equal scores stand or fall together
    place = ends[f1[ends].argmax()]
    lower = falling[place + 1] if place + 1 < len(falling) else np.float32(0)
    middle = np.float32((float(falling[place]) + float(lower)) / 2)
    return float(middle if middle < falling[place] else lower), float(f1[place])
