"""Instances from two maps: object pixels minus border pixels, connected parts, lost pixels given back.

The border of touching objects, rather than whole contours, is what a second network learns: see Caicedo et al. 2019
on the 2018 Data Science Bowl, https://doi.org/10.1038/s41592-019-0612-7, whose best entries did likewise.
All functions take and give numpy arrays; label maps are (H, W) int32, 0 = background, 1..N = objects.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from lit_vision.types import BoolArray, FloatArray, Int32Array, Int64Array

LARGEST_EXACT = 2**24  # float32, in which OpenCV filters label maps, holds integers up to here


@dataclass(frozen=True)
class Separation:
    """How the probabilities of two networks become objects.

    Args:
        pixel_threshold: a pixel with more foreground probability (1 - background) lies in an object.
        border_threshold: a pixel with more border probability is cut out before parts are told apart. Below .5,
            since a gap in the line merges two objects, while a broad line costs nothing once they are grown back.
        min_area: pixels; smaller parts are no objects.
        regrow: give the cut-out pixels to the nearest object.
    """

    pixel_threshold: float = 0.5
    border_threshold: float = 0.3
    min_area: float = 20
    regrow: bool = True

    def __call__(self, probabilities: FloatArray, border: FloatArray) -> tuple[Int32Array, Int64Array, FloatArray]:
        """Objects of one picture.

        Args:
            probabilities: (K + 1, H, W), background first.
            border: (H, W).

        Returns:
            (H, W) label map; (N,) classes by vote; (N,) scores, the mean foreground probability inside.
        """
        foreground = 1 - probabilities[0]
        lines = border > self.border_threshold
        instances = split_instances(foreground > self.pixel_threshold, lines, round(self.min_area), self.regrow)
        labels = vote_classes(instances, probabilities[1:].argmax(0) + 1, len(probabilities) - 1)
        return instances, labels, mean_scores(instances, foreground)


def touching_border(instances: Int32Array, radius: int = 2) -> BoolArray:
    """Pixels where objects touch or nearly touch.

    A pixel inside an object counts when another object lies within `radius` (Chebyshev distance), a background pixel
    when two objects do. The line between two touching objects is thus 2 * radius wide. The work does not grow with
    the number of objects.

    Args:
        instances: label map; negative values (crowds) count as background.
        radius: pixels; 2 or 3 is learned well, 1 is not; must stay well below half the width of the smallest objects.

    Returns:
        (H, W) bool.
    """
    if instances.max(initial=0) >= LARGEST_EXACT:
        raise ValueError(f"label maps must stay below {LARGEST_EXACT}")
    window = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    labels = np.maximum(instances, 0).astype(np.float32)
    highest = cv2.dilate(labels, window)
    lowest = cv2.erode(np.where(labels > 0, labels, np.float32(LARGEST_EXACT)), window)
    # Background has not been counted as an id on either side, so two different extremes are two objects.
    return np.asarray((highest != lowest) & (highest > 0))


def split_instances(
    pixels: npt.NDArray[np.generic], border: npt.NDArray[np.generic], min_area: int = 20, regrow: bool = True
) -> Int32Array:
    """Separate objects: the 4-connected parts of `pixels` without `border`, grown back over the lost border pixels.

    Args:
        pixels: (H, W), true inside objects of any class.
        border: (H, W), true where objects touch.
        min_area: parts of fewer pixels are no seeds; what lies alone and is smaller is dropped.
        regrow: give each remaining pixel of `pixels` to the nearest part, by steps inside `pixels`. An object that
            the border covers wholly comes back as one of its own. Without it both stay lost.

    Returns:
        Label map, objects numbered 1..N without gaps.
    """
    inside, line = np.asarray(pixels, bool), np.asarray(border, bool)
    instances = connected_parts(inside & ~line, min_area)
    if not regrow:
        return instances
    instances = grow(instances, inside)
    eaten = connected_parts(inside & (instances == 0), min_area)
    return np.where(eaten > 0, eaten + instances.max(initial=0), instances).astype(np.int32)


def connected_parts(mask: BoolArray, min_area: int = 1) -> Int32Array:
    """4-connected parts of at least min_area pixels, numbered 1..N."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    kept = stats[:, cv2.CC_STAT_AREA] >= min_area
    kept[0] = False
    numbers = np.zeros(count, np.int32)
    numbers[kept] = np.arange(1, int(kept.sum()) + 1)
    return np.asarray(numbers[parts])


def grow(seeds: Int32Array, mask: BoolArray) -> Int32Array:
    """Give every pixel of `mask` that can be reached from a seed to the seed that is fewest steps away.

    Steps go to the four neighbours and never leave `mask`, so nothing grows across a gap. The frontier alone is
    visited: the work is the number of pixels given, not the picture times the distance.

    Args:
        seeds: label map of the seeds.
        mask: (H, W) bool, where they may grow.

    Returns:
        Label map; 0 outside, and in parts of `mask` without a seed.
    """
    labels = np.pad(seeds, 1)
    open_pixels = np.pad(mask & (seeds == 0), 1).ravel()
    near_open = cv2.dilate(open_pixels.reshape(labels.shape).astype(np.uint8), np.ones((3, 3), np.uint8))
    frontier = np.flatnonzero((labels > 0) & (near_open > 0))
    flat, width = labels.ravel(), labels.shape[1]
    while len(frontier):
        steps = np.concatenate([frontier - width, frontier - 1, frontier + 1, frontier + width])
        sources = np.tile(frontier, 4)
        free = open_pixels[steps]
        frontier, first = np.unique(steps[free], return_index=True)
        flat[frontier] = flat[sources[free][first]]
        open_pixels[frontier] = False
    return np.ascontiguousarray(flat.reshape(labels.shape)[1:-1, 1:-1])


def vote_classes(instances: Int32Array, class_map: npt.NDArray[np.integer], num_classes: int) -> Int64Array:
    """The class that most pixels of each object have.

    Args:
        instances: label map with N objects.
        class_map: (H, W), 0 = background, 1 + class; background does not vote.
        num_classes: K.

    Returns:
        (N,) int64 classes in 0..K-1; ties, and objects without any vote, get the lowest.
    """
    count, width = int(instances.max(initial=0)), num_classes + 1
    pairs = instances.astype(np.int64).ravel() * width + class_map.ravel()
    votes = np.bincount(pairs, minlength=(count + 1) * width).reshape(count + 1, width)
    return np.asarray(votes[1:, 1:].argmax(1), np.int64)


def mean_scores(instances: Int32Array, probability: FloatArray) -> FloatArray:
    """Mean foreground probability (H, W) inside each of the N objects: (N,) float32 in [0, 1]."""
    count = int(instances.max(initial=0))
    areas = np.bincount(instances.ravel(), minlength=count + 1)
    sums = np.bincount(instances.ravel(), weights=probability.ravel(), minlength=count + 1)
    means = sums[1:] / np.maximum(areas[1:], 1)
    return np.clip(means, 0, 1).astype(np.float32)


def relabel(instances: Int32Array) -> tuple[Int32Array, Int64Array]:
    """Number the objects that are left 1..N; crowds (negative) stay.

    Returns:
        The label map, and (N,) int64 old numbers in order: labels of the survivors are labels[old - 1].
    """
    old = np.unique(instances[instances > 0]).astype(np.int64)
    numbers = np.zeros(int(old.max(initial=0)) + 1, np.int32)
    numbers[old] = np.arange(1, len(old) + 1)
    return np.where(instances > 0, numbers[np.maximum(instances, 0)], instances).astype(np.int32), old


def overlaps(truth: Int32Array, predicted: Int32Array) -> Int64Array:
    """Pixels that object i of one label map shares with object j of another: (T + 1, P + 1), 0 = background."""
    rows, columns = int(truth.max(initial=0)) + 1, int(predicted.max(initial=0)) + 1
    pairs = truth.astype(np.int64).ravel() * columns + predicted.ravel()
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)
