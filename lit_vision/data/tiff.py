"""TIFF: bands side by side, one after the other, or as pages, of any depth."""

import io
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from lit_vision.errors import UserError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its warnings name no file; ours do

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3
_Answer = TypeVar("_Answer")
_OPENCV_DEPTHS = ("uint8", "uint16", "float32")


@dataclass(frozen=True)
class TiffHeader:
    """First page of a TIFF.

    Args:
        height: rows as stored, before orientation.
        width: columns as stored.
        samples: values per pixel and page.
        pages: pages that are bands of one picture: those of the first one's shape, where it has one sample; else 1.
        alpha: whether the last sample is opacity.
        orientation: EXIF orientation 1..8.
        depth: numpy name of the stored type, such as "uint16"; "bool" for one bit.
        bits: bits per sample as stored.
        photometric: TIFF's number for the meaning of the samples.
        contiguous: samples of a pixel lie together.
        rows_as_pages: each page is a row of the picture, its height the columns and its width the bands.
    """

    height: int
    width: int
    samples: int
    pages: int
    alpha: bool
    orientation: int
    depth: str
    bits: int
    photometric: int
    contiguous: bool
    rows_as_pages: bool

    @property
    def bands(self) -> int:
        """Values per pixel, over all pages."""
        return self.samples * self.pages

    @property
    def has_palette(self) -> bool:
        """Whether the values are numbers of colours."""
        return self.photometric == _PALETTE


def read_tiff_header(source: bytes | IO[bytes], path: Path) -> TiffHeader:
    """Header of a TIFF; pixels are not read.

    Raises:
        UserError: the header is damaged.
    """
    return _ask(source, path, _header)


def tiff_is_complete(data: bytes, path: Path) -> bool:
    """Whether all strips or tiles of the first page lie within the file; of the last, too, where pages are rows.

    Raises:
        UserError: the header is damaged.
    """

    def last_byte(tiff: tifffile.TiffFile) -> int:
        page, saved = _first(tiff), _saved_shape(_first(tiff))
        if saved is None:
            return _end(page)
        if page.is_contiguous and page.compression == 1:  # tifffile writes all rows in one piece
            return int(page.dataoffsets[0]) + math.prod(saved) * np.dtype(page.dtype).itemsize
        return _end(tiff.pages[saved[0] - 1]) if len(tiff.pages) >= saved[0] else len(data) + 1

    return _ask(data, path, last_byte) <= len(data)


def decode_tiff(data: bytes, header: TiffHeader, path: Path) -> tuple[npt.NDArray[Any], bool]:
    """Values (H, W, bands) in the stored depth, RGB order, and whether orientation has been applied already.

    OpenCV (libtiff: every compression) where it can, Pillow for palettes and print colours, tifffile for the rest.

    Raises:
        UserError: the file is cut off, damaged or compressed in a way that needs `imagecodecs`.
    """
    if _suits_opencv(header) and (values := _decode_with_opencv(data, header)) is not None:
        return values, True
    values = _decode_with_pillow(data) if _suits_pillow(header) else None
    if values is not None:
        return values, True
    return _decode_with_tifffile(data, header, path), False


def read_tiff_indices(data: bytes, header: TiffHeader, path: Path) -> npt.NDArray[Any]:
    """Stored numbers (H, W) or (H, W, bands) of a label image: palette entries stay numbers, one bit is 0 or 1.

    Raises:
        UserError: the file is cut off, damaged or compressed in a way that needs `imagecodecs`.
    """
    if header.has_palette:
        image = Image.open(io.BytesIO(data), formats=("TIFF",))
        return np.asarray(image)
    values, _ = decode_tiff(data, header, path)
    if header.photometric == _WHITE_IS_ZERO:  # as tifffile saves booleans; numbers have no brightness
        values = _inverted(values)
    if header.bits == 1:
        values = values > 0
    return values[:, :, 0] if values.shape[2] == 1 else values


def _open(source: bytes | IO[bytes], path: Path) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Exception as error:  # tifffile raises whatever a damaged tag makes it stumble over
        raise UserError(f"{path}: the TIFF header is damaged or cut off; save the file again") from error


def _ask(source: bytes | IO[bytes], path: Path, question: Callable[[tifffile.TiffFile], _Answer]) -> _Answer:
    with _open(source, path) as tiff:
        try:
            return question(tiff)
        except Exception as error:  # see _open
            raise UserError(f"{path}: the TIFF header is damaged or cut off; save the file again") from error


def _first(tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    return cast(tifffile.TiffPage, tiff.pages[0])  # only later ones can be frames, which share its tags


def _end(page: Any) -> int:
    return max(int(start + count) for start, count in zip(page.dataoffsets, page.databytecounts, strict=True))


def _saved_shape(page: tifffile.TiffPage) -> tuple[int, int, int] | None:
    """(height, width, bands) of an array that tifffile stored with its rows as pages; None for any other TIFF.

    It does so with (H, W, 5) unless it is given a planarconfig, and says the shape in the description. (5, H, W) comes
    as pages too, which are the bands then: what is meant are the axes if it says them, else bands are fewer than rows.
    """
    text = page.description
    # Before 2026 tifffile wrote the user's metadata before the shape.
    if int(page.samplesperpixel) != 1 or not text.startswith("{") or '"shape": [' not in text:
        return None
    facts = json.loads(text)
    shape, axes = tuple(int(length) for length in facts.get("shape", ())), str(facts.get("axes", ""))
    while len(shape) > 3 and shape[0] == 1:
        shape, axes = shape[1:], axes[1:]
    if len(shape) != 3 or shape[1:] != page.shape:
        return None
    bands_last = not axes.endswith("YX") if axes else shape[2] < shape[0]
    return (shape[0], shape[1], shape[2]) if bands_last else None


def _header(tiff: tifffile.TiffFile) -> TiffHeader:
    page = _first(tiff)
    saved = _saved_shape(page)
    height, width, samples = saved or (int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel))
    orientation = page.tags.valueof(274, 1)
    extra = tuple(int(value) for value in page.extrasamples)
    return TiffHeader(
        height=height,
        width=width,
        samples=samples,
        pages=_count_bands(tiff) if samples == 1 and saved is None else 1,
        alpha=bool(extra) and extra[-1] in (1, 2),  # 0 = unspecified: a band like any other
        orientation=orientation if orientation in range(1, 9) else 1,
        depth=np.dtype(page.dtype).name,
        bits=int(page.bitspersample),
        photometric=int(page.photometric),
        contiguous=samples == 1 or int(page.planarconfig) == 1,
        rows_as_pages=saved is not None,
    )


def _count_bands(tiff: tifffile.TiffFile) -> int:
    shape = tiff.pages[0].shape
    # reduced copies (1) and transparency masks (4) are not bands
    return sum(page.shape == shape and not getattr(page, "subfiletype", 0) & 0b101 for page in tiff.pages) or 1


def _suits_opencv(header: TiffHeader) -> bool:
    if (
        header.rows_as_pages
        or not header.contiguous
        or header.depth not in _OPENCV_DEPTHS
        or header.bits not in (8, 16, 32)
    ):
        return False
    if header.photometric == _BLACK_IS_ZERO:
        return header.samples == 1
    premultiplied = header.alpha and header.bits == 8  # libtiff's 8-bit reader multiplies colours by opacity
    return header.photometric == _RGB and header.samples in (3, 4) and not premultiplied


def _suits_pillow(header: TiffHeader) -> bool:
    if header.rows_as_pages:
        return False
    if header.photometric >= _PALETTE:
        return True
    known = header.samples == 1 or (header.alpha and header.samples in (2, 4))
    return known and header.pages == 1 and header.bits <= 8


def _decode_with_opencv(data: bytes, header: TiffHeader) -> npt.NDArray[Any] | None:
    buffer = np.frombuffer(data, np.uint8)
    if header.pages > 1:
        found, pages = cv2.imdecodemulti(buffer, cv2.IMREAD_UNCHANGED)
        pages = [page for page in pages if page.shape == pages[0].shape][: header.pages]
        return np.stack(pages, axis=2) if found and len(pages) == header.pages and pages[0].ndim == 2 else None
    values = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    if values is None or (1 if values.ndim == 2 else values.shape[2]) != header.samples:
        return None
    if header.samples >= 3:
        return cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if header.samples == 4 else cv2.COLOR_BGR2RGB)
    return values[:, :, None]


def _decode_with_pillow(data: bytes) -> npt.NDArray[Any] | None:
    try:
        image = Image.open(io.BytesIO(data), formats=("TIFF",))
        image.load()
    except Exception:  # an organisation that Pillow does not know; tifffile is asked next
        return None
    modes = {"1": "L", "L": "L", "LA": "LA", "RGBA": "RGBA", "RGBa": "RGBA"}
    values = np.asarray(image.convert(modes.get(image.mode, "RGB")))
    return values[:, :, None] if values.ndim == 2 else values


def _decode_with_tifffile(data: bytes, header: TiffHeader, path: Path) -> npt.NDArray[Any]:
    try:
        with _open(data, path) as tiff:
            if header.rows_as_pages:
                pages = [tiff.series[0].asarray().reshape(header.height, header.width, header.samples)]
            else:
                wanted = [page for page in tiff.pages if page.shape == tiff.pages[0].shape][: header.pages]
                pages = [page.asarray() for page in wanted]
    except ValueError as error:
        if "imagecodecs" in str(error):
            reason = "save it uncompressed or deflated, or `pip install imagecodecs`"
            raise UserError(f"{path}: {header.bands} bands in a compression that is not read here; {reason}") from error
        raise UserError(f"{path}: the TIFF is cut off or damaged; save the file again") from error
    except UserError:
        raise
    except Exception as error:  # see _open
        raise UserError(f"{path}: the TIFF is cut off or damaged; save the file again") from error
    values = np.stack(pages, axis=2) if len(pages) > 1 else pages[0]
    if len(pages) == 1 and header.samples > 1 and not header.contiguous:
        values = np.moveaxis(values, 0, 2)
    values = values.reshape(header.height, header.width, header.bands)
    return _inverted(values) if header.photometric == _WHITE_IS_ZERO else values


def _inverted(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """White for black, where the type says what white is."""
    if values.dtype.kind == "b":
        return ~values
    return np.iinfo(values.dtype).max - values if values.dtype.kind == "u" else values
