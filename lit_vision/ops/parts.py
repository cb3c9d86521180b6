"""4-connected parts of masks, in work that grows with the pixels, and where little is true with that little."""

from typing import TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lit_vision.types import BoolArray, Int32Array, Int64Array

Labels: TypeAlias = npt.NDArray[np.uint16] | Int32Array
SHORT = 2**16 - 1  # parts that 16 bits can number: while a picture is worked on, its map takes half the memory


def connected_parts(mask: BoolArray, min_area: int = 1) -> Int32Array:
    """4-connected parts of at least min_area pixels, numbered 1..N."""
    return numbered_parts(framed(mask), min_area)[1:-1, 1:-1].astype(np.int32, order="C")


def numbered_parts(mask: BoolArray, min_area: int) -> Labels:
    """`connected_parts` of a mask with a frame, in as few bits as hold the numbers."""
    starts, lengths = _true_runs(mask)
    bits = cv2.CV_16U if len(starts) < SHORT else cv2.CV_32S  # there are no more parts than runs
    count, found = cv2.connectedComponents(mask.view(np.uint8), connectivity=4, ltype=bits)
    parts = cast(Labels, found)
    if min_area <= 1:
        return parts
    old = parts.ravel().take(starts)
    kept = np.bincount(old, lengths, count) >= min_area
    new = _without_gaps(kept).take(old)
    moved = new != old  # only these are written anew
    parts.ravel()[_pixels(starts[moved], lengths[moved])] = np.repeat(new[moved], lengths[moved])
    return parts


def _true_runs(mask: BoolArray) -> tuple[Int64Array, Int64Array]:
    """Where the runs of true begin in a flattened mask with a frame, and for how many pixels they go on."""
    flat = mask.ravel()
    edges = places_of(flat[1:] != flat[:-1]) + 1
    return edges[::2], edges[1::2] - edges[::2]


def places_of(mask: BoolArray) -> Int64Array:
    """As np.flatnonzero, in half the time where little is true: whole bytes of bits are passed over first."""
    packed = np.packbits(mask)
    at = np.flatnonzero(packed != 0)
    bits = np.flatnonzero(np.unpackbits(packed.take(at)).view(np.bool_))
    return (at.take(bits >> 3) << 3) + (bits & 7)


def _without_gaps(kept: BoolArray) -> Int32Array:
    """New numbers of the parts 0..N: dropped ones are 0, and the last ones take their places."""
    kept[0] = False
    numbers = np.where(kept, np.arange(len(kept)), 0).astype(np.int32)
    last = int(kept.sum())
    numbers[np.flatnonzero(kept[last + 1 :]) + last + 1] = np.flatnonzero(~kept[1 : last + 1]) + 1
    return numbers


def _pixels(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """Places of all pixels of some runs."""
    places = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    places += np.arange(len(places))
    return places


def framed(mask: BoolArray) -> BoolArray:
    """With a frame of background one pixel broad, so that every pixel of the picture has four neighbours."""
    broad = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(broad).view(np.bool_)


def parts_of_places(places: Int64Array, width: int, min_area: int, diagonal: bool = False) -> Int64Array:
    """As `connected_parts`, of a few pixels: the part of each place (rising) in a framed picture, 0 = too small."""
    right = np.flatnonzero(np.diff(places) == 1)
    ends = [(right, right + 1)]
    for step in (width - 1, width, width + 1) if diagonal else (width,):
        there = np.minimum(np.searchsorted(places, places + step), len(places) - 1)
        joined = np.flatnonzero(places[there] == places + step)
        ends.append((joined, there[joined]))
    one, other = (np.concatenate(part) for part in zip(*ends, strict=True))
    # A matrix, not an array: its places are 32 bits, and scipy 1.11.1 numbers no others.
    graph = coo_matrix((np.ones(len(one), np.int8), (one, other)), (len(places), len(places)))
    count, parts = connected_components(graph, directed=False)
    kept = np.bincount(parts, minlength=count) >= min_area
    return np.asarray(np.where(kept, np.cumsum(kept), 0)[parts], np.int64)
