"""Rows that count only as long as they are whole and their picture's file is the same."""

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lit_vision.data import feature_store
from lit_vision.data.feature_store import (
    TAG,
    FeatureStore,
    FileHashes,
    content_hash,
    discard,
    reserve,
    space_needed,
    tag_of,
)

ROWS = 6
KIND = np.dtype([("features", "<f4", (5,)), ("size", "<i8", (2,))])  # 36 bytes
ALL = np.arange(ROWS)


@pytest.fixture
def files(tmp_path: Path) -> FileHashes:
    """Six files of one byte."""
    for k in range(ROWS):
        (tmp_path / f"{k}.jpg").write_bytes(bytes([k]))
    return FileHashes(lambda k: tmp_path / f"{k}.jpg", ROWS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "features" / "train-0-0-key.features"
    reserve(path, ROWS, KIND)
    return path


def rows(count: int = ROWS) -> np.ndarray:
    made = np.zeros(count, KIND)
    made["features"] = np.arange(count * 5).reshape(count, 5)
    made["size"] = np.arange(count * 2).reshape(count, 2)
    return made


def filled(path: Path, files: FileHashes, positions: list[int] | None = None) -> FeatureStore:
    store = FeatureStore(path, ROWS, KIND)
    chosen = list(range(ROWS)) if positions is None else positions
    store.write(chosen, rows()[chosen], files.of(np.array(chosen)).tolist())
    return store


def missing(store: FeatureStore, files: FileHashes) -> tuple[list[int], int]:
    flags, changed = store.missing(ALL, files.of(ALL))
    return ALL[flags].tolist(), changed


# --- rows -------------------------------------------------------------------------------------------------------
def test_what_is_written_is_read_by_another_process_too(path: Path, files: FileHashes) -> None:
    here, there = filled(path, files, [4, 1]), FeatureStore(path, ROWS, KIND)
    for store in (here, there):
        assert missing(store, files) == ([0, 2, 3, 5], 0)
        assert (store.read(np.array([1, 4])) == rows()[[1, 4]]).all()
    assert path.stat().st_size == ROWS * (TAG + 36)
    here.write([0], rows()[:1], [int(files.of(np.array([0]))[0])])
    assert missing(there, files) == ([2, 3, 5], 0)  # which had been opened before


def test_a_row_without_its_tag_is_missing(path: Path, files: FileHashes, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(Exception):
        """Instead of a signal."""

    write, count = os.pwrite, 0

    def killed(file: int, data: bytes, offset: int) -> int:
        nonlocal count
        count += 1
        if count == 6:  # the third row is there, but for its tag
            raise KilledError
        return write(file, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(feature_store.os, "pwrite", killed)
        with pytest.raises(KilledError):
            filled(path, files)
    store = FeatureStore(path, ROWS, KIND)
    assert (store.read(np.array([2])) == rows()[2:3]).all()
    assert missing(store, files) == ([2, 3, 4, 5], 0)


@pytest.mark.parametrize("place", [ROWS * TAG + 3 * 36, ROWS * TAG + 4 * 36 - 1, 3 * TAG])
def test_a_damaged_row_is_missing(place: int, path: Path, files: FileHashes) -> None:
    filled(path, files)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert missing(FeatureStore(path, ROWS, KIND), files) == ([3], 1)


def test_rows_of_changed_files_are_missing(path: Path, files: FileHashes) -> None:
    store = filled(path, files)
    assert missing(store, files) == ([], 0)
    files.path_of(1).write_bytes(b"other")
    files.path_of(4).unlink()
    assert missing(store, files) == ([1, 4], 2)
    files.path_of(1).write_bytes(b"\x01")  # as it was
    assert missing(store, files) == ([4], 1)


def test_a_tag_of_the_row_alone_would_let_changed_files_pass(
    path: Path, files: FileHashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "tag_of", lambda content, row: tag_of(1, row))
    filled(path, files)
    files.path_of(1).write_bytes(b"other")
    assert missing(FeatureStore(path, ROWS, KIND), files) == ([], 0)


def test_hashes_are_of_contents() -> None:
    assert tag_of(1, b"row") != tag_of(2, b"row")
    assert tag_of(1, b"row") != tag_of(1, b"Row")
    assert content_hash(Path("/nowhere")) == 0


def test_a_file_is_read_again_only_when_it_looks_changed(files: FileHashes, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(feature_store, "content_hash", lambda path: read.append(path) or content_hash(path))
    first = files.of(ALL)
    assert len(read) == ROWS
    assert first.tolist() == [content_hash(files.path_of(k)) for k in range(ROWS)]
    assert (files.of(ALL) == first).all()
    assert len(read) == ROWS
    os.utime(files.path_of(2), ns=(1, 1))  # the same contents
    assert (files.of(ALL) == first).all()
    assert read[ROWS:] == [files.path_of(2)]


# --- space ------------------------------------------------------------------------------------------------------
def test_a_whole_file_is_kept_and_one_of_another_size_is_not(path: Path, files: FileHashes) -> None:
    filled(path, files)
    reserve(path, ROWS, KIND)
    assert missing(FeatureStore(path, ROWS, KIND), files) == ([], 0)
    path.write_bytes(path.read_bytes()[:-1])
    reserve(path, ROWS, KIND)
    assert missing(FeatureStore(path, ROWS, KIND), files) == (list(range(ROWS)), 0)


def test_space_is_taken_before_it_is_used(path: Path) -> None:
    assert path.stat().st_blocks * 512 >= ROWS * (TAG + 36)
    path.with_name("sparse").touch()
    os.truncate(path.with_name("sparse"), 1 << 20)  # the control: a file that is only long
    assert path.with_name("sparse").stat().st_blocks == 0


def test_a_disk_without_space(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        reserve(small / "fits", 1000, KIND)  # 44 kB
        with pytest.raises(OSError, match="No space left") as error:
            reserve(small / "more", 1000, KIND)
        assert error.value.errno == errno.ENOSPC
        assert [one.name for one in small.iterdir()] == ["fits"]
        assert space_needed(small, 50_000, KIND) == f"needs 2.1 MiB, but 0.0 MiB are free in {small}"
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_only_other_files_are_discarded(path: Path) -> None:
    for name in ("train-1-0-key.features", "train-0-0-old.features", "val-0-0-old.features", "train-0-1-old.features"):
        (path.parent / name).touch()
    discard(path.parent, "train-*-0-*", kept=(path.name, "train-1-0-key.features"))
    names = {one.name for one in path.parent.iterdir()}
    assert names == {path.name, "train-1-0-key.features", "val-0-0-old.features", "train-0-1-old.features"}
    discard(path.parent, "*")
    assert not path.parent.exists()
    discard(path.parent, "*")  # nothing is there
