"""Arrays of several bands as the usual programs save them, and numbers that stay numbers."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from lit_vision.data.decode import check_file, read_image, read_label_map, read_mask, read_size
from lit_vision.errors import UserError

FIVE = np.random.default_rng(0).integers(0, 256, (12, 7, 5), dtype=np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"tile": (16, 16)},
        {"rowsperstrip": 1},
        {"metadata": {"axes": "YXC"}},
        {"metadata": {"axes": "YXS"}},
        {"metadata": {"scanner": "A"}},
        {"metadata": None, "description": '{"axes": "YXC", "shape": [12, 7, 5]}'},  # as tifffile wrote it before 2026
        {"photometric": "minisblack", "planarconfig": "contig"},
    ],
    ids=str,
)
def test_tifffile_gives_back_the_array_that_it_was_given(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "five.tif"
    tifffile.imwrite(path, FIVE, **options)
    np.testing.assert_array_equal(read_image(path, 5), FIVE)
    assert read_size(path) == (12, 7)
    assert check_file(path) is None


def test_bands_that_are_rows_of_pages_were_pages_before(tmp_path: Path) -> None:
    """The negative control: read page by page, the file's pictures are not those of the array."""
    tifffile.imwrite(tmp_path / "five.tif", FIVE)
    with tifffile.TiffFile(tmp_path / "five.tif") as tiff:
        assert len(tiff.pages) == 12
        assert tiff.pages[0].shape == (7, 5)
    with pytest.raises(UserError, match=r"five\.tif: has 5 bands but in_channels is 12; set in_channels: 5"):
        read_image(tmp_path / "five.tif", 12)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.bool_])
@pytest.mark.parametrize("bands", [2, 5, 11])
def test_every_depth(dtype: type, bands: int, tmp_path: Path) -> None:
    values = np.random.default_rng(bands).integers(0, 256, (12, 13, bands), dtype=np.uint8)
    expected = np.where(values > 127, 0, 255) if dtype is np.bool_ else values  # tifffile: bilevel, white is zero
    saved = {
        np.uint8: values,
        np.uint16: values.astype(np.uint16) * 257,
        np.float32: values.astype(np.float32) / 255,
        np.bool_: values > 127,
    }
    tifffile.imwrite(tmp_path / "n.tif", saved[dtype])
    np.testing.assert_array_equal(read_image(tmp_path / "n.tif", bands), expected)


def test_bands_before_rows_stay_bands(tmp_path: Path) -> None:
    first = np.ascontiguousarray(np.moveaxis(FIVE, 2, 0))
    for name, options in (("plain", {}), ("axes", {"metadata": {"axes": "CYX"}}), ("ome", {"ome": True})):
        tifffile.imwrite(tmp_path / f"{name}.tif", first, **options)
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.tif", 5), FIVE)
    wide = np.zeros((20, 6, 7), np.uint8)  # 20 bands of 6 x 7: more than columns, so that only axes can say it
    tifffile.imwrite(tmp_path / "wide.tif", wide, metadata={"axes": "CYX"})
    assert read_image(tmp_path / "wide.tif", 20).shape == (6, 7, 20)
    tifffile.imwrite(tmp_path / "one.tif", FIVE[None])
    np.testing.assert_array_equal(read_image(tmp_path / "one.tif", 5), FIVE)


def test_pages_of_other_programs_are_bands_however_narrow(tmp_path: Path) -> None:
    narrow = np.random.default_rng(1).integers(0, 256, (6, 4, 9), dtype=np.uint8)  # more pages than columns
    pages = [np.ascontiguousarray(narrow[:, :, band]) for band in range(9)]
    assert cv2.imwritemulti(str(tmp_path / "opencv.tif"), pages)
    images = [Image.fromarray(page) for page in pages]
    images[0].save(tmp_path / "pillow.tif", save_all=True, append_images=images[1:])
    with tifffile.TiffWriter(tmp_path / "each.tif") as writer:
        for page in pages:
            writer.write(page)
    for name in ("opencv.tif", "pillow.tif", "each.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name, 9), narrow)
    for channels in (3, 4):
        deep = narrow[:, :, :channels].astype(np.uint16) * 257
        assert cv2.imwrite(str(tmp_path / "deep.tif"), np.ascontiguousarray(deep[:, :, [2, 1, 0, 3][:channels]]))
        np.testing.assert_array_equal(read_image(tmp_path / "deep.tif", channels), narrow[:, :, :channels])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_cut_off_files_are_found_before_training(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "five.tif"
    values = np.random.default_rng(0).integers(0, 256, (64, 48, 5), dtype=np.uint8)
    tifffile.imwrite(path, values, compression=compression)
    whole = path.read_bytes()
    for share in (0.99, 0.7, 0.3) if compression else (0.4, 0.2):  # behind uncompressed pixels come headers only
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "five.tif" in (check_file(path) or "")
        with pytest.raises(UserError, match=r"five\.tif"):
            read_image(path, 5)


def test_numbers_of_one_bit_are_0_and_1(tmp_path: Path) -> None:
    inside = np.zeros((5, 9), np.bool_)
    inside[1:3, 2:6] = True
    tifffile.imwrite(tmp_path / "tifffile.tif", inside)
    Image.fromarray(inside).save(tmp_path / "pillow.tif")
    Image.fromarray(inside).save(tmp_path / "group4.tif", compression="group4")
    with tifffile.TiffFile(tmp_path / "tifffile.tif") as tiff:
        assert int(tiff.pages[0].photometric) == 0  # white is zero: as a picture, the object is black
    assert read_image(tmp_path / "tifffile.tif", 1)[1, 2, 0] == 0
    for name in ("tifffile.tif", "pillow.tif", "group4.tif"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), inside)
        np.testing.assert_array_equal(read_label_map(tmp_path / name), inside)
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(tmp_path / "white.tif", inside.astype(dtype) * 3, photometric="miniswhite")
        np.testing.assert_array_equal(read_mask(tmp_path / "white.tif"), inside * 3)
