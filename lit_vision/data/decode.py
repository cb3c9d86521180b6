"""The one place where a file becomes pixels: JPEG, PNG, TIFF, WebP, BMP and GIF (its first frame).

What a picture shows does not depend on how it is stored: EXIF rotation is applied, palettes and print colours become
RGB, grey is repeated, opacity is dropped, deeper values become 8 bits. OpenCV decodes wherever it is right and
Pillow or tifffile where it is not; the kind is told by the content, not by the name.
"""

from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from lit_vision.data.channels import Depth, to_channels, to_grey, to_uint8
from lit_vision.data.image_file import (
    check_file,
    decode_with_pillow,
    exif_orientation,
    file_kind,
    open_header,
    read_bytes,
    read_size,
    require_whole,
)
from lit_vision.data.masks import read_label_map, read_mask
from lit_vision.data.tiff import decode_tiff, read_tiff_header
from lit_vision.types import UInt8Array

__all__ = ["Depth", "check_file", "read_image", "read_label_map", "read_mask", "read_size"]

# Silent: what OpenCV writes to stderr names no file; the errors raised here do. Up to 4.12 the setting stands in cv2.
getattr(cv2.utils, "logging", cv2).setLogLevel(0)

_REDUCED = {  # what makes OpenCV decode a JPEG at a half, a quarter or an eighth, in the order that COLOR_RGB adds
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_FROM_BGR = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
# (transpose first, then OpenCV's flip code) that brings a stored picture upright, by EXIF orientation
_UPRIGHT: dict[int, tuple[bool, int | None]] = {
    2: (False, 1),
    3: (False, -1),
    4: (False, 0),
    5: (True, None),
    6: (True, 1),
    7: (True, -1),
    8: (True, 0),
}


def read_image(path: Path, channels: int = 3, depth: Depth = "full") -> UInt8Array:
    """Pixels of an image file.

    Args:
        path: the file.
        channels: 1 (luma), 3 (RGB), 4 (with opacity or a fourth band), or the number of bands of a TIFF.
        depth: how more than 8 bits become 8, see `to_uint8`.

    Returns:
        (H, W, channels) uint8, RGB order, upright.

    Raises:
        UserError: the file is missing, damaged, not an image, or its bands or depth do not fit.
    """
    return read_reduced(path, channels, depth, 1)[0]


def read_reduced(path: Path, channels: int, depth: Depth, most: float) -> tuple[UInt8Array, int]:
    """Pixels of an image file, at a fraction of its detail where that spares most of the decoding.

    RGB JPEGs can be decoded at a half, a quarter or an eighth, each pixel the mean of a square. That is done only where
    both sides divide by it, so that the edges stay where they are.

    Args:
        path: the file.
        channels: as for `read_image`.
        depth: as for `read_image`.
        most: the largest reduction that is wanted.

    Returns:
        (H / factor, W / factor, channels) uint8, and the factor: 1, 2, 4 or 8.

    Raises:
        UserError: as for `read_image`.
    """
    data = read_bytes(path)
    kind = file_kind(data[:64], path)
    require_whole(data, kind, path)
    factor = 1
    if kind == "tiff":
        tiff = read_tiff_header(data, path)
        values, upright = decode_tiff(data, tiff, path)
        alpha, orientation = tiff.alpha, 1 if upright else tiff.orientation
    else:
        header = open_header(data, path)
        factor = _reduction(header, channels, most)
        values, alpha = _decode(data, header, channels, path, factor)
        factor = factor if values.shape[1] < header.size[0] else 1  # Pillow, where OpenCV fails, decodes all
        orientation = exif_orientation(header)
    pixels = to_uint8(to_channels(values, alpha, channels, path), depth, path)
    if channels == 1 and pixels.shape[2] == 3:
        pixels = to_grey(pixels)
    return turn_upright(np.ascontiguousarray(pixels), orientation), factor


def turn_upright(pixels: UInt8Array, orientation: int) -> UInt8Array:
    """Undo an EXIF orientation 1..8 of pixels (H, W, C)."""
    transpose, flip = _UPRIGHT.get(orientation, (False, None))
    upright: npt.NDArray[Any] = pixels
    if transpose:
        upright = cv2.transpose(upright) if upright.shape[2] <= 4 else np.ascontiguousarray(upright.swapaxes(0, 1))
    if flip is not None:
        upright = cv2.flip(upright, flip)
    return cast(UInt8Array, upright if upright.ndim == 3 else upright[:, :, None])


def _is_ordinary(header: Image.Image, channels: int) -> bool:
    return header.format in ("JPEG", "MPO") and header.mode == "RGB" and channels == 3


def _reduction(header: Image.Image, channels: int, most: float) -> int:
    """The largest possible one of 1, 2, 4 and 8 up to `most`."""
    if not _is_ordinary(header, channels):
        return 1
    fitting = [k for k in _REDUCED if k <= most and header.size[0] % k == 0 and header.size[1] % k == 0]
    return max(fitting, default=1)


def _decode(data: bytes, header: Image.Image, channels: int, path: Path, factor: int) -> tuple[npt.NDArray[Any], bool]:
    """Values (H, W, B) in the stored depth, RGB order, not yet upright; whether the last band is opacity."""
    if header.format == "GIF" or header.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        return _with_pillow(data, path)
    ordinary = _is_ordinary(header, channels)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION if ordinary else cv2.IMREAD_UNCHANGED
    flags |= _REDUCED.get(factor, 0)
    buffer = _without_profile(data) if header.format == "PNG" and "icc_profile" in header.info else data
    try:
        values = cv2.imdecode(np.frombuffer(buffer, np.uint8), flags)
    except cv2.error:
        values = None
    if values is None:
        return _with_pillow(data, path)
    if values.ndim == 2:
        return values[:, :, None], False
    if not ordinary:
        values = cv2.cvtColor(values, _FROM_BGR[values.shape[2]])
    return values, values.shape[2] == 4


def _with_pillow(data: bytes, path: Path) -> tuple[npt.NDArray[Any], bool]:
    image = decode_with_pillow(data, path)
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I", "F"):
        image = image.convert("RGB")
    values = np.asarray(image)
    return (values[:, :, None], False) if values.ndim == 2 else (values, image.mode in ("LA", "RGBA"))


def _without_profile(data: bytes) -> bytes:
    """PNG without its iCCP chunks, about which libpng complains on stderr and which OpenCV does not use."""
    position, kept = 8, [data[:8]]
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] != b"iCCP":
            kept.append(data[position:end])
        position = end
    return b"".join(kept)
