"""What is said about files that cannot be used, and that whole ones are let through."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lit_vision.data.decode import check_file, read_image, read_label_map, read_mask, read_size
from lit_vision.errors import UserError

KINDS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]


def encoded(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_pass(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(kind))
    assert check_file(path) is None
    assert read_size(path) == (60, 80) == read_image(path).shape[:2]


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_cut_off_files_are_named(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(kind)
    path = tmp_path / "half.jpg"
    path.write_bytes(data[: max(20, int(len(data) * share))])
    problem = check_file(path)
    assert problem is not None
    assert problem.startswith(f"{path}: ")
    assert "\n" not in problem
    with pytest.raises(UserError, match=r"half\.jpg: "):
        read_image(path)


@pytest.mark.parametrize("lost", [1, 2, 3, 10, 100])
def test_jpegs_and_pngs_that_lost_their_last_bytes(tmp_path: Path, lost: int) -> None:
    for kind in ("JPEG", "PNG"):
        path = tmp_path / kind
        path.write_bytes(encoded(kind)[:-lost])
        problem = check_file(path)
        if problem is None:  # nothing of the picture itself is lost
            np.testing.assert_array_equal(read_image(path), pixels_of(encoded(kind), tmp_path))
            assert lost <= 12
        else:
            assert "cut off or damaged; replace it" in problem


def pixels_of(data: bytes, folder: Path) -> np.ndarray:
    (folder / "whole").write_bytes(data)
    return read_image(folder / "whole")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_bytes_behind_the_end_do_no_harm(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(kind) + b"maker's note" * 20)
    assert check_file(path) is None
    np.testing.assert_array_equal(read_image(path), pixels_of(encoded(kind), tmp_path))


def test_a_damaged_middle_is_found_when_read(tmp_path: Path) -> None:
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 0x55
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png: the file is cut off or damaged"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b"just a note, not a picture", "its content is not JPEG, PNG, TIFF, WebP, BMP or GIF"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "its content is not JPEG"),
        (b"\xff\xd8\xff\xe0", "the header is damaged or cut off"),
        (b"II*\0\x08\0\0\0", "TIFF header is damaged"),
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "note.jpg"
    path.write_bytes(content)
    assert sentence in str(check_file(path))
    for read in (read_image, read_size):
        with pytest.raises(UserError, match=sentence):
            read(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert "gone.png: there is no such file" in str(check_file(tmp_path / "gone.png"))
    assert f"{tmp_path}: is a folder" in str(check_file(tmp_path))
    for read in (read_image, read_size, read_mask, read_label_map):
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / "gone.png")
        with pytest.raises(UserError, match="is a folder"):
            read(tmp_path)


def test_a_tiff_whose_strips_lie_behind_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 7), np.uint16), photometric="minisblack", planarconfig="contig")
    assert check_file(path) is None
    path.write_bytes(path.read_bytes()[:-1])
    assert "a.tif: the file is cut off" in str(check_file(path))
    with pytest.raises(UserError, match="the file is cut off"):
        read_image(path, 7)
