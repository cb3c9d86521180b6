"""Every kind of file against arrays known in advance, or against Pillow's own conversion."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from lit_vision.data.decode import read_image, read_reduced, read_size
from lit_vision.errors import UserError

# 3 rows, 4 columns, all pixels different: any wrong turn shows
PIXELS = (
    np.stack([np.arange(12), np.arange(12) * 20, 255 - np.arange(12) * 9], axis=1).astype(np.uint8).reshape(3, 4, 3)
)
# EXIF 2.32, tag 274: where row 0 and column 0 of the stored picture lie, undone by numpy
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.jpg"])
def test_exif_orientation_is_applied_in_every_format(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    big = np.kron(PIXELS, np.ones((8, 8, 1), np.uint8))  # whole JPEG blocks
    path = save(tmp_path / name, Image.fromarray(big), exif=exif, **({"lossless": True} if name == "a.webp" else {}))
    expected = UPRIGHT[orientation](big)
    pixels = read_image(path)
    assert read_size(path) == pixels.shape[:2] == expected.shape[:2]
    if name == "a.jpg":
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        assert np.abs(pixels.astype(int) - expected).max() <= 2
    else:
        np.testing.assert_array_equal(pixels, expected)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_orientation_of_deep_tiffs(tmp_path: Path, bands: int, orientation: int) -> None:
    stored = (np.arange(12 * bands).reshape(3, 4, bands) * 257).astype(np.uint16)
    path, photometric = tmp_path / "a.tif", "rgb" if bands == 3 else "minisblack"
    values = stored[:, :, 0] if bands == 1 else stored
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(
        path, values, photometric=photometric, planarconfig="contig" if bands > 1 else None, extratags=tags
    )
    expected = UPRIGHT[orientation](stored // 257)
    np.testing.assert_array_equal(read_image(path, bands), expected)
    assert read_size(path) == expected.shape[:2]


@pytest.mark.parametrize("behind", [True, False])
def test_exif_of_a_png_lies_before_or_behind_its_pixels(tmp_path: Path, behind: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS), exif=exif)
    if behind:
        whole = path.read_bytes()
        start = whole.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(whole[start : start + 4], "big")
        path.write_bytes(whole[:start] + whole[end:-12] + whole[start:end] + whole[-12:])
    height, width = PIXELS.shape[:2]
    assert read_size(path) == (width, height)
    np.testing.assert_array_equal(read_image(path), np.rot90(PIXELS, -1))


def test_a_png_is_not_decoded_for_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("decoded"))
    assert read_size(path) == PIXELS.shape[:2]
    np.testing.assert_array_equal(read_image(path), PIXELS)  # once, by OpenCV


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_stop_reading(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(path), PIXELS)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.tif", "ünï çødé 画像.png", "upper.JPG.PNG"])
def test_lossless_kinds_give_the_very_pixels(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, Image.fromarray(PIXELS), **({"lossless": True} if name == "a.webp" else {}))
    np.testing.assert_array_equal(read_image(path), PIXELS)


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(PIXELS), format="PNG")
    np.testing.assert_array_equal(read_image(path), PIXELS)


def test_jpeg_equals_pillow(tmp_path: Path) -> None:
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120))
    path = save(tmp_path / "a.jpg", Image.fromarray(smooth), quality=90)
    with Image.open(path) as image:
        assert np.abs(read_image(path).astype(int) - np.asarray(image)).max() <= 2  # two builds of libjpeg-turbo


def test_grey_is_repeated_and_colour_mixed(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    path = save(tmp_path / "g.png", Image.fromarray(grey))
    np.testing.assert_array_equal(read_image(path, 3), np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(read_image(path, 1), grey[:, :, None])
    color = save(tmp_path / "c.png", Image.fromarray(np.full((2, 2, 3), (200, 100, 50), np.uint8)))
    luma = read_image(color, 1)
    assert luma.shape == (2, 2, 1)
    assert (luma == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()


def test_opacity_is_dropped_unless_four_channels_are_asked(tmp_path: Path) -> None:
    rgba = np.dstack([PIXELS, np.arange(12, dtype=np.uint8).reshape(3, 4)])
    for name in ("a.png", "a.tif", "lzw.tif", "a.webp"):
        kinds = {"a.webp": {"lossless": True, "exact": True}, "lzw.tif": {"compression": "tiff_lzw"}}
        path = save(tmp_path / name, Image.fromarray(rgba), **kinds.get(name, {}))
        np.testing.assert_array_equal(read_image(path, 3), PIXELS)
        np.testing.assert_array_equal(read_image(path, 4), rgba)


def test_deep_opacity_is_dropped_before_stretching(tmp_path: Path) -> None:
    deep = np.dstack([PIXELS, np.arange(12, dtype=np.uint8).reshape(3, 4)]).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", extrasamples=["unassalpha"])
    assert cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(deep, cv2.COLOR_RGBA2BGRA))
    for name in ("a.tif", "a.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name, 3), PIXELS)
        np.testing.assert_array_equal(read_image(tmp_path / name, 4), deep // 257)


def test_grey_with_opacity(tmp_path: Path) -> None:
    values = np.dstack([np.arange(12).reshape(3, 4) * 20, np.full((3, 4), 7)]).astype(np.uint8)
    path = save(tmp_path / "la.png", Image.fromarray(values, "LA"))
    np.testing.assert_array_equal(read_image(path, 3), np.repeat(values[:, :, :1], 3, axis=2))
    np.testing.assert_array_equal(read_image(path, 1), values[:, :, :1])


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF"])
def test_palettes_become_their_colours(tmp_path: Path, kind: str, transparent: bool) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 255])
    options = {"transparency": 0} if transparent and kind in ("PNG", "GIF") else {}
    path = save(tmp_path / "p", image, format=kind, **options)
    expected = [[[10, 20, 30], [200, 0, 0]], [[0, 0, 255], [10, 20, 30]]]
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit_is_black_and_white(tmp_path: Path, kind: str) -> None:
    bits = np.array([[0, 1, 1], [1, 0, 0]], bool)
    path = save(tmp_path / "b", Image.fromarray(bits), format=kind)
    np.testing.assert_array_equal(read_image(path, 1)[:, :, 0], bits * 255)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_print_colours_as_pillow_converts_them(tmp_path: Path, kind: str) -> None:
    inks = np.kron(np.random.default_rng(1).integers(0, 256, (3, 4, 4), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    path = save(tmp_path / "k", Image.fromarray(inks, "CMYK"), format=kind)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)
    assert np.abs(expected[4::8, 4::8].astype(float) - print_to_rgb(inks[4::8, 4::8])).mean() < 6  # JPEG is lossy


def print_to_rgb(inks: np.ndarray) -> np.ndarray:
    """The textbook rule: R = (255 - C)(255 - K) / 255; shows that the inks are not inverted."""
    return (255.0 - inks[:, :, :3]) * (255.0 - inks[:, :, 3:]) / 255


def test_16_bits_are_divided_by_257(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257], [25700, 25829, 65406, 65535]], np.uint16)
    expected = np.array([[0, 0, 1, 1], [100, 101, 254, 255]])  # rounded: 128 / 257 = 0.498, 65406 / 257 = 254.498
    for name in ("a.png", "a.tif"):
        assert cv2.imwrite(str(tmp_path / name), values)
        np.testing.assert_array_equal(read_image(tmp_path / name, 1)[:, :, 0], expected)
    deep = PIXELS.astype(np.uint16) * 257
    assert cv2.imwrite(str(tmp_path / "rgb.png"), deep[:, :, ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.png"), PIXELS)
    tifffile.imwrite(tmp_path / "rgb.tif", deep, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.tif"), PIXELS)


def test_stretch_uses_the_pictures_own_range(tmp_path: Path) -> None:
    values = np.linspace(1000, 5000, 10001).round().astype(np.uint16).reshape(73, 137)
    values[0, 0], values[72, 136] = 0, 65535  # two outliers of 10001 lie beyond the percentiles
    assert cv2.imwrite(str(tmp_path / "a.png"), values)
    low, high = np.percentile(values, (0.1, 99.9))
    expected = np.rint(np.clip((values - low) * (255 / (high - low)), 0, 255))
    pixels = read_image(tmp_path / "a.png", 1, "stretch")[:, :, 0]
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert np.abs(np.diff(pixels.reshape(-1)[1:-1].astype(int))).max() <= 1
    assert read_image(tmp_path / "a.png", 1).max() == 255  # full: the outlier alone is white
    assert np.median(read_image(tmp_path / "a.png", 1)) == round(3000 / 257)


def test_stretch_leaves_8_bits_and_a_constant_picture_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    np.testing.assert_array_equal(read_image(path, 3, "stretch"), PIXELS)
    assert cv2.imwrite(str(tmp_path / "c.png"), np.full((4, 4), 500, np.uint16))
    assert (read_image(tmp_path / "c.png", 1, "stretch") == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_stretch_all_spreads_8_bits_as_16(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dark = np.clip(rng.normal(20, 6, (31, 40, 3)), 0, 255).astype(np.uint8)
    dark[0, 0] = 255  # among the 0.1 % that may saturate
    pixels = read_image(save(tmp_path / "d.png", Image.fromarray(dark)), 3, "stretch_all")
    tifffile.imwrite(tmp_path / "d.tif", dark.astype(np.uint16), photometric="rgb")
    np.testing.assert_array_equal(pixels, read_image(tmp_path / "d.tif", 3, "stretch"))
    assert (pixels.min(), pixels.max()) == (0, 255)
    save(tmp_path / "c.png", Image.fromarray(np.full((4, 4, 3), 9, np.uint8)))
    assert (read_image(tmp_path / "c.png", 3, "stretch_all") == 0).all()


def test_floats(tmp_path: Path) -> None:
    path = tmp_path / "f.tif"
    tifffile.imwrite(path, np.array([[0.0, 0.5, 1.0]], np.float32))
    assert read_image(path, 1)[0, :, 0].tolist() == [0, 128, 255]
    tifffile.imwrite(path, np.array([[np.nan, -7.0, 3.0]], np.float32))
    assert read_image(path, 1, "stretch")[0, :, 0].tolist() == [0, 0, 255]
    with pytest.raises(UserError, match=r"f\.tif: its float32 values run from nan.*depth: stretch"):
        read_image(path, 1)
    tifffile.imwrite(path, np.array([[0, 300]], np.int16))
    with pytest.raises(UserError, match=r"int16 values run from 0 to 300"):
        read_image(path, 1)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("layout", ["contig", "separate", "pages"])
@pytest.mark.parametrize("bands", [2, 4, 5, 13])
def test_many_bands(tmp_path: Path, bands: int, layout: str, compression: str | None) -> None:
    values = np.random.default_rng(bands).integers(0, 256, (6, 7, bands), dtype=np.uint8)
    path, first = tmp_path / "n.tif", np.moveaxis(values, 2, 0)
    if layout == "pages":
        with tifffile.TiffWriter(path) as writer:
            for band in first:
                writer.write(band, photometric="minisblack", compression=compression, metadata=None)
    else:
        stored = values if layout == "contig" else first
        tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=layout, compression=compression)
    np.testing.assert_array_equal(read_image(path, bands), values)
    assert read_size(path) == (6, 7)


def test_lzw_pages_need_no_further_package(tmp_path: Path) -> None:
    bands = [Image.fromarray(PIXELS[:, :, band]) for band in range(3)] + [Image.fromarray(PIXELS[:, :, 0])]
    path = save(tmp_path / "n.tif", bands[0], save_all=True, append_images=bands[1:], compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(path, 4), np.dstack([PIXELS, PIXELS[:, :, 0]]))


def test_white_is_zero_and_a_fourth_band_that_is_not_opacity(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    tifffile.imwrite(tmp_path / "w.tif", values, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "w.tif", 1)[:, :, 0], 255 - values)
    tifffile.imwrite(tmp_path / "w16.tif", values.astype(np.uint16) * 257, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "w16.tif", 1)[:, :, 0], 255 - values)
    infrared = np.dstack([PIXELS, values])
    tifffile.imwrite(tmp_path / "i.tif", infrared, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_image(tmp_path / "i.tif", 4), infrared)
    with pytest.raises(UserError, match=r"i\.tif: has 4 bands but in_channels is 3; set in_channels: 4"):
        read_image(tmp_path / "i.tif", 3)


@pytest.mark.parametrize(("bands", "channels"), [(5, 3), (3, 5), (1, 4), (3, 4), (2, 3)])
def test_other_numbers_of_bands_are_refused(tmp_path: Path, bands: int, channels: int) -> None:
    values = np.zeros((4, 4, bands), np.uint8)
    photometric = "rgb" if bands == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "n.tif", values, photometric=photometric, planarconfig="contig" if bands > 1 else None)
    with pytest.raises(UserError, match=rf"n\.tif: has {bands} bands but in_channels is {channels}; "):
        read_image(tmp_path / "n.tif", channels)


def test_a_broken_colour_profile_is_not_complained_about(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG", icc_profile=b"no profile")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    assert b"iCCP" in stream.getvalue()
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PIXELS)
    assert capfd.readouterr().err == ""


# --- at a fraction of the detail --------------------------------------------------------------------------------
@pytest.mark.parametrize(("most", "factor"), [(1.9, 1), (2, 2), (7.9, 4), (8, 8), (100, 8)])
def test_jpegs_are_decoded_at_a_fraction(tmp_path: Path, most: float, factor: int) -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (160, 240, 3), dtype=np.uint8), (0, 0), 5)
    cv2.imwrite(str(tmp_path / "a.jpg"), smooth, [cv2.IMWRITE_JPEG_QUALITY, 98])
    pixels, found = read_reduced(tmp_path / "a.jpg", 3, "full", most)
    assert (found, pixels.shape) == (factor, (160 // factor, 240 // factor, 3))
    means = read_image(tmp_path / "a.jpg").reshape(160 // factor, factor, 240 // factor, factor, 3).mean(axis=(1, 3))
    assert np.abs(pixels - means).max() < 5


def test_a_turned_jpeg_is_turned_also_at_a_fraction(tmp_path: Path) -> None:
    stored = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8), (240, 160))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.jpg", quality=98, exif=exif)
    pixels, factor = read_reduced(tmp_path / "a.jpg", 3, "full", 4)
    assert (pixels.shape, factor) == ((60, 40, 3), 4)
    whole = cv2.resize(read_image(tmp_path / "a.jpg"), (40, 60), interpolation=cv2.INTER_AREA)
    assert np.abs(pixels.astype(int) - whole).max() < 8


def test_what_cannot_be_decoded_at_a_fraction_is_decoded_whole(tmp_path: Path) -> None:
    """Sides that do not divide, grey pictures, other channels, other kinds of file."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "odd.jpg"), picture[:63])
    cv2.imwrite(str(tmp_path / "grey.jpg"), picture[:, :, 0])
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    cv2.imwrite(str(tmp_path / "a.jpg"), picture)
    for name, channels in {"odd.jpg": 3, "grey.jpg": 3, "a.png": 3, "a.jpg": 1}.items():
        pixels, factor = read_reduced(tmp_path / name, channels, "full", 8)
        assert factor == 1
        np.testing.assert_array_equal(pixels, read_image(tmp_path / name, channels))
