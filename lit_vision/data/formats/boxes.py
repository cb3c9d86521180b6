"""What is wrong with a box, and clipping those that stick out of their images."""

import math

import numpy as np
import numpy.typing as npt

from lit_vision.types import FloatArray, Int32Array

ROUNDING = 0.5  # pixels; formats with rounded decimals overshoot by less, which is not worth telling


def box_fault(box: tuple[float, float, float, float], size: tuple[int, int]) -> str | None:
    """Says in a few words what makes a box unusable.

    Args:
        box: x1, y1, x2, y2 in pixels.
        size: height and width of the image; 0 where unknown.

    Returns:
        A predicate such as "is inverted or empty", or None for a good box.
    """
    x1, y1, x2, y2 = box
    height, width = size
    if not all(math.isfinite(value) for value in box):
        return "has a coordinate that is not a number"
    if x2 <= x1 or y2 <= y1:
        return "is inverted or empty"
    if x2 <= 0 or y2 <= 0 or (width and x1 >= width) or (height and y1 >= height):
        return f"lies wholly outside the image ({width} wide, {height} high)"
    return None


def faulty_boxes(boxes: npt.NDArray[np.float64] | FloatArray, sizes: Int32Array) -> npt.NDArray[np.int64]:
    """Positions of the boxes that `box_fault` would object to; boxes (M, 4), sizes (M, 2) of their images."""
    x1, y1, x2, y2 = boxes.T
    height, width = sizes.T
    good = np.isfinite(boxes).all(1) & (x2 > x1) & (y2 > y1) & (x2 > 0) & (y2 > 0)
    good &= ((width == 0) | (x1 < width)) & ((height == 0) | (y1 < height))
    return np.flatnonzero(~good)


def clip_boxes(
    boxes: npt.NDArray[np.float64] | FloatArray, sizes: Int32Array
) -> tuple[FloatArray, npt.NDArray[np.float64]]:
    """Clips boxes to their images.

    Args:
        boxes: (M, 4) xyxy in pixels.
        sizes: (M, 2) height and width of each box's image; 0 where unknown (then only the lower bound holds).

    Returns:
        (M, 4) float32 boxes, and by how many pixels each stuck out.
    """
    edges = np.where(sizes == 0, np.inf, sizes.astype(np.float64))
    upper = edges[:, [1, 0, 1, 0]]
    clipped = np.minimum(np.maximum(boxes, 0.0), upper)
    overhang = np.abs(clipped - boxes).max(1, initial=0.0)
    return clipped.astype(np.float32), overhang


def clip_note(overhang: npt.NDArray[np.float64]) -> list[str]:
    """The sentence that tells how many boxes were clipped; none where no box stuck out by more than rounding does."""
    count = int((overhang > ROUNDING).sum())
    if count == 0:
        return []
    return [
        f"{count} of {len(overhang)} boxes stuck out of their images (at most by {overhang.max():.0f} px): clipped."
    ]
