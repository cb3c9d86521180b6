"""Predicted objects against true ones, by hand: at the very thresholds, which random pictures never meet."""

import numpy as np
import pytest

from lit_vision.ops.matching import IGNORED, MATCHED, MISSED, box_ious, match, match_boxes, overlap

ONE = np.zeros(1, np.int64)


def row(*runs: tuple[int, int]) -> np.ndarray:
    """A label map of one row: so many pixels of each number."""
    return np.concatenate([np.full(length, number, np.int32) for number, length in runs])[None]


def test_half_of_an_object_is_not_most_of_it() -> None:
    truth = row((1, 4), (2, 4), (0, 4))
    half = overlap(truth, 2, row((0, 2), (1, 4), (0, 6)), 1)
    assert half.merges() == []
    most = overlap(truth, 2, row((0, 1), (1, 6), (0, 5)), 1)
    assert [(prediction, objects.tolist()) for prediction, objects in most.merges()] == [(0, [0, 1])]
    cut = overlap(row((1, 8), (0, 4)), 1, row((1, 4), (2, 8)), 2)
    assert cut.splits() == []  # half of the second prediction lies outside
    cut = overlap(row((1, 8), (0, 3)), 1, row((1, 4), (2, 7)), 2)
    assert [(one, predictions.tolist()) for one, predictions in cut.splits()] == [(0, [0, 1])]


@pytest.mark.parametrize(("void", "counts_not"), [(4, False), (5, True)])
def test_a_prediction_counts_neither_way_where_most_of_it_is_void(void: int, counts_not: bool) -> None:
    found = match(row((0, 8 - void), (-1, void)), ONE[:0], row((1, 8)), ONE, np.ones(1, np.float32))
    assert found.void.tolist() == [counts_not]
    assert (found.outcomes[0] == IGNORED).sum() == (1 if void == 4 else 3)  # of IoU .5, or of .5, .55 and .6


def test_an_iou_of_exactly_one_half_is_a_match_for_coco_and_none_for_the_panoptic_quality() -> None:
    found = match(row((1, 4), (0, 2)), ONE, row((1, 2), (0, 4)), ONE, np.ones(1, np.float32))
    assert found.outcomes[0].tolist() == [MATCHED] + [MISSED] * 9
    assert found.shared.tolist() == [0]


def boxes(*widths: float) -> np.ndarray:
    """Boxes of one pixel's height that begin at 0: the IoU of two is the shorter by the longer."""
    return np.array([[0.0, 0.0, width, 1.0] for width in widths], np.float32)


def test_ious_of_boxes_at_the_thresholds_match() -> None:
    outcomes = match_boxes(boxes(10), boxes(20), np.zeros(1, bool))
    assert outcomes.tolist() == [[MATCHED] + [MISSED] * 9]
    outcomes = match_boxes(boxes(15), boxes(20), np.zeros(1, bool))
    assert outcomes.tolist() == [[MATCHED] * 6 + [MISSED] * 4]


def test_of_objects_that_fit_equally_well_the_last_is_taken() -> None:
    truth = np.array([[0, 0, 8, 1], [4, 0, 12, 1]], np.float32)  # a prediction from 2 to 10 has 6 of 10 with either
    predicted = np.array([[2, 0, 10, 1], [0, 0, 8, 1]], np.float32)
    found = match_boxes(predicted, truth, np.zeros(2, bool))
    assert found[0].tolist() == [MATCHED] * 3 + [MISSED] * 7
    assert found[1].tolist() == [MATCHED] * 10, "the first object is left for the second prediction"


def test_a_crowd_takes_any_number_of_predictions_an_object_of_other_size_one() -> None:
    predicted, truth = boxes(10, 10), boxes(10)
    assert (match_boxes(predicted, truth, np.ones(1, bool)) == IGNORED).all()
    apart = match_boxes(predicted, truth, np.zeros(1, bool), np.ones(1, bool))
    assert apart.tolist() == [[IGNORED] * 10, [MISSED] * 10]


def test_of_a_crowd_the_share_of_the_prediction_counts() -> None:
    found = box_ious(boxes(10), np.concatenate([boxes(40), boxes(40)]), np.array([True, False]))
    assert found.tolist() == [[1.0, 0.25]]
    assert box_ious(boxes(0), boxes(0)).tolist() == [[0.0]]  # no NaN where there is no area
