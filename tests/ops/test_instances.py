"""Borders, splitting and regrowing on maps small enough to count by hand, and against scikit-image."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from lit_vision.errors import UserError
from lit_vision.ops import instances as ops
from lit_vision.ops.borders import touching_border
from lit_vision.ops.instances import (
    areas_of,
    fill_holes,
    flood,
    grow,
    relabel,
    shared_pixels,
    split_instances,
)
from lit_vision.ops.parts import connected_parts

CROSS = ((-1, 0), (1, 0), (0, -1), (0, 1))


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
    instances = split_instances(truth > 0, border, min_area=1, regrow="none")
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


@pytest.mark.parametrize("radius", [2, 3])
def test_perfect_maps_give_the_objects_back(radius: int) -> None:
    shared = joined = 0.0
    for seed in range(4):
        truth = ellipses(seed)
        instances = split_instances(truth > 0, touching_border(truth, radius), min_area=20)
        table = np.zeros((truth.max() + 1, instances.max() + 1), int)
        np.add.at(table, (truth, instances), 1)
        ious = table[1:, 1:] / (table.sum(1)[1:, None] + table.sum(0)[None, 1:] - table[1:, 1:])
        assert instances.max() == truth.max()
        shared, joined = shared + ious.max(1).sum(), joined + len(ious)
    assert shared / joined > 0.97  # the reference measured .997 and .987 on rounder ones


def test_relabel_closes_gaps_and_keeps_crowds() -> None:
    new, old = relabel(np.array([[5, 5, -1], [0, 2, 9]], np.int32))
    assert new.tolist() == [[2, 2, -1], [0, 1, 3]]
    assert old.tolist() == [2, 5, 9]


def test_shared_pixels_by_hand() -> None:
    truth = np.array([[1, 1, 0], [2, 2, 0]], np.int32)
    predicted = np.array([[1, 0, 0], [1, 1, 1]], np.int32)
    rows, columns, pixels = shared_pixels(truth, predicted)
    assert list(zip(rows, columns, pixels, strict=True)) == [(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1), (2, 1, 2)]


@pytest.mark.parametrize("dense", [2**20, 0])
def test_shared_pixels_equal_a_full_table(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "DENSE", dense)
    rng = np.random.default_rng(0)
    truth, predicted = (np.repeat(rng.integers(0, 40, (50, 20)), 3, 1).astype(np.int32) for _ in range(2))
    table = np.zeros((40, 40), int)
    np.add.at(table, (truth, predicted), 1)
    rows, columns, pixels = shared_pixels(truth, predicted)
    assert np.array_equal(np.stack([rows, columns]), table.nonzero())
    assert np.array_equal(pixels, table[table > 0])


def test_areas_by_hand() -> None:
    assert areas_of(np.array([[1, 1, -1], [0, 3, 3]], np.int32), 4).tolist() == [2, 0, 2, 0]


def test_a_hole_of_one_object_is_filled_and_a_gap_between_several_is_not() -> None:
    rings = np.zeros((9, 20), np.int32)
    rings[1:8, 1:8] = 1
    rings[3:6, 3:6] = 0  # inside object 1
    rings[1:8, 10:14], rings[1:8, 14:19] = 2, 3
    rings[4, 13:15] = 0  # between objects 2 and 3
    rings[0:2, 16] = 0  # open to the outside
    filled = fill_holes(rings)
    expected = rings.copy()
    expected[3:6, 3:6] = 1
    assert np.array_equal(filled, expected)


def test_a_hole_at_the_edge_or_with_another_object_inside_stays() -> None:
    cut = np.ones((5, 5), np.int32)
    cut[2, 0] = 0  # touches the edge: it may go on outside
    assert np.array_equal(fill_holes(cut), cut)
    nested = np.ones((9, 9), np.int32)
    nested[2:7, 2:7], nested[4, 4] = 0, 2
    assert np.array_equal(fill_holes(nested), nested)


@pytest.mark.parametrize("share", [-1.0, 0.02])
def test_holes_equal_those_found_one_by_one(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "SPARSE", share)  # both ways of finding the parts
    truth = ellipses(5)
    holed = np.where(np.random.default_rng(1).random(truth.shape) < 0.02, 0, truth).astype(np.int32)
    parts, count = ndimage.label(holed == 0, np.ones((3, 3)))
    expected = holed.copy()
    for k in range(1, count + 1):
        y, x = np.nonzero(parts == k)
        if min(*y, *x) > 0 and max(y) < 159 and max(x) < 159:
            owners = {int(holed[y[i] + dy, x[i] + dx]) for i in range(len(y)) for dy, dx in CROSS} - {0}
            expected[y, x] = owners.pop() if len(owners) == 1 else 0
    assert (expected != holed).sum() > 50
    assert np.array_equal(fill_holes(holed), expected)


@pytest.mark.parametrize("share", [-1.0, 0.02])
def test_what_no_seed_reaches_becomes_objects_whichever_way_it_is_found(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "SPARSE", share)
    pixels = np.zeros((20, 40), bool)
    pixels[2:8, 2:8], pixels[2:5, 12:16], pixels[9, 30:39] = True, True, True
    pixels[9:11, 38], pixels[15, 0], pixels[16, 39] = True, True, True  # specks at both ends of neighbouring rows
    border = np.zeros_like(pixels)
    border[:, 10:] = True
    instances = split_instances(pixels, border, min_area=5)
    assert instances.max() == 3
    assert sorted(areas_of(instances, 3)) == [10, 12, 36]


def test_flooding_follows_the_ridge_and_keeps_to_the_mask() -> None:
    foreground = np.full((5, 12), 200, np.uint8)
    foreground[:, 7] = 90  # the valley lies nearer to the right seed
    seeds = np.zeros((5, 12), np.int32)
    seeds[2, 1], seeds[2, 9] = 1, 2
    mask = np.ones((5, 12), bool)
    mask[0] = False
    flooded = flood(seeds, mask, foreground)
    assert (flooded[0] == 0).all()
    assert (flooded[1:, :7] == 1).all()
    assert (flooded[1:, 8:] == 2).all()
    assert (grow(seeds, mask)[2, 6]) == 2  # the nearest seed is another one


def test_flooding_agrees_with_scikit_image() -> None:
    segmentation = pytest.importorskip("skimage.segmentation", reason="scikit-image is the oracle")
    truth = ellipses(3)
    seeds = np.where(touching_border(truth, 3), 0, truth).astype(np.int32)
    smooth = cv2.GaussianBlur(np.random.default_rng(0).random(truth.shape).astype(np.float32), (0, 0), 3)
    levels = (cv2.normalize(smooth, None, 0, 31, cv2.NORM_MINMAX) * 8).astype(np.uint8)
    theirs = segmentation.watershed(255 - levels, seeds, mask=truth > 0, connectivity=1)
    given = (truth > 0) & (seeds == 0)
    ours = flood(seeds, truth > 0, levels)
    assert np.array_equal(ours > 0, theirs > 0)
    agree = (ours == theirs)[given].mean()
    assert agree > 0.9  # ties within a level differ
    assert (grow(seeds, truth > 0) == theirs)[given].mean() < agree - 0.05  # negative control


def test_an_unknown_way_to_grow_is_named() -> None:
    with pytest.raises(UserError, match=r"model.regrow is 'dilate': give one of nearest, watershed, none"):
        split_instances(np.ones((2, 2)), np.zeros((2, 2)), regrow="dilate")  # type: ignore[arg-type]


def test_an_object_that_the_border_covers_comes_back_from_the_smallest_area_on() -> None:
    pixels = np.zeros((5, 9), bool)
    pixels[1:4, 1:4] = True  # 9 pixels
    assert (split_instances(pixels, pixels, min_area=9) > 0).sum() == 9
    assert not split_instances(pixels, pixels, min_area=10).any()


@pytest.mark.parametrize("regrow", ["nearest", "watershed", "none"])
def test_extremes(regrow: str) -> None:
    nothing, everything = np.zeros((7, 9), bool), np.ones((7, 9), bool)
    levels = np.full((7, 9), 200, np.uint8)
    assert not split_instances(nothing, nothing, regrow=regrow, foreground=levels).any()
    assert not split_instances(nothing, everything, regrow=regrow, foreground=levels).any()
    assert (split_instances(everything, nothing, regrow=regrow, foreground=levels) == 1).all()
    assert split_instances(np.ones((1, 1)), np.zeros((1, 1)), 1, regrow, foreground=levels[:1, :1]).tolist() == [[1]]


def test_seventy_thousand_objects() -> None:
    pixels = np.zeros((600, 1060), bool)
    pixels[::2, ::2] = True  # 300 x 530 objects of one pixel
    instances = split_instances(pixels, np.zeros_like(pixels), min_area=1)
    assert instances.max() == 159_000
    assert len(shared_pixels(instances, instances)[0]) == 159_001


def test_numbers_grow_out_of_sixteen_bits_where_eaten_objects_are_added() -> None:
    pixels, border = np.zeros((600, 480), bool), np.zeros((600, 480), bool)
    pixels[::2, ::2] = True  # 300 x 240 objects of one pixel
    border[500:] = True  # covers 50 x 240 of them
    instances = split_instances(pixels, border, min_area=1)
    assert np.array_equal(np.unique(instances), np.arange(72_001))
    assert np.array_equal(instances > 0, pixels)
    assert (instances[500:][pixels[500:]] > 60_000).all()


def grown_pixel_by_pixel(labels: np.ndarray, mask: np.ndarray) -> None:
    """One step of all objects at a time; a pixel that several reach goes to the one below, right, left, above."""
    height, width = labels.shape
    while True:
        found = {}
        for y, x in np.argwhere(mask & (labels == 0)).tolist():
            for dy, dx in ((1, 0), (0, 1), (0, -1), (-1, 0)):
                if 0 <= y + dy < height and 0 <= x + dx < width and labels[y + dy, x + dx]:
                    found[y, x] = labels[y + dy, x + dx]
                    break
        if not found:
            return
        for place, number in found.items():
            labels[place] = number


def split_plainly(pixels: np.ndarray, border: np.ndarray, min_area: int) -> np.ndarray:
    parts, count = ndimage.label(pixels & ~border)
    kept = [k for k in range(1, count + 1) if (parts == k).sum() >= min_area]
    free = [k for k in range(1, len(kept) + 1) if k not in kept]  # the last ones take the places of dropped ones
    numbers = {k: k for k in kept if k <= len(kept)} | dict(zip((k for k in kept if k > len(kept)), free, strict=True))
    labels = np.zeros(pixels.shape, np.int32)
    for old, new in numbers.items():
        labels[parts == old] = new
    grown_pixel_by_pixel(labels, pixels)
    eaten, count = ndimage.label(pixels & (labels == 0))
    for k in range(1, count + 1):
        if (eaten == k).sum() >= min_area:
            labels[eaten == k] = labels.max() + 1
    return labels


@pytest.mark.parametrize("min_area", [1, 2, 9])
def test_splitting_equals_the_plain_way_number_by_number(min_area: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "SPARSE", 2.0)  # eaten objects are then numbered in the order of their first pixels
    rng = np.random.default_rng(min_area)
    for _ in range(6):
        height, width = rng.integers(1, 40, 2).tolist()
        pixels = cv2.GaussianBlur(rng.random((height, width)), (0, 0), 1.2) > rng.uniform(0.42, 0.52)
        border = rng.random((height, width)) < rng.uniform(0.05, 0.5)
        ours = split_instances(pixels, border, min_area, fill=False)
        assert np.array_equal(ours, split_plainly(pixels, border, min_area))
