"""Decoded training pictures kept in memory: only a cache, so what a sample shows never depends on it."""

import mmap
import multiprocessing
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from lit_vision.types import Int64Array, UInt8Array

RECENT_BYTES = 2**28  # of a worker, for the pictures of the batch that it is making
RECENT_PICTURES = 32  # or those of a whole batch, where it has more

Decoded: TypeAlias = tuple[UInt8Array, int]  # pixels (H, W, C), and pixels of the original to one of these
Read: TypeAlias = Callable[[int], Decoded]


class RecentPictures:
    """The pictures that were used last, up to a number of them and of bytes.

    Kept from one batch to the next, since a picture that takes the place of another needs no new memory: what the
    system has to hand out afresh costs as much as half of the decoding.

    Args:
        limit: bytes.
        most: pictures.
    """

    def __init__(self, limit: int = RECENT_BYTES, most: int = RECENT_PICTURES) -> None:
        self.limit, self.most, self.used = limit, most, 0
        self._kept: OrderedDict[int, Decoded] = OrderedDict()

    def get(self, position: int, read: Read) -> Decoded:
        """The picture at a position, not to be written to; read where it is not kept."""
        if position in self._kept:
            self._kept.move_to_end(position)
            return self._kept[position]
        if len(self._kept) >= self.most:  # first, so that its memory is free
            self._drop()
        decoded = read(position)
        self._kept[position] = decoded
        self.used += decoded[0].nbytes
        while self.used > self.limit or len(self._kept) > self.most:
            self._drop()
        return decoded

    def _drop(self) -> None:
        self.used -= self._kept.popitem(last=False)[1][0].nbytes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "used": 0, "_kept": OrderedDict()}


class SharedPictures:
    """Pictures that stay for the whole run, each at its own place, filled by whichever process decodes one first.

    Forked workers and their parent share the memory, which the system hands out as it is filled. Where workers are
    started afresh (macOS, Windows), each has memory of its own, of the limit divided by their number.

    Args:
        shapes: (N, 3) expected height, width and channels of the decoded pictures, in order of position; zeros where
            they are not known. The first ones that fit have a place.
        limit: bytes.
        workers: processes that will use it.
    """

    def __init__(self, shapes: Int64Array, limit: int, workers: int = 0) -> None:
        self.shapes, self.limit, self.workers = shapes, limit, workers
        self._ends = np.cumsum(shapes.prod(axis=1))
        self._open()

    def _open(self) -> None:
        self._count = int(np.searchsorted(self._ends, self.limit, side="right"))
        size = int(self._ends[self._count - 1]) if self._count else 0
        # Not multiprocessing's shared memory: a container's /dev/shm often has 64 MiB.
        self._memory = np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8)
        self._factors = np.frombuffer(mmap.mmap(-1, max(1, self._count)), np.uint8)  # 0: not filled yet
        self._lock = multiprocessing.Lock()

    @property
    def holds_all(self) -> bool:
        """Whether every picture has a place."""
        return self._count == len(self.shapes) and bool(self.shapes.all())

    def get(self, position: int, read: Read) -> Decoded:
        """The picture at a position, not to be written to; read where it is not kept."""
        shape = self.shapes[position]
        if position >= self._count or not shape.all():
            return read(position)
        end = int(self._ends[position])
        place = self._memory[end - int(shape.prod()) : end].reshape(tuple(shape))
        with self._lock:  # also keeps a processor from seeing the factor before the pixels
            factor = int(self._factors[position])
        if factor:
            return place, factor
        pixels, factor = read(position)
        if pixels.shape == place.shape:  # else the file is not what the index says
            place[:] = pixels  # two processes may do this at once: they write the same
            with self._lock:
                self._factors[position] = factor
        return pixels, factor

    def __getstate__(self) -> dict[str, Any]:
        return {"shapes": self.shapes, "limit": self.limit // max(1, self.workers), "workers": 1, "_ends": self._ends}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
