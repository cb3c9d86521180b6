"""Instances from two maps: object pixels minus border pixels, connected parts, lost pixels given back.

The border of touching objects, rather than whole contours, is what a second network learns: see Caicedo et al. 2019
on the 2018 Data Science Bowl, https://doi.org/10.1038/s41592-019-0612-7, whose best entries did likewise.
All functions take and give numpy arrays; label maps are (H, W) int32, 0 = background, 1..N = objects. The work of each
grows with the pixels, not with the number of objects.
"""

from typing import Literal, TypeAlias, get_args

import cv2
import numpy as np
import numpy.typing as npt

from lit_vision.errors import UserError
from lit_vision.ops.parts import SHORT, Labels, framed, numbered_parts, parts_of_places, places_of
from lit_vision.types import BoolArray, Int32Array, Int64Array, UInt8Array

Regrow: TypeAlias = Literal["nearest", "watershed", "none"]
SPARSE = 0.02  # share of a picture's pixels below which they are looked at one by one
STEP = 8  # levels of 255 that a watershed takes for one
DENSE = 2**20  # cells of a table that are counted in place rather than sorted


def split_instances(
    pixels: npt.NDArray[np.generic],
    border: npt.NDArray[np.generic],
    min_area: int = 20,
    regrow: Regrow = "nearest",
    fill: bool = True,
    foreground: UInt8Array | None = None,
) -> Int32Array:
    """Separate objects: the 4-connected parts of `pixels` without `border`, grown back over the lost border pixels.

    Args:
        pixels: (H, W), true inside objects of any class.
        border: (H, W), true where objects touch.
        min_area: parts of fewer pixels are no seeds; what lies alone and is smaller is dropped.
        regrow: how the remaining pixels of `pixels` are given to the parts. "nearest": to the one that is fewest
            steps away inside `pixels`. "watershed": by flooding `foreground` from its peaks. An object that the border
            covers wholly then comes back as one of its own. "none": they stay lost.
        fill: give holes that lie inside a single object to it.
        foreground: (H, W) foreground probability, 0..255; for "watershed".

    Returns:
        Label map, objects numbered 1..N without gaps.

    Raises:
        UserError: there is no such `regrow`.
    """
    check_regrow(regrow)
    inside, seeds = framed(np.asarray(pixels, bool)), framed(np.asarray(border, bool))
    np.greater(inside, seeds, out=seeds)  # in place, here and below: fresh memory costs as much as the work on it
    labels = numbered_parts(seeds, min_area)
    del seeds
    if regrow != "none":
        if regrow == "watershed" and foreground is not None:
            left = _flood(labels, inside, np.pad(foreground, 1))
        else:
            left = _spread(labels, inside)
        labels = _with_eaten(labels, left, min_area)
        del left
    del inside
    if fill:
        _fill(labels)
    return labels[1:-1, 1:-1].astype(np.int32, order="C")


def check_regrow(regrow: str) -> None:
    """Raises UserError where there is no such way to grow."""
    if regrow not in get_args(Regrow):
        raise UserError(f"model.regrow is {regrow!r}: give one of {', '.join(get_args(Regrow))}")


def grow(seeds: Int32Array, mask: BoolArray) -> Int32Array:
    """Give every pixel of `mask` that can be reached from a seed to the seed that is fewest steps away.

    Steps go to the four neighbours and never leave `mask`, so nothing grows across a gap.

    Args:
        seeds: label map of the seeds.
        mask: (H, W) bool, where they may grow.

    Returns:
        Label map; 0 outside, and in parts of `mask` without a seed.
    """
    labels = np.pad(seeds, 1)
    _spread(labels, framed(mask))
    return np.ascontiguousarray(labels[1:-1, 1:-1])


def _spread(labels: Labels, mask: BoolArray) -> BoolArray:
    """`grow` in place, of arrays with a frame; gives what no seed has reached.

    The frontier alone is visited, so the work is the pixels given.
    """
    is_open: BoolArray = labels == 0
    is_open &= mask
    near_open = cv2.dilate(is_open.view(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    edge = labels > 0
    edge &= near_open.view(np.bool_)
    frontier = places_of(edge)
    flat, still, width = labels.ravel(), is_open.ravel(), labels.shape[1]
    while len(frontier):
        reached = []
        for step in (-width, -1, 1, width):  # the targets of one direction are distinct
            targets = frontier + step
            targets = targets.compress(still.take(targets))
            flat[targets], still[targets] = flat.take(targets - step), False
            reached.append(targets)
        frontier = np.concatenate(reached)
    return is_open


def _with_eaten(labels: Labels, left: BoolArray, min_area: int) -> Labels:
    """Numbers the parts of what no object has reached, few pixels as a rule; in place, or in more bits."""
    places = places_of(left)
    if len(places) < max(min_area, 1):
        return labels
    if len(places) > SPARSE * left.size:
        parts = numbered_parts(left, min_area).ravel().take(places).astype(np.int64)
    else:
        parts = parts_of_places(places, left.shape[1], min_area)
    last = int(labels.max(initial=0))
    if last + int(parts.max()) > SHORT:
        labels = labels.astype(np.int32, copy=False)
    labels.ravel()[places[parts > 0]] = parts[parts > 0] + last
    return labels


def flood(seeds: Int32Array, mask: BoolArray, foreground: UInt8Array) -> Int32Array:
    """Give the pixels of `mask` to the seeds by a watershed of the foreground probability, its peaks flooded first.

    Vincent & Soille 1991, https://doi.org/10.1109/34.87344, with these seeds in the place of the minima: level by
    level, each pixel of a level to the seed that is fewest steps away.

    Args:
        seeds: label map of the seeds.
        mask: (H, W) bool, where they may grow.
        foreground: (H, W), 0..255; flooded in 32 levels.

    Returns:
        Label map; 0 outside, and in parts of `mask` without a seed.
    """
    labels = np.pad(seeds, 1)
    _flood(labels, framed(mask), np.pad(foreground, 1))
    return np.ascontiguousarray(labels[1:-1, 1:-1])


def _flood(labels: Labels, inside: BoolArray, foreground: UInt8Array) -> BoolArray:
    """`flood` in place, of arrays with a frame; gives what no seed has reached."""
    steps = np.where(inside, foreground // STEP, 0)
    left = inside
    for step in np.flatnonzero(np.bincount(steps.ravel()))[::-1].tolist():  # the last one is 0, the frame's
        left = _spread(labels, inside & (steps >= step))
    return left


def fill_holes(instances: Int32Array) -> Int32Array:
    """Give background that one object alone encloses (8-connected, away from the picture's edge) to that object.

    Background that several objects enclose, as between three discs, stays background.
    """
    labels = np.pad(instances, 1)
    _fill(labels)
    return np.ascontiguousarray(labels[1:-1, 1:-1])


def _fill(labels: Labels) -> None:
    """`fill_holes` in place, of a label map with a frame."""
    canvas = (labels != 0).view(np.uint8)
    cv2.floodFill(canvas, None, (0, 0), 1, flags=8)
    if cv2.countNonZero(canvas) == canvas.size:
        return
    places, width = places_of(canvas == 0), canvas.shape[1]
    if len(places) > SPARSE * canvas.size:
        hole = cv2.connectedComponents(1 - canvas, connectivity=8, ltype=cv2.CV_32S)[1].ravel()[places]
    else:
        hole = parts_of_places(places, width, 1, diagonal=True)
    flat = labels.ravel()
    first = np.diff(places, prepend=-1) != 1
    last = np.diff(places, append=canvas.size + 1) != 1
    ends = np.concatenate([flat[places[first] - 1], flat[places[last] + 1]])
    owner = _owners(np.concatenate([hole[first], hole[last]]), ends)
    # The ends of the rows rule most holes out; for those that are left all neighbours are looked at.
    left = owner[hole] > 0
    places, hole = places[left], hole[left]
    around = np.concatenate([flat[places + step] for step in (-width, -1, 1, width)])
    owner = _owners(np.tile(hole, 4), around)
    flat[places] = owner[hole]


def _owners(hole: npt.NDArray[np.integer], neighbour: Labels) -> Int32Array:
    """By the number of a hole, the one object that all neighbours belong to; 0 where there are several."""
    count = int(hole.max(initial=0)) + 1
    hole, neighbour = hole[neighbour != 0], neighbour[neighbour != 0]
    lowest, highest = np.full(count, np.iinfo(np.int32).max, np.int32), np.zeros(count, np.int32)
    np.minimum.at(lowest, hole, neighbour)
    np.maximum.at(highest, hole, neighbour)
    return np.where(lowest == highest, highest, 0).astype(np.int32)


def runs_of(*maps: npt.NDArray[np.generic]) -> tuple[Int64Array, Int64Array]:
    """Where the flattened maps (H, W) have a new value, any of them, and for how many pixels they keep it."""
    flat = [values.ravel() for values in maps]
    changes = np.ones(flat[0].shape, np.bool_)
    np.not_equal(flat[0][1:], flat[0][:-1], out=changes[1:])
    for values in flat[1:]:
        changes[1:] |= values[1:] != values[:-1]
    starts = np.flatnonzero(changes)
    return starts, np.diff(starts, append=flat[0].size)


def areas_of(instances: Int32Array, count: int) -> Int64Array:
    """Pixels of each of the objects 1..count: (count,) int64."""
    starts, lengths = runs_of(instances)
    sums = np.bincount(np.maximum(instances.ravel()[starts], 0), lengths, count + 1)
    return sums[1:].astype(np.int64)


def relabel(instances: Int32Array) -> tuple[Int32Array, Int64Array]:
    """Number the objects that are left 1..N; crowds (negative) stay.

    Returns:
        The label map, and (N,) int64 old numbers in order: labels of the survivors are labels[old - 1].
    """
    old = np.unique(instances[instances > 0]).astype(np.int64)
    numbers = np.zeros(int(old.max(initial=0)) + 1, np.int32)
    numbers[old] = np.arange(1, len(old) + 1)
    return np.where(instances > 0, numbers[np.maximum(instances, 0)], instances).astype(np.int32), old


def shared_pixels(truth: Int32Array, predicted: Int32Array) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Which numbers of two label maps of one size meet, and in how many pixels. Numbers are 0 or more.

    Returns:
        (M,) numbers in `truth`, (M,) numbers in `predicted`, (M,) pixels; pairs without a pixel are left out, the
        others in order. The memory grows with the pairs that meet, not with all pairs.
    """
    starts, lengths = runs_of(truth, predicted)
    columns = int(predicted.max(initial=0)) + 1
    keys = truth.ravel()[starts].astype(np.int64) * columns + predicted.ravel()[starts]
    if (int(truth.max(initial=0)) + 1) * columns <= DENSE:
        table = np.bincount(keys, lengths)
        pairs = np.flatnonzero(table)
        pixels = table[pairs].astype(np.int64)
    else:
        pairs, place = np.unique(keys, return_inverse=True)
        pixels = np.bincount(place, lengths, len(pairs)).astype(np.int64)
    return pairs // columns, pairs % columns, pixels
