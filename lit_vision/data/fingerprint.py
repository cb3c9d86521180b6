"""A number for the labels of a picture as they stand in its data set: equal labels, equal numbers, on any machine."""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from lit_vision.data.index import FILE, Index


def fingerprints(index: Index, positions: Iterable[int]) -> npt.NDArray[np.uint64]:
    """(N,) of the pictures at these positions; what transforms make of the labels later does not matter.

    Labels are numbers of classes: whoever compares has to compare the names of the classes, too.
    """
    return np.array([_fingerprint(index, i) for i in positions], np.uint64)


def _fingerprint(index: Index, i: int) -> int:
    span = index.span(i)
    digest = hashlib.blake2b(digest_size=8)
    for column in (index.labels, index.boxes, index.crowd):
        if column is not None:
            digest.update(np.ascontiguousarray(column[span]).tobytes())
    if index.segments is not None and index.segment_kinds is not None:
        for k in range(span.start, span.stop):
            segment = index.segments.raw(k)
            digest.update(_content(index, segment.decode()) if index.segment_kinds[k] == FILE else segment)
    for masks in (index.masks, index.class_masks):
        if masks is not None and masks.text(i):
            digest.update(_content(index, masks.text(i)))
    return int.from_bytes(digest.digest(), "little")


def _content(index: Index, name: str) -> bytes:
    return (index.root / name).read_bytes()
