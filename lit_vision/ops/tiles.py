"""Large pictures in overlapping tiles."""

import numpy as np

from lit_vision.errors import UserError
from lit_vision.types import Int64Array


def tile_grid(size: tuple[int, int], tile: int, overlap: float = 0.25) -> Int64Array:
    """Tiles that cover a picture, row by row; neighbours share at least `overlap` of their side.

    Args:
        size: height and width of the picture, pixels.
        tile: side of a tile, pixels; where the picture is smaller, the tile is as large as the picture.
        overlap: smallest shared part of the side, 0 <= overlap < 1.

    Returns:
        (N, 4) int64 xyxy, all inside the picture; the distances between neighbours differ by one pixel at most.

    Raises:
        UserError: `tile` or `overlap` is out of range.
    """
    if tile < 1 or not 0 <= overlap < 1:
        raise UserError(f"tile is {tile} and tile_overlap {overlap}: give pixels from 1, and a share from 0 to below 1")
    rows, columns = (_starts(extent, tile, overlap) for extent in size)
    return np.array(
        [(x, y, min(x + tile, size[1]), min(y + tile, size[0])) for y in rows.tolist() for x in columns.tolist()],
        np.int64,
    )


def _starts(extent: int, tile: int, overlap: float) -> Int64Array:
    step = max(int(tile * (1 - overlap)), 1)
    count = 1 + max(-(-(extent - tile) // step), 0)
    return np.round(np.linspace(0, max(extent - tile, 0), count)).astype(np.int64)
