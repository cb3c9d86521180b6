"""Thresholds of the best F1, computed by hand."""

import numpy as np
import pytest

from lit_vision.metrics.operating_points import Scored, best_thresholds, curves, f1_at


def scored(rows: list[tuple[float, int, bool]], objects: list[int]) -> Scored:
    scores, labels, hits = zip(*rows, strict=True) if rows else ((), (), ())
    return Scored(
        np.array(scores, np.float32), np.array(labels, np.int64), np.array(hits, bool), np.array(objects, np.int64)
    )


ROWS = [(0.9, 0, True), (0.8, 0, False), (0.6, 0, True), (0.5, 0, False), (0.2, 0, False)]


def test_by_hand() -> None:
    """F1 above 0.9, 0.8, 0.6, ...: 2/4, 2/5, 4/6, 4/7, 4/8 of three objects: 0.6 is the last to be let in."""
    points = best_thresholds(scored(ROWS, [3]))
    assert points.f1.tolist() == pytest.approx([4 / 6])
    assert points.thresholds.tolist() == pytest.approx([0.55])  # half-way to the next one


def test_equal_scores_stand_or_fall_together() -> None:
    rows = [(0.9, 0, True), (0.5, 0, True), (0.5, 0, False), (0.5, 0, False), (0.5, 0, False), (0.5, 0, False)]
    for order in (rows, rows[::-1]):
        points = best_thresholds(scored(order, [2]))  # the first two alone would be perfect
        assert points.f1.tolist() == pytest.approx([2 / 3])
        assert points.thresholds.tolist() == pytest.approx([0.7])


def test_scores_that_no_number_lies_between() -> None:
    low = np.float32(0.5)
    rows = [(float(np.nextafter(low, np.float32(1))), 0, True), (float(low), 0, False), (float(low), 0, False)]
    points = best_thresholds(scored(rows, [1]))
    assert points.f1.tolist() == [1.0]
    assert f1_at(scored(rows, [1]), points.thresholds).f1.tolist() == [1.0]


def test_a_class_without_objects_gets_the_threshold_of_all_together() -> None:
    rows = [*ROWS, (0.95, 1, False), (0.4, 2, True)]
    points = best_thresholds(scored(rows, [3, 0, 1]))
    assert points.thresholds[0] == pytest.approx(0.55)
    assert points.thresholds[2] == pytest.approx(0.2)  # below its only one, half-way to 0
    # Of the 4 objects, above 0.95, 0.9, 0.8, 0.6, 0.5, 0.4, 0.2: 0, 2/6, 2/7, 4/8, 4/9, 6/10, 6/11.
    assert points.thresholds[1] == pytest.approx(0.3)
    assert np.isnan(points.f1[1])


def test_nothing_found_or_nothing_there() -> None:
    nothing = best_thresholds(scored([], [2, 0]))
    assert nothing.thresholds.tolist() == [0.5, 0.5]
    assert nothing.f1[0] == 0.0
    assert np.isnan(nothing.f1[1])
    assert best_thresholds(scored([(0.7, 0, False)], [0, 0])).thresholds.tolist() == [0.5, 0.5]


def test_a_score_of_nothing_is_above_no_threshold() -> None:
    points = best_thresholds(scored([(0.5, 0, True), (0.0, 0, True)], [2]))
    assert points.f1.tolist() == pytest.approx([2 / 3])
    assert points.thresholds.tolist() == [0.25]


def test_given_thresholds_are_strict() -> None:
    rows = [(0.5, 0, True), (0.75, 0, True), (0.25, 1, True), (0.5, 1, False)]
    points = f1_at(scored(rows, [2, 1]), np.array([0.5, 0.0], np.float32))
    assert points.f1.tolist() == pytest.approx([2 / 3, 2 / 3])


# --- curves -------------------------------------------------------------------------------------------------------
def test_a_curve_by_hand() -> None:
    curve, absent = curves(scored([*ROWS, (0.5, 0, True)], [4, 0]))
    assert absent is None
    assert curve is not None
    assert curve.scores.tolist() == pytest.approx([0.9, 0.8, 0.6, 0.5, 0.2])  # equal scores are one point
    assert curve.recall.tolist() == [0.25, 0.25, 0.5, 0.75, 0.75]
    assert curve.precision.tolist() == [1, 1 / 2, 2 / 3, 3 / 5, 3 / 6]
    assert curve.f1.tolist() == pytest.approx([2 / 5, 2 / 6, 4 / 7, 6 / 9, 6 / 10])
    above = curve.f1_above(np.array([0.95, 0.9, 0.85, 0.6, 0.55, 0.1, 0.0]))  # strictly
    assert above.tolist() == pytest.approx([0, 0, 2 / 5, 2 / 6, 4 / 7, 6 / 10, 6 / 10])
    high = curve.at_recalls()
    assert [high[k] for k in (0, 25, 26, 50, 51, 75, 76)] == [1, 1, 2 / 3, 2 / 3, 0.6, 0.6, 0]
    assert curve.average_precision == pytest.approx((26 + 25 * 2 / 3 + 25 * 0.6) / 101)


def test_the_highest_precision_at_a_recall_or_above_counts() -> None:
    (curve,) = curves(scored([(0.9, 0, False), (0.8, 0, True), (0.7, 0, True)], [2]))
    assert curve is not None
    assert curve.precision.tolist() == [0, 1 / 2, 2 / 3]
    assert curve.at_recalls().tolist() == [2 / 3] * 101  # from 0 on
    assert curve.average_precision == pytest.approx(2 / 3)


def test_a_class_without_detections() -> None:
    (curve,) = curves(scored([], [2]))
    assert curve is not None
    assert (len(curve.scores), curve.average_precision, len(curve.f1)) == (0, 0.0, 0)
