"""COCO's run-length encoding: runs of 0 and 1 in turn, down the columns, as compressed counts.

The code is the one of the COCO API (https://github.com/cocodataset/cocoapi, common/maskApi.c): counts from the
fourth on are differences to the count two before, in groups of 5 bits with a continuation bit, offset by 48 to
printable letters.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as coco_mask

from lit_vision.types import BoolArray, FloatArray, Int32Array, Int64Array, UInt8Array

_CHUNK = 10_000  # counts looked at together; bounds the memory


def counts_of(compressed: bytes) -> Int64Array:
    """Run lengths from COCO's compressed counts.

    Raises:
        ValueError: these bytes are no such counts.
    """
    values = _differences([compressed])[0]
    # From the fourth on, counts are differences to the one two before: running sums over even and odd places.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _differences(segments: Sequence[bytes]) -> tuple[Int64Array, Int64Array]:
    """The numbers in many compressed counts, one after another, and how many each has."""
    letters = np.frombuffer(b"".join(segments), np.uint8).astype(np.int64) - 48
    lengths = np.array([len(segment) for segment in segments], np.int64)
    if lengths.min(initial=1) < 1 or letters.min(initial=0) < 0 or letters.max(initial=0) > 63:
        raise ValueError("letters outside of COCO's code")
    last = (letters & 32) == 0
    if not last[np.cumsum(lengths) - 1].all():
        raise ValueError("the counts are cut off")
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    place = np.arange(len(letters)) - np.repeat(starts, np.diff(np.append(starts, len(letters))))
    if place.max() > 8:
        raise ValueError("a count is longer than any image")
    values = np.add.reduceat((letters & 31) << (5 * place), starts)
    ends = np.flatnonzero(last)
    values -= ((letters[ends] & 16) > 0) * (np.int64(1) << (5 * (place[ends] + 1)))  # the highest bit is the sign
    return values, np.add.reduceat(last.astype(np.int64), np.cumsum(lengths) - lengths)


def check_counts(counts: Int64Array, size: tuple[int, int]) -> None:
    """Raises ValueError where run lengths do not fill an image of this height and width exactly."""
    if len(counts) and counts.min() < 0:
        raise ValueError("a run length is negative")
    if counts.sum() != size[0] * size[1]:
        raise ValueError(f"the runs cover {counts.sum()} pixels, the image has {size[0] * size[1]}")


def faulty_rles(segments: Sequence[bytes], areas: Int64Array) -> list[int]:
    """Positions of the compressed counts that do not fill their image, found many at once.

    Args:
        segments: compressed counts.
        areas: pixels of each one's image.
    """
    chunks = range(0, len(segments), _CHUNK)
    return [at + k for at in chunks for k in _faulty(segments[at : at + _CHUNK], areas[at : at + _CHUNK])]


def _faulty(segments: Sequence[bytes], areas: Int64Array) -> list[int]:
    try:
        values, counts = _differences(segments)
    except ValueError:
        return [k for k, segment in enumerate(segments) if not _fills(segment, int(areas[k]))]
    owner = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    chain = np.where(place == 0, 0, 1 + place % 2)  # a first count, sums at odd and sums at even places
    order = np.lexsort((place, chain, owner))
    sums = np.cumsum(values[order])
    links = owner[order] * 3 + chain[order]
    starts = np.flatnonzero(np.diff(links, prepend=-1))
    runs = sums - np.repeat(sums[starts] - values[order][starts], np.diff(np.append(starts, len(sums))))
    totals = np.bincount(owner[order], weights=runs, minlength=len(counts))
    negative = np.bincount(owner[order], weights=runs < 0, minlength=len(counts)) > 0
    return [int(k) for k in np.flatnonzero((totals != areas) | negative)]


def _fills(segment: bytes, area: int) -> bool:
    try:
        check_counts(counts_of(segment), (1, area))
    except ValueError:
        return False
    return True


def pixels_of(compressed: bytes, size: tuple[int, int]) -> Int64Array:
    """Places of a mask's pixels, rising, where pixel (y, x) of an image of height H is at x * H + y.

    Raises:
        ValueError: the counts are malformed or of another size.
    """
    counts = counts_of(compressed)
    check_counts(counts, size)
    ends = np.cumsum(counts)[1::2]
    lengths = counts[1::2]
    # Each run's places are its start and up; the running number of all pixels is taken off the start beforehand.
    return np.repeat(ends - np.cumsum(lengths), lengths) + np.arange(int(lengths.sum()))


def decode_rle(compressed: bytes, size: tuple[int, int]) -> BoolArray:
    """(H, W) mask from compressed counts.

    Raises:
        ValueError: the counts are malformed or of another size.
    """
    flat = np.zeros(size[0] * size[1], np.bool_)
    flat[pixels_of(compressed, size)] = True
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def encode_rle(mask: BoolArray | UInt8Array) -> bytes:
    """Compressed counts of an (H, W) mask; equal to pycocotools' `encode`."""
    return _counts(coco_mask.encode(np.asfortranarray(mask, np.uint8)))


def encode_label_map(instances: Int32Array, count: int) -> list[bytes]:
    """Compressed counts of the objects 1..count of an (H, W) label map; the work hardly grows with their number."""
    flat = np.ascontiguousarray(instances.T).reshape(-1)
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1)) if len(flat) else np.zeros(0, np.int64)
    ends = np.append(starts[1:], len(flat))
    order = np.argsort(flat[starts], kind="stable")
    bounds = np.searchsorted(flat[starts][order], np.arange(1, count + 2))
    chosen = (order[low:high] for low, high in pairwise(bounds.tolist()))
    size = (instances.shape[0], instances.shape[1])
    return [compress(_run_lengths(starts[runs], ends[runs], len(flat)), size) for runs in chosen]


def _run_lengths(starts: Int64Array, ends: Int64Array, length: int) -> Int64Array:
    """Runs of 0 and 1 in turn, beginning with 0, from the places where the runs of 1 start and end."""
    edges: Int64Array = np.stack([starts, ends], 1).reshape(-1)
    if not len(edges) or edges[-1] < length:
        edges = np.append(edges, length)
    lengths: Int64Array = edges - np.concatenate([[0], edges[:-1]])
    return lengths


def compress(counts: Int64Array, size: tuple[int, int]) -> bytes:
    """Compressed counts from plain run lengths.

    Raises:
        ValueError: the run lengths do not fill the image.
    """
    check_counts(counts, size)
    return _counts(coco_mask.frPyObjects({"size": list(size), "counts": counts.tolist()}, *size))


def _counts(encoded: dict[str, bytes | str]) -> bytes:
    counts = encoded["counts"]
    return counts.encode() if isinstance(counts, str) else counts


def split_rings(points: FloatArray) -> list[FloatArray]:
    """The rings of an outline: (n, 2) points, cut at the rows of NaN."""
    cuts = np.flatnonzero(np.isnan(points[:, 0]))
    return [ring[~np.isnan(ring[:, 0])] for ring in np.split(points, cuts) if len(ring) > 1]


def join_rings(rings: list[npt.NDArray[np.float64]] | list[FloatArray]) -> FloatArray:
    """Rings (n, 2) as one array with a row of NaN between them."""
    gap = np.full((1, 2), np.nan, np.float32)
    parts = [part for ring in rings for part in (gap, np.asarray(ring, np.float32).reshape(-1, 2))]
    return np.concatenate(parts[1:]) if parts else np.zeros((0, 2), np.float32)


def polygon_rle(points: FloatArray, size: tuple[int, int]) -> bytes:
    """Compressed counts of an outline; rings are united, as in COCO, and pixels equal pycocotools'."""
    rings = [ring.astype(np.float64).ravel().tolist() for ring in split_rings(points)]
    return _counts(coco_mask.merge(coco_mask.frPyObjects(rings, *size)))
