"""From the probabilities of two networks to objects with classes and confidences."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lit_vision.ops.instances import Regrow, runs_of, split_instances
from lit_vision.types import BoolArray, FloatArray, Int32Array, Int64Array, UInt8Array

LEVELS = 255  # probabilities are kept as whole numbers 0..255: a quarter of the memory, and fast to compare


class Maps(NamedTuple):
    """What two networks say of one picture.

    foreground: (H, W) uint8, probability of any class, 255 = 1.
    border: (H, W) uint8, probability that objects touch.
    classes: (H, W) uint8 or int16, 1 + the most probable class, background left out.
    """

    foreground: UInt8Array
    border: UInt8Array
    classes: npt.NDArray[np.integer]


def as_maps(probabilities: npt.NDArray[np.floating], border: npt.NDArray[np.floating]) -> Maps:
    """Maps of float probabilities: (K + 1, H, W), background first, and (H, W)."""
    kind = np.uint8 if len(probabilities) <= 255 else np.int16
    classes = probabilities[1:].argmax(0) + 1 if len(probabilities) > 2 else np.ones(border.shape)
    return Maps(_levels(1 - probabilities[0]), _levels(border), classes.astype(kind))


def _levels(probability: npt.NDArray[np.floating]) -> UInt8Array:
    return np.asarray(np.rint(np.clip(probability, 0, 1) * LEVELS), np.uint8)


@dataclass(frozen=True, order=True)
class Separation:
    """How the probabilities of two networks become objects.

    Args:
        pixel_threshold: a pixel with more foreground probability (1 - background) lies in an object.
        border_threshold: a pixel with more border probability is cut out before parts are told apart. Below .5,
            since a gap in the line merges two objects, while a broad line costs nothing once they are grown back.
        min_area: pixels; smaller parts are no objects.
        regrow: how the cut-out pixels are given back, see `ops.instances.split_instances`.
        fill_holes: give holes inside one object to it.
    """

    pixel_threshold: float = 0.5
    border_threshold: float = 0.3
    min_area: float = 20
    regrow: Regrow = "nearest"
    fill_holes: bool = True

    def instances(self, maps: Maps) -> Int32Array:
        """The label map (H, W) of one picture."""
        inside = maps.foreground > self.pixel_threshold * LEVELS
        lines = maps.border > self.border_threshold * LEVELS
        area = round(self.min_area)
        return split_instances(inside, lines, area, self.regrow, self.fill_holes, maps.foreground)

    def objects(self, maps: Maps, num_classes: int = 1) -> tuple[Int32Array, Int64Array, FloatArray]:
        """Objects of one picture.

        Returns:
            (H, W) label map; (N,) classes by vote; (N,) scores, the mean foreground probability inside.
        """
        instances = self.instances(maps)
        voters = np.where(maps.foreground > 0, maps.classes, 0)
        return instances, vote_classes(instances, voters, num_classes), mean_scores(instances, maps.foreground)

    def __call__(
        self, probabilities: npt.NDArray[np.floating], border: npt.NDArray[np.floating]
    ) -> tuple[Int32Array, Int64Array, FloatArray]:
        """As `objects`, from probabilities (K + 1, H, W), background first, and of the border (H, W)."""
        return self.objects(as_maps(probabilities, border), len(probabilities) - 1)


def vote_classes(instances: Int32Array, class_map: npt.NDArray[np.integer], num_classes: int) -> Int64Array:
    """The class that most pixels of each object have.

    Args:
        instances: label map with N objects.
        class_map: (H, W), 0 = background, 1 + class; what is no class (background, ignored) does not vote.
        num_classes: K.

    Returns:
        (N,) int64 classes in 0..K-1; ties, and objects without any vote, get the lowest.
    """
    count = int(instances.max(initial=0))
    if num_classes == 1 or count == 0:
        return np.zeros(count, np.int64)
    starts, lengths = runs_of(instances, class_map)
    numbers, votes = instances.ravel()[starts].astype(np.int64), class_map.ravel()[starts].astype(np.int64) - 1
    valid: BoolArray = (numbers > 0) & (votes >= 0) & (votes < num_classes)
    keys = (numbers[valid] - 1) * num_classes + votes[valid]
    table = np.bincount(keys, lengths[valid], count * num_classes).reshape(count, num_classes)
    return np.asarray(table.argmax(1), np.int64)


def mean_scores(instances: Int32Array, foreground: UInt8Array) -> FloatArray:
    """Mean foreground probability inside each of the N objects: (N,) float32 in [0, 1], from levels 0..255."""
    count = int(instances.max(initial=0))
    starts, lengths = runs_of(instances)
    numbers = instances.ravel()[starts]
    totals = np.cumsum(foreground.ravel(), dtype=np.int64)
    ends = starts + lengths - 1
    sums = totals[ends] - totals[starts] + foreground.ravel()[starts]
    areas = np.bincount(numbers, lengths, count + 1)[1:]
    means = np.bincount(numbers, sums, count + 1)[1:] / np.maximum(areas, 1)
    return np.asarray(means / LEVELS, np.float32)
