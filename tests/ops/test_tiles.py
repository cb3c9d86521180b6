"""Tiles of large pictures."""

import numpy as np
import pytest

from lit_vision.errors import UserError
from lit_vision.ops.tiles import tile_grid


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


def test_a_picture_smaller_than_a_tile_is_one_tile() -> None:
    assert tile_grid((40, 60), 512).tolist() == [[0, 0, 60, 40]]


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0.25), (512, 1.0), (512, -0.1)])
def test_tiles_that_make_no_sense_are_refused(tile: int, overlap: float) -> None:
    with pytest.raises(UserError, match="tile"):
        tile_grid((100, 100), tile, overlap)
