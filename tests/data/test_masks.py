"""Numbers in files come back as they were written."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from lit_vision.data.decode import read_label_map, read_mask
from lit_vision.errors import UserError

CLASSES = np.array([[0, 1, 2], [255, 7, 254]], np.uint8)


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.bmp"])
def test_grey_values_are_classes(tmp_path: Path, name: str) -> None:
    Image.fromarray(CLASSES).save(tmp_path / name)
    mask = read_mask(tmp_path / name)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, CLASSES)


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.gif"])
def test_palette_indices_are_classes_whatever_their_colours(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([9, 9, 9, 200, 0, 0, 9, 9, 9])  # classes 0 and 2 share a colour
    image.save(tmp_path / name, **({"optimize": False} if name == "m.gif" else {}))
    if name != "m.gif":  # Pillow's GIF writer merges equal colours itself
        assert read_mask(tmp_path / name).tolist() == [[0, 1], [2, 1]]
    assert read_mask(tmp_path / name).shape == (2, 2)


@pytest.mark.parametrize(("bits", "expansion"), [(1, 255), (2, 85), (4, 17)])
def test_few_bits_give_the_stored_number(tmp_path: Path, bits: int, expansion: int) -> None:
    stored = np.arange(8, dtype=np.uint8).reshape(1, 8) % 2**bits
    options = [cv2.IMWRITE_PNG_BILEVEL, 1] if bits == 1 else []
    if bits == 1:
        assert cv2.imwrite(str(tmp_path / "m.png"), stored * expansion, options)
    else:
        write_png(tmp_path / "m.png", stored, bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), stored)


def write_png(path: Path, values: np.ndarray, bits: int) -> None:
    """Grey PNG of few bits, put together by hand (PNG specification, sections 5 and 7)."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    rows = [b"\0" + np.packbits(((row[:, None] >> np.arange(bits)[::-1]) & 1).reshape(-1)).tobytes() for row in values]
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"".join(rows))), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_colours_become_rows(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [128, 64, 32], [255, 255, 255]], np.uint8)
    rows = np.array([[0, 1, 2], [2, 1, 0]])
    Image.fromarray(colors[rows]).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", colors), rows)
    with pytest.raises(UserError, match=r"m\.png: 2 pixels .* first \(255, 255, 255\) at row 0, column 2"):
        read_mask(tmp_path / "m.png", colors[:2])
    with pytest.raises(UserError, match=r"m\.png: is a colour picture, not class indices; give `colors`"):
        read_mask(tmp_path / "m.png")


def test_grey_colours_count_in_grey_pictures_and_not_in_palettes(tmp_path: Path) -> None:
    black_and_white = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    rows = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    for name, image in (
        ("grey.png", Image.fromarray(rows * 255)),
        ("grey.tif", Image.fromarray(rows * 255)),
        ("bits.png", Image.fromarray(rows > 0)),
        ("bits.tif", Image.fromarray(rows > 0)),
        ("rgb.png", Image.fromarray(black_and_white[rows])),
        ("palette.png", Image.fromarray(rows, "P")),
        ("palette.tif", Image.fromarray(rows, "P")),
    ):
        if image.mode == "P":
            image.putpalette([9, 9, 9, 200, 0, 0])
        image.save(tmp_path / name)
        np.testing.assert_array_equal(read_mask(tmp_path / name, black_and_white), rows, name)
    assert cv2.imwrite(str(tmp_path / "16.png"), rows.astype(np.uint16) * 255)
    np.testing.assert_array_equal(read_mask(tmp_path / "16.png", black_and_white), rows)
    write_png(tmp_path / "2.png", rows * 3, 2)
    np.testing.assert_array_equal(read_mask(tmp_path / "2.png", black_and_white), rows)
    # Beside colours a grey picture holds numbers, and numbers are no shades.
    np.testing.assert_array_equal(
        read_mask(tmp_path / "grey.png", np.array([[0, 0, 0], [255, 0, 0]], np.uint8)), rows * 255
    )
    Image.fromarray(rows).save(tmp_path / "numbers.png")
    with pytest.raises(
        UserError, match=r"3 pixels .* first \(1, 1, 1\) .*; add it to `colors`, or leave `colors` out where the values"
    ):
        read_mask(tmp_path / "numbers.png", black_and_white)


def test_of_equal_colours_the_first_row_counts(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2, 3), 9, np.uint8)).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png", np.full((3, 3), 9, np.uint8)) == 0).all()


def test_16_bit_classes_must_fit(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "m.png"), CLASSES.astype(np.uint16))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), CLASSES)
    assert cv2.imwrite(str(tmp_path / "m.png"), np.array([[0, 256]], np.uint16))
    with pytest.raises(UserError, match=r"m\.png: its values run from 0 to 256; a class mask holds 0\.\.254"):
        read_mask(tmp_path / "m.png")


def test_jpeg_masks_are_refused(tmp_path: Path) -> None:
    Image.fromarray(CLASSES).save(tmp_path / "m.png", "JPEG")  # the name does not hide it
    for read in (read_mask, read_label_map):
        with pytest.raises(UserError, match=r"m\.png: JPEG smears .* save masks as PNG"):
            read(tmp_path / "m.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.float32])
def test_label_maps_of_every_depth(tmp_path: Path, dtype: type) -> None:
    highest = {np.uint8: 255, np.uint16: 65535, np.float32: 2**24}.get(dtype, 2**31 - 1)
    values = np.array([[0, 1, highest]], np.int64)
    tifffile.imwrite(tmp_path / "m.tif", values.astype(dtype))
    labels = read_label_map(tmp_path / "m.tif")
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, values)
    if dtype in (np.uint8, np.uint16):
        assert cv2.imwrite(str(tmp_path / "m.png"), values.astype(dtype))
        np.testing.assert_array_equal(read_label_map(tmp_path / "m.png"), values)


@pytest.mark.parametrize("read", [read_mask, read_label_map])
def test_stacks_of_pages(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, np.zeros((5, 6, 7), np.uint16), photometric="minisblack")
    with pytest.raises(UserError, match=r"m\.tif: holds 5 bands or pages; save each page as a file of its own"):
        read(path)
    tifffile.imwrite(path, np.zeros((3, 6, 7), np.uint16), photometric="minisblack")
    with pytest.raises(UserError, match=r"m\.tif: holds 3 bands or pages of uint16, and colours are 8-bit"):
        read(path)


def test_broken_label_maps(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    for values in (np.array([[0.5]], np.float32), np.array([[-1]], np.int32), np.array([[2**31]], np.uint32)):
        tifffile.imwrite(path, values)
        with pytest.raises(UserError, match=r"m\.tif: its values run from .* whole numbers from 0"):
            read_label_map(path)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"rgb\.png: is a colour picture, not object numbers"):
        read_label_map(tmp_path / "rgb.png")
