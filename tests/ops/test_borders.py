"""The target of the second network, counted by hand and against a direct search."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from lit_vision.ops.borders import gap_weights, object_radii, touching_border
from lit_vision.ops.instances import areas_of

sys.path.append(str(Path(__file__).parent))
from test_instances import ellipses, two_touching_squares


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


@pytest.mark.parametrize("radius", [2, 3, np.int64(4)])
def test_a_gap_takes_from_the_line_what_it_is_wide(radius: int) -> None:
    for gap in range(2 * radius + 2):
        labels = np.zeros((3, 60), np.int32)
        labels[:, :20], labels[:, 20 + gap :] = 1, 2
        assert touching_border(labels, radius)[1].sum() == max(2 * radius - gap, 0)


@pytest.mark.parametrize("radius", [0, -1, 256, 2.0, "auto", np.array([2, 300]), np.array([[2, 2]]), np.array([2])])
def test_radii_that_are_none_are_refused(radius: Any) -> None:
    with pytest.raises(ValueError, match=r"give (whole pixels from 1 to 255|one of each)"):
        touching_border(two_touching_squares(), radius)


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


def test_more_labels_than_float32_can_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="16777216"):
        touching_border(np.full((2, 2), 2**24, np.int32))


def test_the_radius_grows_with_the_object() -> None:
    areas = np.array([4, 36, 60, 300, 700, 2000, 10_000])
    assert object_radii(areas).tolist() == [1, 1, 1, 2, 3, 4, 4]
    assert object_radii(np.zeros(0, np.int64)).tolist() == []


def test_each_side_of_a_line_is_as_wide_as_its_own_object_asks() -> None:
    labels = np.zeros((30, 40), np.int32)
    labels[:, :20], labels[:, 20:] = 1, 2
    border = touching_border(labels, np.array([2, 3]))
    assert np.flatnonzero(border[5]).tolist() == [18, 19, 20, 21, 22]


def test_a_gap_is_filled_as_far_as_the_larger_object_asks() -> None:
    labels = np.zeros((9, 24), np.int32)
    labels[:, :8], labels[:, 11:15], labels[:, 20:] = 1, 2, 3
    assert not touching_border(labels, np.array([1, 1, 1]))[4].any()
    border = touching_border(labels, np.array([3, 1, 1]))[4]
    assert np.flatnonzero(border).tolist() == [
        8,
        9,
        10,
    ]  # pixel 7 sees object 2 four pixels away, 5 pixels are too many


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_equal_radii_give_what_one_number_gives(radius: int) -> None:
    labels = ellipses(4)
    same = touching_border(labels, np.full(labels.max(), radius))
    assert same.any()
    assert np.array_equal(same, touching_border(labels, radius))


def test_scaled_border_equals_a_direct_search() -> None:
    labels = ellipses(1, size=64, count=8)
    radii = np.array([1 + k % 4 for k in range(labels.max())])
    padded = np.pad(labels, 4)

    def seen(y: int, x: int, radius: int) -> set[int]:
        window = padded[y + 4 - radius : y + 5 + radius, x + 4 - radius : x + 5 + radius]
        return set(np.unique(window).tolist()) - {0}

    expected = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(*labels.shape):
        own = int(labels[y, x])
        near = radii[own - 1] if own else max((radii[k - 1] for k in seen(y, x, 4)), default=0)
        expected[y, x] = len(seen(y, x, int(near))) > 1
    assert np.array_equal(touching_border(labels, radii), expected)


def test_weights_equal_unets_formula() -> None:
    labels = ellipses(2, size=96, count=9)
    y, x = np.indices(labels.shape)
    distances = []
    for k in range(1, labels.max() + 1):
        rows, columns = np.nonzero(labels == k)
        squared = (y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2
        distances.append(np.sqrt(squared.min(-1)))
    first, second = np.sort(np.stack(distances), 0)[:2]
    expected = 1 + 10 * np.exp(-((first + second) ** 2) / (2 * 3.0**2))
    found = gap_weights(labels, 10, sigma=3.0)
    assert found.dtype == np.float32
    assert found.max() > 5
    np.testing.assert_allclose(found, expected, atol=10 * np.exp(-0.5 * 3.5**2) + 1e-4)


def test_objects_of_one_pixel_have_their_gap() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[4, 3], labels[4, 5] = 1, 2
    found = gap_weights(labels, weight=10, sigma=2)
    assert found[4, 4] == pytest.approx(1 + 10 * np.exp(-(2**2) / 8))  # one pixel from either
    assert found[4, 3] == pytest.approx(1 + 10 * np.exp(-(2**2) / 8))
    assert found[6, 4] == pytest.approx(1 + 10 * np.exp(-((2 * 5**0.5) ** 2) / 8))


def test_weights_without_a_second_object_are_one() -> None:
    alone = np.zeros((20, 20), np.int32)
    alone[5:9, 5:9] = 1
    assert (gap_weights(alone) == 1).all()
    assert (gap_weights(np.zeros((4, 4), np.int32)) == 1).all()
    apart = alone.copy()
    apart[5:9, 18:] = 3  # number 2 has no pixel
    assert areas_of(apart, 3).tolist() == [16, 0, 8]
    assert gap_weights(apart, sigma=5)[7, 12] > 1.5


def test_weights_are_the_same_to_the_bit_wherever_they_lie_in_memory() -> None:
    labels = ellipses(2, size=96, count=9)
    distances = [ndimage.distance_transform_edt(labels != k).astype(np.float32) for k in range(1, labels.max() + 1)]
    first, second = np.sort(np.stack(distances), 0)[:2]
    near = (first + second) / np.float32(5)
    expected = np.float32(1) + 10 * np.where(near <= 3.5, np.exp(-0.5 * near * near), 0)
    kept = []
    for k in range(20):
        kept.append(np.empty(1 + 7919 * k % 5000, np.uint8))  # what follows lies elsewhere
        assert np.array_equal(gap_weights(labels, 10, sigma=5.0), expected)
