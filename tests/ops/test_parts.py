"""Connected parts, by hand and against scikit-image and numpy."""

import numpy as np
import pytest

from lit_vision.ops.parts import connected_parts, places_of


def test_diagonal_neighbours_are_two_parts() -> None:
    assert connected_parts(np.eye(3, dtype=bool)).max() == 3


def test_parts_equal_those_of_scikit_image() -> None:
    measure = pytest.importorskip("skimage.measure", reason="scikit-image is the oracle")
    mask = np.random.default_rng(0).random((80, 90)) < 0.55
    ours, theirs = connected_parts(mask), measure.label(mask, connectivity=1)
    assert ours.max() == theirs.max()
    assert len(np.unique(np.stack([ours[mask], theirs[mask]]), axis=1).T) == ours.max()  # one to one


def test_a_dropped_part_leaves_no_gap_in_the_numbers() -> None:
    mask = np.zeros((3, 15), bool)
    mask[:, 0:3] = mask[1, 4] = mask[:, 6:9] = mask[0, 10] = mask[:, 12:15] = True
    parts = connected_parts(mask, 4)
    assert sorted(np.unique(parts)) == [0, 1, 2, 3]
    assert (parts[1, 4], parts[0, 10]) == (0, 0)
    assert [len(np.unique(parts[:, at : at + 3])) for at in (0, 6, 12)] == [1, 1, 1]


@pytest.mark.parametrize("min_area", [1, 3])
def test_the_end_of_a_row_is_no_neighbour_of_the_next_ones_beginning(min_area: int) -> None:
    mask = np.zeros((3, 8), bool)
    mask[0, 5:], mask[1, :3] = True, True
    parts = connected_parts(mask, min_area)
    assert parts.tolist() == [[0] * 5 + [1] * 3, [2] * 3 + [0] * 5, [0] * 8]
    assert not connected_parts(mask, 4).any()  # together they would have six pixels


@pytest.mark.parametrize("share", [0, 1e-3, 0.1, 0.9, 1])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 5003])
def test_places_are_those_of_numpy(size: int, share: float) -> None:
    mask = np.random.default_rng(size).random(size) < share
    assert np.array_equal(places_of(mask), np.flatnonzero(mask))


@pytest.mark.parametrize("count", [65_534, 65_535, 65_536, 72_000])
def test_more_parts_than_sixteen_bits_number(count: int) -> None:
    mask = np.zeros((600, 480), bool)
    mask[::2, ::2] = np.arange(72_000).reshape(300, 240) < count
    assert np.array_equal(np.unique(connected_parts(mask, 1)), np.arange(count + 1))
