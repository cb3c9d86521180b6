"""The box round an outline, and a mask's outline as polygons."""

import cv2
import numpy as np

from lit_vision.data.index import POLYGONS
from lit_vision.data.rle import decode_rle
from lit_vision.types import BoolArray, FloatArray

Box = tuple[float, float, float, float]


def outline_box(kind: int, segment: bytes, size: tuple[int, int]) -> Box:
    """Box x1, y1, x2, y2 round polygons (their extent) or run lengths (their pixels); zeros round nothing."""
    if kind == POLYGONS:
        return points_box(np.frombuffer(segment, np.float32).reshape(-1, 2))
    return mask_box(decode_rle(segment, size))


def points_box(points: FloatArray) -> Box:
    """Extent of (n, 2) points; rows of NaN do not count."""
    (x1, y1), (x2, y2) = np.nanmin(points, 0).tolist(), np.nanmax(points, 0).tolist()
    return x1, y1, x2, y2


def mask_box(mask: BoolArray) -> Box:
    """Half-open box round the pixels of an (H, W) mask; zeros if there are none."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if len(columns) == 0:
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def mask_polygons(mask: BoolArray) -> tuple[list[FloatArray], bool]:
    """Outlines (n, 2) of the parts of a mask, largest first, along the outer edges of its pixels; whether it has holes.

    OpenCV's contours run through pixel centres, which makes an object a pixel too small. So every pixel becomes a
    3 x 3 block at twice the scale, sharing its rim with its neighbours: centres of the rim are then corners of pixels.
    Holes are not part of an outline, nor is what lies inside them.
    """
    x1, y1, x2, y2 = (int(edge) for edge in mask_box(mask))
    height, width = y2 - y1, x2 - x1
    grid = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    grid[1::2, 1::2] = mask[y1:y2, x1:x2]
    grid = cv2.dilate(grid, np.ones((3, 3), np.uint8)).astype(np.uint8)
    contours, tree = cv2.findContours(grid, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    outermost = [] if tree is None else [contours[k] for k in np.flatnonzero(tree[0, :, 3] < 0).tolist()]
    corner = np.array([x1, y1], np.float32)
    rings: list[FloatArray] = [contour[:, 0].astype(np.float32) / np.float32(2) + corner for contour in outermost]
    return sorted(rings, key=lambda ring: -float(cv2.contourArea(ring))), len(contours) > len(outermost)
