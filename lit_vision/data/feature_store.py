"""Features of pictures on disk: rows that count only as long as they are whole and their picture's file is the same."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lit_vision.types import BoolArray, Int64Array

UInt64Array: TypeAlias = npt.NDArray[np.uint64]
Rows: TypeAlias = npt.NDArray[Any]  # (N,) of a structured type
TAG = 8  # bytes
ZEROS = bytes(1 << 20)


class FeatureStore:
    """N rows of one type in a file, each behind a tag.

    A row's tag is a hash of its picture's file and of the row itself. So a row that a kill or a crash has left half
    written, one that was damaged, and one whose picture has changed since are all missing. Processes of one machine
    may share the file: each writes rows of its own, and sees what the others have written.

    Args:
        path: the file; `reserve` has made it.
        rows: N.
        kind: structured type of a row.
    """

    def __init__(self, path: Path, rows: int, kind: np.dtype[Any]) -> None:
        self.path, self.kind = path, kind
        self._file = path.open("r+b", buffering=0)
        self._tags = np.memmap(path, np.uint64, "r", 0, (rows,))
        self._rows = np.memmap(path, kind, "r", rows * TAG, (rows,))
        self._proved = np.zeros(rows, np.uint64)  # hash of the file for which this process has found the row right

    def missing(self, positions: Int64Array, hashes: UInt64Array) -> tuple[BoolArray, int]:
        """Which rows have to be computed, and how many of them were there for another content of their files.

        Args:
            positions: rows that are asked for.
            hashes: of their pictures' files as they are now, see `FileHashes`; 0 where there is none.
        """
        tagged = np.asarray(self._tags[positions]) != 0
        unproved = np.flatnonzero(tagged & ((self._proved[positions] != hashes) | (hashes == 0)))
        right = tagged.copy()
        right[unproved] = False
        for k in unproved.tolist():
            row = int(positions[k])
            right[k] = hashes[k] != 0 and int(self._tags[row]) == tag_of(int(hashes[k]), self._rows[row].tobytes())
        self._proved[positions[right]] = hashes[right]
        return ~right, int((tagged & ~right).sum())

    def write(self, positions: Iterable[int], rows: Rows, hashes: Iterable[int]) -> None:
        """Puts rows, then their tags.

        Raises:
            OSError: the disk is full or broken; the tags of what was not written do not fit it.
        """
        for position, row, content in zip(positions, rows, hashes, strict=True):
            data = row.tobytes()
            _write_all(self._file.fileno(), data, len(self._tags) * TAG + position * self.kind.itemsize)
            _write_all(self._file.fileno(), tag_of(content, data).to_bytes(TAG, "little"), position * TAG)
            self._proved[position] = content

    def read(self, positions: Int64Array) -> Rows:
        """A copy of these rows."""
        return np.asarray(self._rows[positions])


def _write_all(file: int, data: bytes, offset: int) -> None:
    # Through the file and not through the map: where space is short after all (a file system that copies on write,
    # a quota), this is an error and not a SIGBUS.
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def reserve(path: Path, rows: int, kind: np.dtype[Any]) -> None:
    """Makes a file of N rows without any that count, with all its space; a whole one that is there stays.

    Raises:
        OSError: there is not enough space; nothing is left behind.
    """
    size = rows * (TAG + kind.itemsize)
    if path.is_file() and path.stat().st_size == size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    try:
        with new.open("wb") as file:
            _allocate(file.fileno(), size)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _allocate(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    for start in range(0, size, len(ZEROS)):  # macOS has no such call
        _write_all(file, ZEROS[: size - start], start)


def space_needed(folder: Path, rows: int, kind: np.dtype[Any]) -> str:
    """For a sentence about a full disk: "needs 12.0 MiB, but 3.1 MiB are free in <folder>"."""
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    needed = rows * (TAG + kind.itemsize)
    return f"needs {needed / 2**20:.1f} MiB, but {free / 2**20:.1f} MiB are free in {folder}"


class FileHashes:
    """Hashes of the contents of some files; one is read again only when its size or time of change is another.

    Args:
        path_of: position -> path.
        count: number of files.
    """

    def __init__(self, path_of: Callable[[int], Path], count: int) -> None:
        self.path_of = path_of
        self._stamps = np.zeros((count, 2), np.int64)
        self._hashes = np.zeros(count, np.uint64)

    def of(self, positions: Int64Array) -> UInt64Array:
        """Hashes of these files, 0 where one cannot be read."""
        stamps = np.array([self._stamp(p) for p in positions.tolist()], np.int64).reshape(-1, 2)
        changed = (stamps != self._stamps[positions]).any(1)
        again: list[int] = positions[changed].tolist()
        with ThreadPoolExecutor(8) as readers:  # reading and hashing leave the interpreter to others
            found = list(readers.map(lambda p: content_hash(self.path_of(p)), again))
        self._hashes[again] = found
        self._stamps[again] = stamps[changed]  # as it was before the file was read
        return self._hashes[positions]

    def _stamp(self, position: int) -> tuple[int, int]:
        try:
            found = os.stat(self.path_of(position))
        except OSError:
            return -1, -1
        return found.st_size, found.st_mtime_ns


def content_hash(path: Path) -> int:
    """64 bits of a file's contents, never 0; 0 where it cannot be read."""
    try:
        return _hash(path.read_bytes())
    except OSError:
        return 0


def tag_of(content: int, row: bytes) -> int:
    """64 bits, never 0, of a row and the hash of its picture's file."""
    return _hash(content.to_bytes(TAG, "little"), row)


def _hash(*parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=TAG)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little") or 1


def discard(folder: Path, pattern: str, kept: Sequence[str] = ()) -> None:
    """Deletes the files of a folder that match and are not kept, and the folder once it is empty."""
    for path in folder.glob(pattern):
        if path.name not in kept:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, it is not empty, or a link to another disk
        folder.rmdir()
