"""Pictures whose pixels are numbers: class masks and label maps. Never turned, never scaled, never smoothed."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lit_vision.data.image_file import decode_with_pillow, file_kind, read_bytes, require_whole
from lit_vision.data.tiff import read_tiff_header, read_tiff_indices
from lit_vision.errors import UserError
from lit_vision.types import Int32Array, UInt8Array

_PNG_GREY = 0  # colour type in a PNG's header, next to the bit depth
_FEW_BITS = {2: 85, 4: 17}  # what a PNG's 2- and 4-bit grey values are multiplied by when expanded to 8 bits


def read_mask(path: Path, colors: UInt8Array | None = None) -> UInt8Array:
    """Class of every pixel.

    A palette file gives its palette index, a grey one its stored value (0 and 1 for one bit).

    Args:
        path: PNG, or any other kind that keeps every value.
        colors: (K, 3) uint8 RGB; a colour picture's pixels become the row of their colour, and a grey one's too where
            all colours are grey. Ignored for palette files, and where a colour is not grey for grey ones.

    Returns:
        (H, W) uint8; 255 = ignore.

    Raises:
        UserError: not readable, JPEG, an index above 255, or a colour or shade that is not in `colors`.
    """
    values, brightness = _read_numbers(path)
    if values.ndim == 3:
        _refuse_stack(values, path)
        if colors is None:
            raise UserError(f"{path}: is a colour picture, not class indices; give `colors`, one RGB colour per class")
        return _rows_of_colors(values[:, :, :3], colors, path, "add the colour to `colors` or mend the mask")
    if values.dtype != np.uint8:
        values = _within(values, 255, path, "a class mask holds 0..254 and 255 = ignore").astype(np.uint8)
    if colors is None or not brightness or not all_grey(colors):
        return values
    shades = np.broadcast_to((values * np.uint8(brightness))[:, :, None], (*values.shape, 3))
    mend = "add it to `colors`, or leave `colors` out where the values are class numbers"
    return _rows_of_colors(shades, colors, path, mend)


def all_grey(colors: UInt8Array) -> bool:
    """Whether each of the colours (K, 3) is a shade of grey: red, green and blue are equal."""
    return bool((colors == colors[:, :1]).all())


def read_label_map(path: Path) -> Int32Array:
    """Object number of every pixel (H, W) int32, 0 = background, from an 8-, 16- or 32-bit file.

    Raises:
        UserError: not readable, JPEG, a colour picture, negative or broken numbers.
    """
    values, _ = _read_numbers(path)
    if values.ndim == 3:
        _refuse_stack(values, path)
        raise UserError(f"{path}: is a colour picture, not object numbers; save it as 16-bit grey PNG or TIFF")
    return _within(values, 2**31 - 1, path, "a label map holds whole numbers from 0").astype(np.int32)


def _refuse_stack(values: npt.NDArray[Any], path: Path) -> None:
    if values.shape[2] not in (3, 4):
        raise UserError(f"{path}: holds {values.shape[2]} bands or pages; save each page as a file of its own")
    if values.dtype != np.uint8:
        raise UserError(f"{path}: holds {values.shape[2]} bands or pages of {values.dtype}, and colours are 8-bit")


def _read_numbers(path: Path) -> tuple[npt.NDArray[Any], int]:
    """(H, W) stored numbers or (H, W, C) colours, and the brightness of the number 1 in 8 bits: 0 with a palette."""
    data = read_bytes(path)
    kind = file_kind(data[:64], path)
    if kind == "jpeg":
        raise UserError(f"{path}: JPEG smears class and object numbers where they meet; save masks as PNG")
    require_whole(data, kind, path)
    brightness = 1
    if kind == "tiff":
        header = read_tiff_header(data, path)
        values = read_tiff_indices(data, header, path)
        indexed = header.has_palette
    else:
        image = decode_with_pillow(data, path)
        values, indexed = _numbers_of(image), image.mode in ("P", "PA")
        if kind == "png" and data[25] == _PNG_GREY and data[24] in _FEW_BITS:
            brightness = _FEW_BITS[data[24]]
            values = values // brightness
    if values.dtype == np.bool_:
        values, brightness = np.ascontiguousarray(values).astype(np.uint8), 255
    return values, 0 if indexed else brightness


def _numbers_of(image: Image.Image) -> npt.NDArray[Any]:
    if image.mode in ("LA", "PA"):
        return np.asarray(image.getchannel(0))
    return np.asarray(image if image.mode in ("1", "L", "P", "I", "I;16", "F", "RGB") else image.convert("RGB"))


def _within(values: npt.NDArray[Any], highest: int, path: Path, rule: str) -> npt.NDArray[Any]:
    if not values.size:
        return values
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= highest or (values.dtype.kind == "f" and (values != np.floor(values)).any()):
        raise UserError(f"{path}: its values run from {low:g} to {high:g}; {rule}")
    return values


def _rows_of_colors(pixels: UInt8Array, colors: UInt8Array, path: Path, mend: str) -> UInt8Array:
    red, green, blue = (pixels[:, :, band].astype(np.int32) for band in range(3))
    codes = (red << 16) | (green << 8) | blue
    table, known = _color_tables(np.ascontiguousarray(colors, np.uint8).tobytes())
    unknown = ~known[codes]
    if unknown.any():
        y, x = (int(axis[0]) for axis in np.nonzero(unknown))
        color = tuple(int(value) for value in pixels[y, x])
        count = int(unknown.sum())
        raise UserError(
            f"{path}: {count} pixels have colours that are in no class, first {color} at row {y}, column {x}; {mend}"
        )
    rows: UInt8Array = table[codes]
    return rows


@lru_cache(maxsize=2)
def _color_tables(colors: bytes) -> tuple[UInt8Array, npt.NDArray[np.bool_]]:
    """Row and presence of each of the 2**24 colours: 32 MiB once, for a look-up per pixel instead of a search."""
    rows = np.frombuffer(colors, np.uint8).reshape(-1, 3).astype(np.int32)
    codes = (rows[:, 0] << 16) | (rows[:, 1] << 8) | rows[:, 2]
    table, known = np.zeros(2**24, np.uint8), np.zeros(2**24, np.bool_)
    table[codes[::-1]] = np.arange(len(codes), dtype=np.uint8)[::-1]  # of equal colours the first row counts
    known[codes] = True
    return table, known
