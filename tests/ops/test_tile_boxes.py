"""Boxes of overlapping tiles, joined to one per object: pictures of 250 x 100 in three tiles unless said otherwise."""

import pytest
import torch

from lit_vision.ops.tile_boxes import cut_boxes, merge_tiles
from lit_vision.ops.tiles import tile_grid

SIZE = (100, 250)
TILES = torch.from_numpy(tile_grid(SIZE, 100, 0.25))  # x from 0 to 100, 75 to 175, 150 to 250
Row = tuple[int, list[float], float, int]  # tile, box in the picture, score, label


def merged(
    rows: list[Row], tiles: torch.Tensor = TILES, size: tuple[int, int] = SIZE
) -> list[tuple[list[float], float]]:
    found = {
        "boxes": torch.tensor([row[1] for row in rows]).view(-1, 4),
        "labels": torch.tensor([row[3] for row in rows], dtype=torch.int64),
        "scores": torch.tensor([row[2] for row in rows]),
    }
    tile_of = torch.tensor([row[0] for row in rows], dtype=torch.int64)
    result = merge_tiles(found, tile_of, tiles, size, 0.45)  # type: ignore[arg-type]
    assert result["labels"].dtype == torch.int64
    return [
        (box, round(score, 4)) for box, score in zip(result["boxes"].tolist(), result["scores"].tolist(), strict=True)
    ]


def test_cut_are_boxes_at_a_border_that_is_none_of_the_picture() -> None:
    boxes = torch.tensor(
        [[0.0, 0.0, 20.0, 100.0], [60.0, 10.0, 99.0, 30.0], [60.0, 10.0, 97.0, 30.0], [76.0, 9.0, 90.0, 30.0]]
    )
    tiles = TILES[[0, 0, 0, 1]]
    assert cut_boxes(boxes, tiles, SIZE).tolist() == [False, True, False, True]


def test_an_object_that_a_neighbour_sees_whole_comes_out_once_and_whole() -> None:
    """It lies from 80 to 120: the first tile sees half of it, and is surer of that."""
    whole = [80.0, 20.0, 120.0, 60.0]
    assert merged([(0, [80.0, 20.0, 100.0, 60.0], 0.95, 0), (1, whole, 0.6, 0)]) == [(whole, 0.6)]


def test_a_sliver_goes_with_the_whole() -> None:
    whole = [96.0, 20.0, 140.0, 60.0]
    assert merged([(0, [96.0, 30.0, 100.0, 55.0], 0.7, 0), (1, whole, 0.6, 0)]) == [(whole, 0.6)]


def test_parts_that_no_tile_sees_whole_are_joined() -> None:
    """From 40 to 220, over all three tiles; the first and the last have nothing in common."""
    parts: list[Row] = [
        (0, [40.0, 20.0, 100.0, 60.0], 0.5, 0),
        (1, [75.0, 21.0, 175.0, 61.0], 0.8, 0),
        (2, [150.0, 19.0, 220.0, 60.0], 0.7, 0),
    ]
    assert merged(parts) == [([40.0, 19.0, 220.0, 61.0], 0.8)]


def test_neighbouring_objects_stay_two() -> None:
    """Each is whole in a tile; one ends where the other begins, and each tile sees a part of the other's."""
    left, right = [50.0, 20.0, 85.0, 60.0], [85.0, 20.0, 130.0, 60.0]
    rows: list[Row] = [(0, left, 0.9, 0), (0, [85.0, 20.0, 100.0, 60.0], 0.8, 0)]
    rows += [(1, right, 0.9, 0), (1, [75.0, 20.0, 85.0, 60.0], 0.8, 0)]
    assert sorted(merged(rows)) == [(left, 0.9), (right, 0.9)]


def test_parts_of_two_objects_one_above_the_other_are_not_joined() -> None:
    rows: list[Row] = [(0, [40.0, 10.0, 100.0, 40.0], 0.9, 0), (0, [40.0, 60.0, 100.0, 90.0], 0.8, 0)]
    rows += [(1, [75.0, 10.0, 175.0, 40.0], 0.7, 0), (1, [75.0, 60.0, 175.0, 90.0], 0.6, 0)]
    assert merged(rows) == [([40.0, 10.0, 175.0, 40.0], 0.9), ([40.0, 60.0, 175.0, 90.0], 0.8)]


def test_parts_of_different_classes_are_not_joined() -> None:
    left, right = [40.0, 20.0, 100.0, 60.0], [75.0, 20.0, 175.0, 60.0]
    assert merged([(0, left, 0.9, 1), (1, right, 0.8, 0)]) == [(left, 0.9), (right, 0.8)]
    assert merged([(0, left, 0.9, 1), (1, right, 0.8, 1)]) == [([40.0, 20.0, 175.0, 60.0], 0.9)]


def test_what_a_tile_makes_of_a_part_does_not_count_where_another_sees_more() -> None:
    """Of another class, or nothing at all where the other tile has looked and found nothing."""
    whole, part = [80.0, 20.0, 120.0, 60.0], [80.0, 20.0, 100.0, 60.0]
    assert merged([(0, part, 0.95, 1), (1, whole, 0.6, 0)]) == [(whole, 0.6)]
    assert merged([(0, part, 0.95, 1)]) == []
    assert merged([(0, [74.0, 20.0, 100.0, 60.0], 0.95, 1)]) != []  # the other tile would cut it, too


def test_what_two_tiles_see_whole_comes_once_the_best_of_it() -> None:
    one, other = [80.0, 20.0, 95.0, 40.0], [81.0, 20.0, 96.0, 41.0]
    assert merged([(0, one, 0.6, 0), (1, other, 0.7, 0)]) == [(other, 0.7)]


@pytest.mark.parametrize(("left", "joined"), [(74.0, True), (60.0, False)])
def test_a_part_most_of_which_lies_in_a_larger_part_is_of_the_same_object(left: float, joined: bool) -> None:
    """96 % and 62 % of it do; what both tiles see of the two is 1000 of 2500 pixels."""
    part, large = [left, 20.0, 100.0, 60.0], [75.0, 0.0, 170.0, 100.0]
    found = merged([(0, part, 0.9, 0), (1, large, 0.6, 0)])
    assert found == ([([74.0, 0.0, 170.0, 100.0], 0.9)] if joined else [(part, 0.9), (large, 0.6)])


def test_an_object_at_the_corner_of_four_tiles() -> None:
    tiles, size = torch.from_numpy(tile_grid((150, 150), 100, 0.5)), (150, 150)
    whole = [60.0, 60.0, 90.0, 90.0]  # all four tiles see it whole; the second time only the last one does
    assert merged([(t, whole, 0.5 + t / 10, 0) for t in range(4)], tiles, size) == [(whole, 0.8)]
    low = [70.0, 70.0, 130.0, 130.0]
    cut = [[70.0, 70.0, 100.0, 100.0], [70.0, 70.0, 130.0, 100.0], [70.0, 70.0, 100.0, 130.0], low]
    assert merged([(t, box, 0.9 - t / 10, 0) for t, box in enumerate(cut)], tiles, size) == [(low, 0.6)]


def test_a_large_box_does_not_swallow_a_small_object_inside_it_that_is_whole() -> None:
    """Only what is cut can be a part."""
    large, small = [80.0, 0.0, 170.0, 100.0], [80.0, 10.0, 92.0, 22.0]
    assert sorted(merged([(1, large, 0.9, 0), (0, small, 0.8, 0)])) == sorted([(large, 0.9), (small, 0.8)])


def test_nothing_found() -> None:
    assert merged([]) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_perfect_detector_finds_every_object_once_and_whole(seed: int) -> None:
    """Objects of up to a tile's overlap that do not overlap, seen by each tile as far as it reaches."""
    size, side = (900, 1100), 256
    tiles = torch.from_numpy(tile_grid(size, side, 0.25))
    generator = torch.Generator().manual_seed(seed)
    truth: list[list[float]] = []
    for x in range(0, 1100 - 70, 70):
        for y in range(0, 900 - 70, 70):
            w, h = (torch.rand(2, generator=generator) * 40 + 20).tolist()
            dx, dy = (torch.rand(2, generator=generator) * 8).tolist()
            truth.append([x + dx, y + dy, x + dx + w, y + dy + h])
    rows: list[Row] = []
    for t, (x1, y1, x2, y2) in enumerate(tiles.tolist()):
        for box in truth:
            seen = [max(box[0], x1), max(box[1], y1), min(box[2], x2), min(box[3], y2)]
            if seen[2] - seen[0] > 4 and seen[3] - seen[1] > 4:
                rows.append((t, seen, 0.5 + float(torch.rand(1, generator=generator)) / 2, 0))
    assert len(rows) > 1.2 * len(truth)  # many are seen more than once
    found = torch.tensor(sorted(box for box, _ in merged(rows, tiles, size)))
    torch.testing.assert_close(found, torch.tensor(sorted(truth)))
