"""Large pictures in overlapping tiles."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from lit_vision.errors import UserError
from lit_vision.types import FloatArray, Int64Array


def tile_grid(size: tuple[int, int], tile: int, overlap: float = 0.25, multiple: int = 1) -> Int64Array:
    """Tiles that cover a picture, row by row; neighbours share at least `overlap` of their side.

    Args:
        size: height and width of the picture, pixels.
        tile: side of a tile, pixels; where the picture is smaller, the tile is as large as the picture.
        overlap: smallest shared part of the side, 0 <= overlap < 1.
        multiple: tiles begin at multiples of this power of 2, or of a smaller one where they lie closer together or are
            smaller than two of it; those at the right and the lower edge may be shorter for it, by less than that.

    Returns:
        (N, 4) int64 xyxy, all inside the picture; the distances between neighbours differ by one multiple at most.

    Raises:
        UserError: `tile` or `overlap` is out of range.
    """
    check_tiles(tile, overlap)
    rows, columns = (_starts(extent, tile, overlap, multiple) for extent in size)
    return np.array(
        [(x, y, min(x + tile, size[1]), min(y + tile, size[0])) for y in rows.tolist() for x in columns.tolist()],
        np.int64,
    )


def check_tiles(tile: int | None, overlap: float) -> None:
    """Raises UserError for a side (None = no tiles) and an overlap that make no tiles."""
    if (tile is not None and tile < 1) or not 0 <= overlap < 1:
        side = "null" if tile is None else tile
        raise UserError(f"tile is {side} and tile_overlap {overlap}: give pixels from 1, and a share from 0 to below 1")


def refuse_cropped(tile: int, fit: str | None) -> None:
    """Raises UserError where pictures are prepared so that not all of a tile is seen."""
    if fit == "crop":
        raise UserError(
            f"model.tile is {tile}, but fit: crop would not see all of a tile: train with another fit, or leave "
            "model.tile out"
        )


def blend_window(extent: int, tile: int, overlap: float = 0.25, multiple: int = 1) -> FloatArray:
    """Weights along one axis of the tiles that `tile_grid` puts there; at each pixel they sum to 1.

    A tile's weight is 0 on the outer quarter of what it shares with a neighbour, where the network misses what lies
    beyond the edge, rises as half a cosine over the middle half, and stays high on the inner quarter, where the
    neighbour's is 0. At the picture's own edges it does not fall. The weight of a pixel is the product of both axes'.

    Args:
        extent: height or width of the picture, pixels.
        tile: side of a tile, pixels.
        overlap: smallest shared part of the side, 0 <= overlap < 1.
        multiple: as for `tile_grid`.

    Returns:
        (tiles, side) float32 in [0, 1]; side is that of the tiles, the picture's own where that is smaller. Of a last
        tile that is shorter, the weights beyond its end mean nothing.
    """
    starts, side = _starts(extent, tile, overlap, multiple), min(tile, extent)
    centres = np.arange(side) + 0.5  # from the tile's first edge
    weights = np.ones((len(starts), side))
    for i, shared in enumerate((side - np.diff(starts)).tolist()):  # between tiles i and i + 1
        if shared > 0:
            rise = np.clip((centres / shared - 0.25) / 0.5, 0, 1)
            weights[i + 1] *= 0.5 - 0.5 * np.cos(np.pi * rise)
            weights[i] *= (0.5 - 0.5 * np.cos(np.pi * rise))[::-1]
    total = np.zeros(int(starts[-1]) + side)
    for start, own in zip(starts.tolist(), weights, strict=True):
        total[start : start + side] += own
    shares = [own / total[start : start + side] for start, own in zip(starts.tolist(), weights, strict=True)]
    return np.stack(shares).astype(np.float32)


def blended_rows(
    size: tuple[int, int],
    tile: int,
    overlap: float,
    maps_of: Callable[[Int64Array], Iterable[Tensor]],
    multiple: int = 1,
) -> Iterator[tuple[int, Tensor]]:
    """Maps of a large picture from those of its tiles, blended with `blend_window`; never all rows at a time.

    Args:
        size: height and width of the picture, pixels.
        tile: side of a tile, pixels.
        overlap: smallest shared part of the side, 0 <= overlap < 1.
        maps_of: takes a row of tiles, (N, 4) xyxy, and gives the maps (K, h, w) float32 of each in turn, on the CPU.
        multiple: as for `tile_grid`.

    Yields:
        First row, and maps (K, rows, W) of the rows that no later tile touches. They are good until the next ones
        are asked for. The memory held is that of one row of tiles.
    """
    down, across = (blend_window(extent, tile, overlap, multiple) for extent in size)
    grid = tile_grid(size, tile, overlap, multiple).reshape(len(down), len(across), 4)
    tops = [*grid[:, 0, 1].tolist(), size[0]]
    rows: Tensor | None = None
    for i, boxes in enumerate(grid):
        for (x1, _, x2, _), column, maps in zip(boxes.tolist(), across, maps_of(boxes), strict=True):
            if rows is None:
                rows = maps.new_zeros(maps.shape[0], down.shape[1], size[1])
            height, width = maps.shape[1:]
            rows[:, :height, x1:x2] += maps * torch.from_numpy(np.outer(down[i, :height], column[:width]))
        assert rows is not None  # a grid has a tile in each row
        done = tops[i + 1] - tops[i]
        yield tops[i], rows[:, :done]
        kept = rows.shape[1] - done
        rows[:, :kept] = rows[:, done:].clone()
        rows[:, kept:] = 0


def _starts(extent: int, tile: int, overlap: float, multiple: int = 1) -> Int64Array:
    step, beyond = max(int(tile * (1 - overlap)), 1), max(extent - tile, 0)
    while multiple > max(min(step, tile // 2), 1):  # also, the last tile is to be no strip
        multiple //= 2
    last, most = -(-beyond // multiple), step // multiple  # in multiples: where the last tile begins, and the distance
    count = 1 + -(-last // most)
    return np.round(np.linspace(0, last, count)).astype(np.int64) * multiple
