"""Average precision of weighted pictures: COCO's of objects, and the exact area of labels, many multisets at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_vision.metrics.instances import RECALLS
from lit_vision.metrics.per_image import Arrays, pictures
from lit_vision.ops.matching import IGNORED, MATCHED
from lit_vision.types import Int64Array

Floats = npt.NDArray[np.float64]
CELLS = 2_000_000  # numbers in a temporary array: a block of multisets is as many rows as fit


@dataclass(frozen=True)
class Ranking:
    """Answers in falling order of their scores, of which some are right.

    The best precision at a recall or beyond is always that of a right answer, so that only these are looked at: the
    answers of any kind before them are counted by cumulated weights.

    Args:
        picture: (D,) of each answer, up to the last right one.
        ends: (M,) number of answers up to each right one, or up to the end of the answers with the same score.
        right: (M,) positions of the right ones among the answers.
        skipped: (S,) positions of answers that count neither way.
        wanted: (N,) number of right answers that could be given in each picture.
    """

    picture: Int64Array
    ends: Int64Array
    right: Int64Array
    skipped: Int64Array
    wanted: Floats

    @classmethod
    def of_outcomes(cls, picture: Any, outcomes: Any, wanted: Any) -> "Ranking":
        """Of objects: outcomes (D,) MISSED, MATCHED or IGNORED in falling order of the scores."""
        right = np.flatnonzero(outcomes == MATCHED)
        last = right[-1] + 1 if len(right) else 0
        skipped = np.flatnonzero(outcomes[:last] == IGNORED)
        return cls(picture[:last], right + 1, right, skipped, np.asarray(wanted, np.float64))

    @classmethod
    def of_column(cls, scores: Any, targets: Any) -> "Ranking":
        """Of one class of labels: scores (N,) and truth (N,) bool of the pictures; equal scores are one step."""
        order = np.argsort(-scores, kind="stable")
        right = np.flatnonzero(targets[order])
        ends = np.searchsorted(-scores[order], -scores[order][right], side="right")
        last = ends[-1] if len(ends) else 0
        return cls(order[:last], ends, right, np.zeros(0, np.int64), np.asarray(targets, np.float64))

    def average_precision(self, weights: Floats) -> Floats:
        """(R,) exact area under the steps of the precision; NaN where there is nothing to find."""
        rows = max(1, CELLS // max(1, len(self.picture)))
        return np.concatenate([self._area(weights[start : start + rows]) for start in range(0, len(weights), rows)])

    def _area(self, weights: Floats) -> Floats:
        wanted = weights @ self.wanted
        if not len(self.right):
            return np.full(len(weights), np.nan)
        gained = weights[:, self.picture[self.right]]
        found = np.cumsum(gained, 1)[:, np.searchsorted(self.right, self.ends) - 1]
        given = _cumulated(weights, self.picture)[:, self.ends - 1]
        area = (gained * found / np.maximum(given, 1)).sum(1)
        return np.where(wanted > 0, area / np.maximum(wanted, 1), np.nan)

    def interpolated(self, weights: Floats, answers: Floats) -> Floats:
        """(R,) COCO's mean over 101 recalls of the best precision there or beyond; NaN where there is no object.

        Args:
            weights: (R, N).
            answers: (R, D or more) cumulated weights of the answers.
        """
        wanted = weights @ self.wanted
        if not len(self.right):
            return np.where(wanted > 0, 0.0, np.nan)
        found = np.cumsum(weights[:, self.picture[self.right]], 1)
        given = answers[:, self.right]
        if len(self.skipped):
            left_out = np.pad(_cumulated(weights, self.picture[self.skipped]), ((0, 0), (1, 0)))
            given = given - left_out[:, np.searchsorted(self.skipped, self.right)]
        precision = found / np.maximum(given, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        reached = np.searchsorted(RECALLS, found / np.maximum(wanted, 1)[:, None], side="right")
        points = np.diff(reached, axis=1, prepend=0)  # recalls of which this answer is the first that reaches them
        return np.where(wanted > 0, (precision * points).sum(1) / len(RECALLS), np.nan)


@dataclass(frozen=True)
class Rankings:
    """Predicted objects of several classes, each class at several IoUs.

    Args:
        pictures: (D,) of the predictions, for each class.
        levels: a ranking for each class and IoU.
    """

    pictures: Sequence[Int64Array]
    levels: Sequence[Sequence[Ranking]]

    @classmethod
    def of_objects(cls, arrays: Arrays, classes: Iterable[int], levels: Sequence[int]) -> "Rankings":
        """From what the metrics of detection and instances keep of each picture.

        Args:
            arrays: with prediction/picture, /label, /score, /outcome and object/picture, /label.
            classes: those to rank.
            levels: positions of the IoUs.
        """
        found, rankings, count = [], [], pictures(arrays)
        order = np.argsort(-arrays["prediction/score"], kind="stable")
        label, there = arrays["prediction/label"][order], arrays["object/label"]
        for k in classes:
            own = order[label == k]
            wanted = np.bincount(arrays["object/picture"][there == k], minlength=count)
            picture, outcomes = arrays["prediction/picture"][own], arrays["prediction/outcome"][own]
            made = [Ranking.of_outcomes(picture, outcomes[:, level], wanted) for level in levels]
            found.append(max((one.picture for one in made), key=len))
            rankings.append(made)
        return cls(found, rankings)

    def average_precision(self, weights: Floats) -> Floats:
        """(K * levels, R), NaN where a class has no object in a multiset."""
        rows = max(1, CELLS // max(1, *(len(own) for own in self.pictures)))
        blocks = [self._block(weights[start : start + rows]) for start in range(0, len(weights), rows)]
        return np.concatenate(blocks, 1)

    def _block(self, weights: Floats) -> Floats:
        values = []
        for picture, levels in zip(self.pictures, self.levels, strict=True):
            answers = _cumulated(weights, picture)  # the same ones at every IoU
            values += [one.interpolated(weights, answers) for one in levels]
        return np.stack(values)


def _cumulated(weights: Floats, picture: Int64Array) -> Floats:
    return np.cumsum(weights[:, picture], 1)
