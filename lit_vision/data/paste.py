"""A picture written straight into a window of a larger one, as fast as OpenCV can."""

import cv2
import numpy as np

from lit_vision.data.geometry import Matrix, Size, shifted, visible_rectangle
from lit_vision.data.warp import by_fours, pixels_skipped, warp_image
from lit_vision.types import UInt8Array

Window = tuple[slice, slice]  # rows, columns


def paste(image: UInt8Array, frame: Matrix, canvas: UInt8Array, window: Window) -> tuple[Matrix, Window]:
    """Writes what a window shows of a picture; what the picture does not cover stays as it is.

    A picture that is neither turned nor slanted is resized, which takes half the time of a warp. For that, the part
    that is shown begins and ends between two of its pixels: the frame moves by up to one of them.

    Args:
        image: (H, W, C).
        frame: from the picture to the canvas.
        canvas: (H', W', C), written to.
        window: of the canvas.

    Returns:
        The frame in which the picture was drawn, and the rows and columns of the canvas that it covers.
    """
    size = (image.shape[0], image.shape[1])
    rows, columns = (
        slice(max(seen.start, own.start), min(seen.stop, own.stop))
        for seen, own in zip(visible_rectangle(frame, size, canvas.shape[:2]), window, strict=True)
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return frame, (slice(0, 0), slice(0, 0))
    target = canvas[rows, columns]
    if frame[0, 1] or frame[1, 0]:
        own = shifted(frame, -columns.start, -rows.start)
        target[:] = warp_image(image, own, target.shape[:2])
        return frame, (rows, columns)
    kx, ky = (min(k, side) for k, side in zip(pixels_skipped(frame)[::-1], size[::-1], strict=True))
    across, x, part_x = _whole_pixels(float(frame[0, 0]), float(frame[0, 2]), columns, size[1], kx)
    down, y, part_y = _whole_pixels(float(frame[1, 1]), float(frame[1, 2]), rows, size[0], ky)
    _resize(image[part_y, part_x], (ky, kx), target)
    if across < 0 or down < 0:
        axes = -1 if across < 0 and down < 0 else int(across < 0)  # OpenCV's: both, 1 across, 0 down
        target[:] = by_fours(lambda bands: cv2.flip(bands, axes), target)
    return np.array([[across, 0, x], [0, down, y], [0, 0, 1]]), (rows, columns)


def _whole_pixels(scale: float, shift: float, shown: slice, side: int, group: int) -> tuple[float, float, slice]:
    """Scale and shift along one axis for which `shown` is a whole number of groups of pixels, and these pixels."""
    low, high = sorted(((shown.start - shift) / scale, (shown.stop - shift) / scale))
    first = min(max(round(low / group), 0), side // group - 1)
    last = min(max(round(high / group), first + 1), side // group)
    part = slice(first * group, last * group)
    exact = (shown.stop - shown.start) / (part.stop - part.start) * (1 if scale > 0 else -1)
    return exact, shown.start - exact * (part.start if scale > 0 else part.stop), part


def _resize(image: UInt8Array, group: Size, target: UInt8Array) -> None:
    """Averages whole groups of (rows, columns), where they are more than one, then interpolates bilinearly."""
    small, size = (image.shape[1] // group[1], image.shape[0] // group[0]), (target.shape[1], target.shape[0])
    if group != (1, 1):
        image = by_fours(lambda bands: cv2.resize(bands, small, interpolation=cv2.INTER_AREA), image)
    if image.shape[2] <= 4:
        cv2.resize(image, size, dst=target, interpolation=cv2.INTER_LINEAR)
    else:
        target[:] = by_fours(lambda bands: cv2.resize(bands, size, interpolation=cv2.INTER_LINEAR), image)
