"""Tiles of large pictures."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_vision.errors import UserError
from lit_vision.ops.tiles import blend_window, blended_rows, tile_grid


def test_tiles_cover_the_picture_and_overlap_as_asked() -> None:
    tiles = tile_grid((100, 250), 100, 0.25)
    assert tiles.tolist() == [[0, 0, 100, 100], [75, 0, 175, 100], [150, 0, 250, 100]]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (99, 101), (100, 100), (257, 1031)])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.9])
def test_every_pixel_is_covered_by_tiles_inside(height: int, width: int, overlap: float) -> None:
    tiles = tile_grid((height, width), 100, overlap)
    covered = np.zeros((height, width), int)
    for x1, y1, x2, y2 in tiles:
        assert (x2 - x1, y2 - y1) == (min(width, 100), min(height, 100))
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1
    steps = np.diff(np.unique(tiles[:, 0]))
    assert len(steps) == 0 or (steps.max() <= 100 * (1 - overlap) + 1 and steps.max() - steps.min() <= 1)


@pytest.mark.parametrize(
    ("extent", "tile", "overlap", "multiple", "starts", "last"),
    [
        (170, 64, 0.25, 32, [0, 32, 64, 96, 128], 42),
        (1000, 256, 0.25, 32, [0, 192, 384, 576, 768], 232),
        (1024, 256, 0.25, 32, [0, 192, 384, 576, 768], 256),
        (33, 32, 0.0, 32, [0, 16], 17),  # of 32, the last one would be one pixel wide
        (60, 48, 0.9, 32, [0, 4, 8, 12], 48),  # neighbours are at most four pixels apart
        (20, 64, 0.25, 32, [0], 20),
        (3, 1, 0.0, 32, [0, 1, 2], 1),
    ],
)
def test_tiles_begin_at_multiples(
    extent: int, tile: int, overlap: float, multiple: int, starts: list[int], last: int
) -> None:
    tiles = tile_grid((1, extent), tile, overlap, multiple)
    assert tiles[:, 0].tolist() == starts
    assert tiles[-1, 2] - tiles[-1, 0] == last
    assert tiles[-1, 2] == extent


def test_a_picture_smaller_than_a_tile_is_one_tile() -> None:
    assert tile_grid((40, 60), 512).tolist() == [[0, 0, 60, 40]]


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0.25), (512, 1.0), (512, -0.1)])
def test_tiles_that_make_no_sense_are_refused(tile: int, overlap: float) -> None:
    with pytest.raises(UserError, match="tile"):
        tile_grid((100, 100), tile, overlap)


def test_a_window_by_hand() -> None:
    first, last = blend_window(12, 8, 0.5)  # tiles at 0 and 4 share four pixels
    ramp = [0, 0.5 - 0.5 * np.cos(np.pi * 0.25), 0.5 - 0.5 * np.cos(np.pi * 0.75), 1]
    assert last == pytest.approx([*ramp, 1, 1, 1, 1], abs=1e-6)
    assert first == pytest.approx([1, 1, 1, 1, *ramp[::-1]], abs=1e-6)
    assert blend_window(5, 8).tolist() == [[1, 1, 1, 1, 1]]


@pytest.mark.parametrize("overlap", [0.0, 0.01, 0.1, 0.25, 0.5, 0.7, 0.95])
@pytest.mark.parametrize(("extent", "tile"), [(1, 1), (7, 3), (100, 33), (257, 64), (64, 64), (65, 64), (1000, 128)])
def test_windows_sum_to_one_and_vanish_at_inner_edges(extent: int, tile: int, overlap: float) -> None:
    windows, starts = blend_window(extent, tile, overlap), np.unique(tile_grid((1, extent), tile, overlap)[:, 0])
    total = np.zeros(extent)
    for start, window in zip(starts, windows, strict=True):
        total[start : start + len(window)] += window
    assert total == pytest.approx(np.ones(extent), abs=1e-6)
    for left, right, shared in zip(windows[:-1], windows[1:], tile - np.diff(starts), strict=True):
        outer = shared // 4
        assert (right[:outer] == 0).all()
        assert (left[len(left) - outer :] == 0).all()


def rows_of(
    picture: Tensor, tile: int, overlap: float, change: object = None, multiple: int = 1
) -> tuple[Tensor, list[int]]:
    """The picture (K, H, W) cut into tiles, changed, and blended again; and how many rows came at a time."""

    def cut(boxes: np.ndarray) -> Iterator[Tensor]:
        for x1, y1, x2, y2 in boxes.tolist():
            part = picture[:, y1:y2, x1:x2]
            yield part if change is None else change(part)

    whole, counts = torch.full_like(picture, torch.nan), []
    for top, rows in blended_rows(tuple(picture.shape[1:]), tile, overlap, cut, multiple):
        whole[:, top : top + rows.shape[1]] = rows
        counts.append(rows.shape[1])
    return whole, counts


@pytest.mark.parametrize("multiple", [1, 8, 32])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 0.0), (16, 0.25), (24, 0.6), (64, 0.25)])
def test_tiles_of_a_picture_make_the_picture(tile: int, overlap: float, multiple: int) -> None:
    picture = torch.rand(3, 50, 41, generator=torch.Generator().manual_seed(0))
    whole, counts = rows_of(picture, tile, overlap, multiple=multiple)
    assert torch.allclose(whole, picture, atol=1e-6)
    assert sum(counts) == 50
    assert max(counts) <= tile


def test_what_is_wrong_at_the_edges_of_tiles_is_not_seen() -> None:
    picture = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))

    def spoilt(part: Tensor) -> Tensor:
        part = part.clone()
        part[:, :2], part[:, -2:], part[:, :, :2], part[:, :, -2:] = 9, 9, 9, 9
        return part

    whole, _ = rows_of(picture, 24, 0.5, spoilt)  # 14 pixels shared, of which the outer 3 do not count
    inside = whole[:, 2:-2, 2:-2]
    assert torch.allclose(inside, picture[:, 2:-2, 2:-2], atol=1e-6)
    seam, _ = rows_of(picture, 24, 0.0, spoilt)  # control: 4 pixels shared are not enough
    assert not torch.allclose(seam[:, 2:-2, 2:-2], picture[:, 2:-2, 2:-2], atol=1e-2)
