"""Borders, splitting and regrowing on maps small enough to count by hand, and against scikit-image."""

import cv2
import numpy as np
import pytest

from lit_vision.ops.instances import (
    connected_parts,
    grow,
    mean_scores,
    overlaps,
    relabel,
    split_instances,
    touching_border,
    vote_classes,
)


def ellipses(seed: int, size: int = 160, count: int = 30) -> np.ndarray:
    """Label map of ellipses that touch but leave each other whole: a new one only covers free pixels of its own."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    for _ in range(count * 4):
        drawn = np.zeros((size, size), np.uint8)
        centre, axes = rng.integers(12, size - 12, 2), rng.integers(7, 14, 2)
        cv2.ellipse(drawn, centre.tolist(), axes.tolist(), float(rng.integers(180)), 0, 360, 1, -1)
        new = (drawn > 0) & (labels == 0)
        if new.sum() > 0.8 * drawn.sum() and connected_parts(new).max() == 1 and labels.max() < count:
            labels[new] = labels.max() + 1
    return labels


def two_touching_squares() -> np.ndarray:
    labels = np.zeros((8, 12), np.int32)
    labels[1:7, 1:6], labels[1:7, 6:11] = 1, 2
    return labels


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_border_of_touching_squares_is_a_band_of_twice_the_radius(radius: int) -> None:
    border = touching_border(two_touching_squares(), radius)
    expected = np.zeros((8, 12), bool)
    expected[:, 6 - radius : 6 + radius] = True  # the rows of background above and below see both objects too
    assert np.array_equal(border, expected)


def test_border_fills_narrow_gaps_only() -> None:
    labels = np.zeros((5, 12), np.int32)
    labels[:, :3], labels[:, 4:7], labels[:, 11:] = 1, 2, 3  # gaps of one and of four pixels
    assert touching_border(labels, 2)[2].nonzero()[0].tolist() == [2, 3, 4]
    assert touching_border(labels, 1)[2].nonzero()[0].tolist() == [3]


def test_border_ignores_the_outer_contour_background_and_crowds() -> None:
    alone = np.zeros((9, 9), np.int32)
    alone[2:7, 2:7] = 7
    assert not touching_border(alone, 3).any()
    assert not touching_border(np.where(alone > 0, alone, -1).astype(np.int32), 3).any()
    assert not touching_border(np.zeros((4, 4), np.int32), 2).any()


def test_border_equals_a_direct_search() -> None:
    labels, radius = ellipses(1, size=64, count=8), 2
    padded = np.pad(labels, radius)
    expected = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(*labels.shape):
        seen = set(np.unique(padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1])) - {0}
        expected[y, x] = len(seen) > 1
    assert expected.any()
    assert np.array_equal(touching_border(labels, radius), expected)


def test_touching_discs_are_two_instances() -> None:
    truth = np.zeros((15, 30), np.int32)
    cv2.circle(truth, (8, 7), 6, 1, -1)
    cv2.circle(truth, (20, 7), 6, 2, -1)
    pixels, border = truth > 0, touching_border(truth, 1)
    assert split_instances(pixels, np.zeros_like(border), min_area=4).max() == 1  # without the border they are one
    instances = split_instances(pixels, border, min_area=4)
    assert instances.max() == 2
    assert (instances > 0).sum() == pixels.sum()  # regrown: no pixel of the objects is lost
    assert np.array_equal(instances == instances[7, 8], truth == 1)


def test_without_regrowing_exactly_the_border_is_lost() -> None:
    truth = two_touching_squares()
    border = touching_border(truth, 1)
    instances = split_instances(truth > 0, border, min_area=1, regrow=False)
    assert np.array_equal(instances > 0, (truth > 0) & ~border)


def test_small_parts_join_a_neighbour_or_vanish() -> None:
    pixels = np.zeros((10, 20), bool)
    pixels[1:9, 1:9], pixels[3, 9:12], pixels[5, 15] = True, True, True  # a square with a spur; a speck apart
    border = np.zeros_like(pixels)
    border[3, 10] = True  # cuts one pixel of the spur off
    instances = split_instances(pixels, border, min_area=5)
    assert instances.max() == 1
    assert (instances > 0).sum() == 64 + 3


def test_an_object_eaten_by_the_border_comes_back_as_its_own() -> None:
    pixels = np.zeros((8, 16), bool)
    pixels[2:6, 1:5], pixels[2:6, 10:14] = True, True
    border = np.zeros_like(pixels)
    border[:, 9:] = True
    instances = split_instances(pixels, border, min_area=4)
    assert instances[3, 2] == 1
    assert instances[3, 11] == 2
    assert (instances > 0).sum() == 32


def test_diagonal_neighbours_are_two_parts() -> None:
    assert connected_parts(np.eye(3, dtype=bool)).max() == 3


def test_growing_is_geodesic_not_straight() -> None:
    mask = np.zeros((5, 7), bool)
    mask[0], mask[4], mask[:, 6] = True, True, True  # a U lying on its side: row 4 joins row 0 only by the far column
    seeds = np.zeros((5, 7), np.int32)
    seeds[0, 0], seeds[4, 6] = 1, 2
    grown = grow(seeds, mask)
    assert grown[4, 0] == 2  # seed 1 is 4 pixels away across the gap, seed 2 is 6 steps away
    assert (grown[0, :5] == 1).all()
    assert np.array_equal(grown > 0, mask)


def test_growing_stays_in_the_mask_and_keeps_the_seeds() -> None:
    truth = ellipses(2)
    seeds = np.where(touching_border(truth, 3), 0, truth).astype(np.int32)
    grown = grow(seeds, truth > 0)
    assert (grown[truth == 0] == 0).all()
    assert (grown[seeds > 0] == seeds[seeds > 0]).all()


def test_growing_agrees_with_expanded_labels_of_scikit_image() -> None:
    segmentation = pytest.importorskip("skimage.segmentation", reason="scikit-image is the oracle")
    truth = ellipses(3)
    seeds = np.where(touching_border(truth, 2), 0, truth).astype(np.int32)
    straight = segmentation.expand_labels(seeds, 50) * (truth > 0)
    given = (truth > 0) & (seeds == 0)
    assert given.sum() > 300
    assert (grow(seeds, truth > 0) == straight)[given].mean() > 0.9  # steps against straight distances: ties differ


def test_parts_equal_those_of_scikit_image() -> None:
    measure = pytest.importorskip("skimage.measure", reason="scikit-image is the oracle")
    mask = np.random.default_rng(0).random((80, 90)) < 0.55
    ours, theirs = connected_parts(mask), measure.label(mask, connectivity=1)
    assert ours.max() == theirs.max()
    assert len(np.unique(np.stack([ours[mask], theirs[mask]]), axis=1).T) == ours.max()  # one to one


@pytest.mark.parametrize("radius", [2, 3])
def test_perfect_maps_give_the_objects_back(radius: int) -> None:
    shared = joined = 0.0
    for seed in range(4):
        truth = ellipses(seed)
        instances = split_instances(truth > 0, touching_border(truth, radius), min_area=20)
        table = overlaps(truth, instances)
        ious = table[1:, 1:] / (table.sum(1)[1:, None] + table.sum(0)[None, 1:] - table[1:, 1:])
        assert instances.max() == truth.max()
        shared, joined = shared + ious.max(1).sum(), joined + len(ious)
    assert shared / joined > 0.97  # the reference measured .997 and .987 on rounder ones


def test_votes_by_hand() -> None:
    instances = np.array([[1, 1, 1, 0], [2, 2, 2, 3]], np.int32)
    classes = np.array([[2, 2, 1, 3], [0, 0, 1, 0]])
    assert vote_classes(instances, classes, 3).tolist() == [1, 0, 0]  # background does not vote, nor do pixels outside
    assert vote_classes(np.zeros((2, 4), np.int32), classes, 3).tolist() == []


def test_scores_by_hand() -> None:
    instances = np.array([[1, 1, 0], [2, 2, 2]], np.int32)
    probability = np.array([[0.5, 1.0, 0.9], [0.6, 0.6, 0.9]], np.float32)
    np.testing.assert_allclose(mean_scores(instances, probability), [0.75, 0.7], atol=1e-7)


def test_relabel_closes_gaps_and_keeps_crowds() -> None:
    new, old = relabel(np.array([[5, 5, -1], [0, 2, 9]], np.int32))
    assert new.tolist() == [[2, 2, -1], [0, 1, 3]]
    assert old.tolist() == [2, 5, 9]


def test_overlaps_by_hand() -> None:
    truth = np.array([[1, 1, 0], [2, 2, 0]], np.int32)
    predicted = np.array([[1, 0, 0], [1, 1, 1]], np.int32)
    assert overlaps(truth, predicted).tolist() == [[1, 1], [1, 1], [0, 2]]


def test_more_labels_than_float32_can_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="16777216"):
        touching_border(np.full((2, 2), 2**24, np.int32))
