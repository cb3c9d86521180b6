"""What the second network learns: where objects touch or nearly touch, and how much each pixel of that counts.

All functions take label maps (H, W) int32, 0 = background, 1..N = objects; negative values (crowds) are background.
"""

import cv2
import numpy as np
import numpy.typing as npt

from lit_vision.types import BoolArray, FloatArray, Int32Array, Int64Array

LARGEST_EXACT = 2**24  # float32, in which OpenCV filters label maps, holds integers up to here
MOST_RADIUS = 255
THIN, BROAD = 2, 4  # pixels: 1 is too thin to be learned
OF_WIDTH, OF_HALF = 0.1, 0.45  # of an object's side, and of its half width at most
REACH = 3.5  # standard deviations beyond which a weight is as good as 1


def touching_border(instances: Int32Array, radius: int | Int64Array = 2) -> BoolArray:
    """Pixels where objects touch or nearly touch: the target of the second network.

    A pixel inside an object counts when another object lies within the object's radius (Chebyshev distance), a
    background pixel when two objects lie within the largest radius of the objects near it. The line between two
    touching objects is thus as wide as their radii together. A gap takes from it what it is wide: up to one radius it
    is filled, a wider one in its middle, and from twice the radius on there is no line. Outlines that touch nothing are
    left out. The work does not grow with the number of objects.

    Args:
        instances: label map.
        radius: whole pixels from 1 to 255, of all objects or (N,) of each, as `object_radii` gives them. 2 or 3 is
            learned well, 1 is not; must stay well below half the width of the object.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: the numbers are too large, a radius is none, or there are fewer radii than objects.
    """
    count = int(instances.max(initial=0))
    if count >= LARGEST_EXACT:
        raise ValueError(f"label maps must stay below {LARGEST_EXACT}")
    given = np.asarray(radius)
    if given.size and (given.dtype.kind not in "iu" or given.min() < 1 or given.max() > MOST_RADIUS):
        raise ValueError(f"radius is {radius}: give whole pixels from 1 to {MOST_RADIUS}")
    if given.ndim and (given.ndim != 1 or len(given) < count):
        raise ValueError(f"there are {given.size} radii for objects up to number {count}: give one of each")
    labels = np.maximum(instances, 0)
    if not given.ndim:
        return _two_within(labels, int(given))[int(given)]
    radii = np.concatenate([np.zeros(1, np.uint8), given.astype(np.uint8)])
    most = int(radii.max(initial=0))
    own = np.take(radii, labels)
    near = cv2.dilate(own, np.ones((2 * most + 1, 2 * most + 1), np.uint8)) if most else own
    asked = np.where(labels > 0, own, near)
    border = np.zeros(labels.shape, np.bool_)
    for step, touching in _two_within(labels, most).items():
        if step in radii:
            border |= touching & (asked == step)
    return border


def _two_within(labels: Int32Array, most: int) -> dict[int, BoolArray]:
    """For each radius up to `most`, where two different objects lie within it."""
    window = np.ones((3, 3), np.uint8)
    highest = labels.astype(np.float32)
    lowest = np.where(labels > 0, highest, np.float32(LARGEST_EXACT))
    found = {}
    for step in range(1, most + 1):  # squares add up: a step of one more each
        highest = np.asarray(cv2.dilate(highest, window), np.float32)
        lowest = np.asarray(cv2.erode(lowest, window), np.float32)
        # Background has not been counted as an id on either side, so two different extremes are two objects.
        found[step] = np.asarray((highest != lowest) & (highest > 0))
    return found


def object_radii(areas: npt.NDArray[np.number]) -> Int64Array:
    """Border radius of objects by their size: a tenth of the side, 2 to 4 pixels, and less than half the half width.

    The winners of the 2018 Data Science Bowl scaled theirs likewise, from 1 pixel to 3
    (https://github.com/selimsef/dsb2018_topcoders); 1 pixel was hardly learned in our trials.

    Args:
        areas: (N,) pixels of each object, whole or not.

    Returns:
        (N,) int64 pixels, 1 for objects less than about 9 wide.
    """
    side = np.sqrt(areas.astype(np.float64))
    widest = np.maximum(np.floor(OF_HALF * side / np.sqrt(np.pi)), 1)
    return np.asarray(np.minimum(np.clip(np.round(OF_WIDTH * side), THIN, BROAD), widest), np.int64)


def gap_weights(instances: Int32Array, weight: float = 10.0, sigma: float = 5.0) -> FloatArray:
    """How much a pixel counts: more where the gap between its two nearest objects is thin.

    1 + weight * exp(-(d1 + d2)^2 / (2 sigma^2)), d1 and d2 the distances to the nearest and second nearest object, as
    in U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597); inside an object d1 is 0.

    Args:
        instances: label map.
        weight: of a pixel where two objects meet, beyond 1; U-Net's w0.
        sigma: pixels.

    Returns:
        (H, W) float32, from 1 to 1 + weight; exact up to 3.5 sigma, and 1 beyond.
    """
    height, width = instances.shape
    reach = int(np.ceil(REACH * sigma))
    first, second = (np.full((height, width), np.float32(np.inf)) for _ in range(2))
    count = int(instances.max(initial=0))
    for k, (x1, y1, x2, y2) in enumerate(_boxes(instances, count), 1):
        if x1 >= x2:
            continue
        part = slice(max(y1 - reach, 0), y2 + reach), slice(max(x1 - reach, 0), x2 + reach)
        away = (instances[part] != k).view(np.uint8)
        distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        np.minimum(second[part], np.maximum(first[part], distance), out=second[part])
        np.minimum(first[part], distance, out=first[part])
    # OpenCV's roots are an ulp off here and there, by where they lie in memory: no two trainings would be the same.
    # The squares are whole numbers.
    first, second = (np.sqrt(np.rint(np.square(one))) for one in (first, second))
    near = (first + second) / np.float32(sigma)
    return np.asarray(1 + weight * np.where(near <= REACH, np.exp(-0.5 * near * near), 0), np.float32)


def _boxes(instances: Int32Array, count: int) -> list[list[int]]:
    """xyxy of each object 1..count; x1 > x2 for numbers without a pixel."""
    y, x = np.nonzero(instances > 0)
    k = instances[y, x]
    boxes = np.empty((count + 1, 4), np.int64)
    boxes[:] = (*instances.shape[::-1], 0, 0)
    for column, (better, values) in enumerate(
        [(np.minimum, x), (np.minimum, y), (np.maximum, x + 1), (np.maximum, y + 1)]
    ):
        better.at(boxes[:, column], k, values)
    rows: list[list[int]] = boxes[1:].tolist()
    return rows
