"""The one warp: image, masks and label maps brought to another frame by OpenCV."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from lit_vision.data.geometry import (
    Matrix,
    Size,
    inverse,
    is_axis_aligned,
    outline,
    shifted,
    translation,
    visible_rectangle,
)
from lit_vision.types import UInt8Array

FILL = 114  # grey of what no picture covers; near the mean of photographs, so that edges stay faint

# OpenCV's coordinates are those of pixel centres, ours those of edges.
_CENTRE, _FROM_CENTRE = translation(0.5, 0.5), translation(-0.5, -0.5)
_MARGIN = 2  # pixels round the needed part of the source that interpolation may touch
AnyArray: TypeAlias = npt.NDArray[Any]


def warp_image(image: UInt8Array, frame: Matrix, size: Size, fill: int = FILL) -> UInt8Array:
    """Picture (H, W, C) in the frame of a network input of `size`, interpolated bilinearly.

    Where the picture shrinks to less than half, it is averaged down to between half and full detail first, so that
    fine patterns do not turn into false ones.
    """
    if image.shape[:2] == size and np.array_equal(frame, np.eye(3)):
        return np.array(image)
    window, aligned = _window(frame, (image.shape[0], image.shape[1]), size)
    shape = (*size, image.shape[2])
    if window is None:
        return np.full(shape, fill, np.uint8)
    inner, inner_size = _inside(frame, window)
    group = pixels_skipped(inner)
    part, inner = _shrink(*_needed_part(image, inner, inner_size, group), group)
    warped: AnyArray = by_fours(lambda bands: _warp(bands, inner, inner_size, cv2.INTER_LINEAR, aligned, fill), part)
    return _surrounded(warped, window, shape, fill)


def warp_labels(labels: AnyArray, frame: Matrix, size: Size, fill: int) -> AnyArray:
    """Numbers (H, W), uint8 or int32, in the frame of a picture of `size`: the nearest one, `fill` outside."""
    if labels.shape == size and np.array_equal(frame, np.eye(3)):
        return np.array(labels)
    window, aligned = _window(frame, (labels.shape[0], labels.shape[1]), size)
    if window is None:
        return np.full(size, fill, labels.dtype)
    inner, inner_size = _inside(frame, window)
    part, inner = _needed_part(labels, inner, inner_size)
    return _surrounded(_warp(part, inner, inner_size, cv2.INTER_NEAREST, aligned, fill), window, size, fill)


def warp_scores(scores: npt.NDArray[np.float32], frame: Matrix, size: Size) -> npt.NDArray[np.float32]:
    """Maps (K, H, W) float32 in the frame of a picture of `size`, bilinear; the outermost value goes on outside."""
    channels_last = np.ascontiguousarray(np.moveaxis(scores, 0, 2))
    warped = by_fours(lambda bands: _warp(bands, frame, size, cv2.INTER_LINEAR, True, 0), channels_last)
    return np.ascontiguousarray(np.moveaxis(warped, 2, 0))


def by_fours(change: Callable[[AnyArray], AnyArray], image: AnyArray) -> AnyArray:
    """Apply an OpenCV function, which takes at most four channels, to pixels (H, W, C) with any number of them."""
    chunks = [image[:, :, i : i + 4] for i in range(0, image.shape[2], 4)] if image.shape[2] > 4 else [image]
    changed = [change(chunk if len(chunks) == 1 else np.ascontiguousarray(chunk)) for chunk in chunks]
    shaped = [chunk[:, :, None] if chunk.ndim == 2 else chunk for chunk in changed]
    return shaped[0] if len(shaped) == 1 else np.concatenate(shaped, axis=2)


def _warp(array: AnyArray, frame: Matrix, size: Size, flags: int, replicate: bool, fill: int) -> AnyArray:
    """Replicating where the frame is axis-aligned keeps the fill from bleeding into the outermost pixels."""
    back = _FROM_CENTRE @ inverse(frame) @ _CENTRE
    border = cv2.BORDER_REPLICATE if replicate else cv2.BORDER_CONSTANT
    shape, flags = (size[1], size[0]), flags | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(array, back[:2], shape, flags=flags, borderMode=border, borderValue=(fill,) * 4)


def _needed_part(
    array: AnyArray, frame: Matrix, size: Size, group: tuple[int, int] = (1, 1)
) -> tuple[AnyArray, Matrix]:
    """The part of the source that the output shows: large pictures cost no more than what is seen of them.

    It begins and ends between two groups of (rows, columns), or at the picture's edge.
    """
    height, width = array.shape[:2]
    ky, kx = group
    left, top, right, bottom = outline(inverse(frame), size)
    x1, y1 = (max(0, math.floor(low) - _MARGIN) // k * k for low, k in ((left, kx), (top, ky)))
    x2, y2 = (-(-(math.ceil(high) + _MARGIN) // k) * k for high, k in ((right, kx), (bottom, ky)))
    return array[y1 : min(height, y2), x1 : min(width, x2)], frame @ translation(x1, y1)


def pixels_skipped(frame: Matrix) -> tuple[int, int]:
    """How many whole (rows, columns) of the source the frame brings to one of the output, at least 1."""
    (a, b), (c, d) = frame[:2, :2].tolist()
    kx, ky = (max(1, int(1 / length + 1e-6)) for length in (math.hypot(a, c), math.hypot(b, d)))
    return ky, kx


def _shrink(image: UInt8Array, frame: Matrix, group: tuple[int, int]) -> tuple[UInt8Array, Matrix]:
    """Average whole groups of (rows, columns) where the frame would skip some."""
    ky, kx = group
    if kx == ky == 1:
        return image, frame
    # With its edge repeated to whole groups, OpenCV takes a path that is up to twenty times faster.
    below, right = -image.shape[0] % ky, -image.shape[1] % kx
    if below or right:
        image = by_fours(lambda bands: cv2.copyMakeBorder(bands, 0, below, 0, right, cv2.BORDER_REPLICATE), image)
    small = (image.shape[1] // kx, image.shape[0] // ky)
    averaged = by_fours(lambda bands: cv2.resize(bands, small, interpolation=cv2.INTER_AREA), image)
    return averaged, frame @ np.diag([kx, ky, 1.0])


def _window(frame: Matrix, source: Size, size: Size) -> tuple[tuple[slice, slice] | None, bool]:
    """Rows and columns of the output that show something of the source, or None; whether rectangles stay rectangles.

    What lies outside need not be warped, which takes OpenCV longer than the inside. A turned picture fades into the
    fill along its edges, which reaches half a pixel farther.
    """
    rows, columns = visible_rectangle(frame, source, size)
    if rows.start == rows.stop or columns.start == columns.stop:
        return None, True
    aligned = is_axis_aligned(frame)
    if not aligned:
        rows = slice(max(rows.start - 1, 0), min(rows.stop + 1, size[0]))
        columns = slice(max(columns.start - 1, 0), min(columns.stop + 1, size[1]))
    return (rows, columns), aligned


def _inside(frame: Matrix, window: tuple[slice, slice]) -> tuple[Matrix, Size]:
    """The frame seen from a window's corner, and the window's height and width."""
    rows, columns = window
    return shifted(frame, -columns.start, -rows.start), (rows.stop - rows.start, columns.stop - columns.start)


def _surrounded(warped: AnyArray, window: tuple[slice, slice], shape: tuple[int, ...], fill: int) -> AnyArray:
    """The window's content with the fill around it."""
    if warped.shape == shape:
        return warped
    whole = np.full(shape, fill, warped.dtype)
    whole[window] = warped
    return whole
