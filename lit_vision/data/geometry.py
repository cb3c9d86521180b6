"""Affine frames: 3 x 3 matrices on edge coordinates, where pixel (0, 0) covers 0..1 and its centre lies at 0.5."""

import math
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lit_vision.types import BoolArray, FloatArray

Fit: TypeAlias = Literal["letterbox", "stretch", "crop", "native"]
Matrix: TypeAlias = npt.NDArray[np.float64]  # (3, 3)
Size: TypeAlias = tuple[int, int]  # height, width


def translation(x: float, y: float) -> Matrix:
    """Moves by x to the right and y down."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def shifted(frame: Matrix, x: float, y: float) -> Matrix:
    """The frame, then a translation: the product of both, without the time it takes."""
    moved: Matrix = frame.copy()
    moved[0, 2] += x
    moved[1, 2] += y
    return moved


def magnified(frame: Matrix, factor: float) -> Matrix:
    """The frame of a picture whose pixels are `factor` times as large."""
    return frame if factor == 1 else frame @ scaling(factor, factor)


def scaling(x: float, y: float) -> Matrix:
    """Scales about (0, 0)."""
    return np.array([[x, 0, 0], [0, y, 0], [0, 0, 1]], np.float64)


def rotation(degrees: float) -> Matrix:
    """Turns clockwise, as seen on the screen, about (0, 0)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float64)


def shearing(x: float, y: float) -> Matrix:
    """Slants about (0, 0) by angles in degrees: x moves rows sideways, y moves columns up and down."""
    return np.array([[1, math.tan(math.radians(x)), 0], [math.tan(math.radians(y)), 1, 0], [0, 0, 1]], np.float64)


def turning(quarters: int, size: Size) -> tuple[Matrix, Size]:
    """Turns a picture clockwise by quarters, exactly; also gives its size afterwards."""
    frame = np.eye(3)
    for _ in range(quarters % 4):
        frame = np.array([[0, -1, size[0]], [1, 0, 0], [0, 0, 1]], np.float64) @ frame
        size = (size[1], size[0])
    return frame, size


def mirroring(horizontal: bool, vertical: bool, size: Size) -> Matrix:
    """Mirrors a picture left to right, top to bottom, or both, exactly."""
    height, width = size
    x, y = (-1 if horizontal else 1), (-1 if vertical else 1)
    return np.array([[x, 0, width * horizontal], [0, y, height * vertical], [0, 0, 1]], np.float64)


def fit_frame(fit: Fit, size: Size, image_size: Size) -> Matrix:
    """Frame that brings a picture of `size` to the network's `image_size`.

    letterbox: scaled to fit, padding shared by both sides (the odd pixel right and below). stretch: squashed.
    crop: the shorter side fits, the centre is kept. native: as it is. Scaled sides are rounded to whole pixels.
    """
    if fit == "native":
        return np.eye(3)
    if fit == "stretch":
        return scaling(image_size[1] / size[1], image_size[0] / size[0])
    height, width = fitted_size(fit, size, image_size)
    place = (image_size[1] - width) // 2, (image_size[0] - height) // 2
    return shifted(scaling(width / size[1], height / size[0]), *place)


def fitted_size(fit: Fit, size: Size, image_size: Size) -> Size:
    """Height and width of the whole picture once it is scaled by "letterbox" or by "crop"."""
    ratios = (image_size[0] / size[0], image_size[1] / size[1])
    scale = min(ratios) if fit == "letterbox" else max(ratios)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def about_centre(change: Matrix, size: Size) -> Matrix:
    """The same change about the centre of a picture instead of its corner."""
    x, y = size[1] / 2, size[0] / 2
    return shifted(change @ translation(-x, -y), x, y)


def is_axis_aligned(frame: npt.NDArray[Any]) -> bool:
    """Whether rectangles stay rectangles: only scaled, moved, mirrored or turned by quarters."""
    crossed, straight = abs(frame[0, 1]) + abs(frame[1, 0]), abs(frame[0, 0]) + abs(frame[1, 1])
    return bool(min(crossed, straight) < 1e-9 * max(crossed, straight))


def warp_boxes(boxes: npt.NDArray[Any], frame: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Boxes (N, 4) xyxy under a frame: the upright box round the four moved corners, not clipped.

    A turned object's box is therefore a little wide: its corners, not its outline, are known. All boxes have one frame,
    (2 or 3, 3), or each has its own, (N, 2 or 3, 3).
    """
    given = np.asarray(boxes, np.float64).reshape(-1, 4)
    x, y = given[:, [0, 2, 2, 0]], given[:, [1, 1, 3, 3]]
    by_entry = frame[..., None].astype(np.float64)
    moved_x, moved_y = (
        by_entry[..., k, 0, :] * x + by_entry[..., k, 1, :] * y + by_entry[..., k, 2, :] for k in (0, 1)
    )
    return np.stack([moved_x.min(1), moved_y.min(1), moved_x.max(1), moved_y.max(1)], axis=1)


def inverse(frame: npt.NDArray[Any]) -> Matrix:
    """The way back. (numpy's takes several times as long for a matrix of this size.)"""
    (a, b, x), (c, d, y) = frame[:2].tolist()
    scale = 1 / (a * d - b * c)
    a, b, c, d = d * scale, -b * scale, -c * scale, a * scale
    return np.array([[a, b, -a * x - b * y], [c, d, -c * x - d * y], [0, 0, 1]], np.float64)


def outline(frame: npt.NDArray[Any], size: Size) -> tuple[float, float, float, float]:
    """The upright box (x1, y1, x2, y2) round a whole picture of `size` under a frame."""
    (a, b, x), (c, d, y) = frame[:2].tolist()
    height, width = size
    across_x, across_y, down_x, down_y = a * width, c * width, b * height, d * height
    return (
        x + min(across_x, 0.0) + min(down_x, 0.0),
        y + min(across_y, 0.0) + min(down_y, 0.0),
        x + max(across_x, 0.0) + max(down_x, 0.0),
        y + max(across_y, 0.0) + max(down_y, 0.0),
    )


def visible_rectangle(frame: npt.NDArray[Any], size: Size, image_size: Size) -> tuple[slice, slice]:
    """Rows and columns of the output in which pixels of a picture of `size` can lie; empty slices if in none.

    A pixel counts by its centre.
    """
    x1, y1, x2, y2 = outline(frame, size)
    return _pixels(y1, y2, image_size[0]), _pixels(x1, x2, image_size[1])


def _pixels(low: float, high: float, side: int) -> slice:
    """Those of 0..side whose centres lie between two edges."""
    first, last = math.ceil(low - 0.5 - 1e-6), math.ceil(high - 0.5 - 1e-6)
    return slice(min(max(first, 0), side), min(max(last, 0), side))


def clip_boxes(
    boxes: npt.NDArray[Any], image_size: Size, min_visible: float, min_side: float
) -> tuple[FloatArray, BoolArray]:
    """Boxes cut to the image, and which of them are worth keeping.

    Args:
        boxes: (N, 4) xyxy, not clipped.
        image_size: height, width.
        min_visible: share of a box's area that must be left.
        min_side: pixels that both sides of the rest must have.

    Returns:
        (N, 4) float32 clipped boxes and (N,) bool.
    """
    height, width = image_size
    return cut_boxes(boxes, np.array([0, 0, width, height]), min_visible, min_side)


def cut_boxes(
    boxes: npt.NDArray[Any], windows: npt.NDArray[Any], min_visible: float, min_side: float
) -> tuple[FloatArray, BoolArray]:
    """As `clip_boxes`, but boxes are cut to `windows`, xyxy, (4,) for all or (N, 4) each to its own."""
    low, high = windows[..., [0, 1, 0, 1]], windows[..., [2, 3, 2, 3]]
    clipped = np.minimum(np.maximum(boxes, low), high)
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    keep = (sides.min(axis=1) >= min_side - 1e-6) & (np.prod(sides, axis=1) >= min_visible * whole)
    return clipped.astype(np.float32), keep
