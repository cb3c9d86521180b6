"""From probabilities to objects, by hand."""

import numpy as np
import pytest

from lit_vision.ops.separation import Maps, Separation, as_maps, mean_scores, vote_classes


def test_votes_by_hand() -> None:
    instances = np.array([[1, 1, 1, 0], [2, 2, 2, 3]], np.int32)
    classes = np.array([[2, 2, 1, 3], [0, 0, 1, 0]])
    assert vote_classes(instances, classes, 3).tolist() == [1, 0, 0]  # background does not vote, nor do pixels outside
    assert vote_classes(np.zeros((2, 4), np.int32), classes, 3).tolist() == []


def test_scores_by_hand() -> None:
    instances = np.array([[1, 1, 0], [2, 2, 2]], np.int32)
    levels = np.array([[51, 255, 9], [102, 102, 0]], np.uint8)
    np.testing.assert_allclose(mean_scores(instances, levels), [0.6, 0.8 / 3], atol=1e-7)
    assert mean_scores(instances * 0, levels).shape == (0,)


def test_values_that_are_no_class_have_no_vote() -> None:
    instances = np.array([[1, 1, 1, 1, 2]], np.int32)
    assert vote_classes(instances, np.array([[255, 255, 9, 2, 255]], np.uint8), 3).tolist() == [1, 0]


def test_separation_by_hand() -> None:
    background = np.array([[0.9, 0.2, 0.2, 0.2, 0.2, 0.9]], np.float32)
    red = np.array([[0.1, 0.7, 0.7, 0.1, 0.1, 0.1]], np.float32)
    border = np.array([[0.0, 0.0, 0.4, 0.0, 0.0, 0.0]], np.float32)
    maps = np.stack([background, red, 1 - background - red])
    instances, labels, scores = Separation(0.5, 0.3, min_area=1)(maps, border)
    assert instances.tolist() in ([[0, 1, 1, 2, 2, 0]], [[0, 1, 2, 2, 2, 0]])  # the cut pixel is as near to both
    assert labels.tolist() == [0, 1]
    np.testing.assert_allclose(scores, [0.8, 0.8], atol=1e-6)
    merged, labels, _ = Separation(0.5, 0.5, min_area=1)(maps, border)
    assert merged.tolist() == [[0, 1, 1, 1, 1, 0]]
    assert labels.tolist() == [0]  # two votes each: the lower class


def test_probabilities_are_to_be_above_their_thresholds() -> None:
    levels = np.full((1, 3), 51, np.uint8)  # 0.2
    maps = Maps(np.full((1, 3), 255, np.uint8), levels, np.ones((1, 3), np.uint8))
    assert Separation(0.5, 0.2, min_area=1, regrow="none").instances(maps).all()
    assert not Separation(0.5, 0.19, min_area=1, regrow="none").instances(maps).any()
    assert not Separation(0.2, 0.9, min_area=1).instances(Maps(levels, levels * 0, maps.classes)).any()


def test_many_classes_do_not_wrap_round() -> None:
    probabilities = np.zeros((301, 1, 2), np.float32)
    probabilities[300], probabilities[0, 0, 1], probabilities[300, 0, 1] = 1, 1, 0
    maps = as_maps(probabilities, np.zeros((1, 2), np.float32))
    assert maps.classes[0, 0] == 300
    assert Separation(min_area=1).objects(maps, 300)[1].tolist() == [299]


@pytest.mark.parametrize(("threshold", "there"), [(0.2, True), (0.9, False)])
def test_thresholds_are_shares_of_the_levels(threshold: float, there: bool) -> None:
    levels = np.full((3, 3), 204, np.uint8)  # 0.8
    maps = Maps(levels, levels * 0, np.ones((3, 3), np.uint8))
    assert Separation(threshold, min_area=1).instances(maps).any() == there
