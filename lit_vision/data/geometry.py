"""Affine frames: 3 x 3 matrices on edge coordinates, where pixel (0, 0) covers 0..1 and its centre lies at 0.5."""

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


def scaling(x: float, y: float) -> Matrix:
    """Scales about (0, 0)."""
    return np.diag([x, y, 1.0])


def rotation(degrees: float) -> Matrix:
    """Turns clockwise, as seen on the screen, about (0, 0)."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float64)


def shearing(x: float, y: float) -> Matrix:
    """Slants about (0, 0) by angles in degrees: x moves rows sideways, y moves columns up and down."""
    return np.array([[1, np.tan(np.deg2rad(x)), 0], [np.tan(np.deg2rad(y)), 1, 0], [0, 0, 1]], np.float64)


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
    place = translation((image_size[1] - width) // 2, (image_size[0] - height) // 2)
    return place @ scaling(width / size[1], height / size[0])


def fitted_size(fit: Fit, size: Size, image_size: Size) -> Size:
    """Height and width of the whole picture once it is scaled by "letterbox" or by "crop"."""
    ratios = (image_size[0] / size[0], image_size[1] / size[1])
    scale = min(ratios) if fit == "letterbox" else max(ratios)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def about_centre(change: Matrix, size: Size) -> Matrix:
    """The same change about the centre of a picture instead of its corner."""
    x, y = size[1] / 2, size[0] / 2
    return translation(x, y) @ change @ translation(-x, -y)


def is_axis_aligned(frame: npt.NDArray[Any]) -> bool:
    """Whether rectangles stay rectangles: only scaled, moved, mirrored or turned by quarters."""
    crossed, straight = abs(frame[0, 1]) + abs(frame[1, 0]), abs(frame[0, 0]) + abs(frame[1, 1])
    return bool(min(crossed, straight) < 1e-9 * max(crossed, straight))


def warp_boxes(boxes: npt.NDArray[Any], frame: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Boxes (N, 4) xyxy under a frame: the upright box round the four moved corners, not clipped.

    A turned object's box is therefore a little wide: its corners, not its outline, are known.
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ frame[:2, :2].T.astype(np.float64) + frame[:2, 2]
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)


def visible_rectangle(frame: npt.NDArray[Any], size: Size, image_size: Size) -> tuple[slice, slice]:
    """Rows and columns of the output in which pixels of a picture of `size` can lie; empty slices if in none.

    A pixel counts by its centre.
    """
    box = warp_boxes(np.array([[0, 0, size[1], size[0]]]), frame)[0]
    x1, y1, x2, y2 = (int(edge) for edge in np.ceil(box - 0.5 - 1e-6))
    rows = slice(min(max(y1, 0), image_size[0]), min(max(y2, 0), image_size[0]))
    columns = slice(min(max(x1, 0), image_size[1]), min(max(x2, 0), image_size[1]))
    return rows, columns


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
    clipped = np.clip(boxes, 0, [width, height, width, height])
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    keep = (sides.min(axis=1) >= min_side - 1e-6) & (np.prod(sides, axis=1) >= min_visible * whole)
    return clipped.astype(np.float32), keep
