"""Any depth to 8 bits, any number of bands to the network's: said once, for every file kind."""

from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from lit_vision.errors import UserError
from lit_vision.types import UInt8Array

Depth: TypeAlias = Literal["full", "stretch", "stretch_all"]
STRETCH_PERCENTILES = (0.1, 99.9)

_FROM_16_BIT = ((np.arange(65536) + 128) // 257).astype(np.uint8)  # 257 k -> k: 8-bit values stored in 16 come back


class BandsError(UserError):
    """A file has another number of bands than the network takes.

    Args:
        path: of the file.
        bands: that it has.
        channels: of the network.
    """

    def __init__(self, path: Path, bands: int, channels: int) -> None:
        self.path, self.bands, self.channels = path, bands, channels
        super().__init__(
            f"{path}: has {bands} bands but in_channels is {channels}; set in_channels: {bands} or convert the file"
        )


def to_uint8(values: npt.NDArray[Any], depth: Depth, path: Path) -> UInt8Array:
    """Bring values of any depth to 0..255.

    8 bits stay as they are, one bit becomes 0 and 255. With `full`, uint16 is divided by 257 (0..65535 to 0..255,
    rounded) and floats must lie in 0..1 and are multiplied by 255. With `stretch`, everything deeper than 8 bits is
    spread so that the 0.1 and 99.9 percentiles of this image (all bands together) become 0 and 255; NaN becomes 0.
    `stretch_all` does the same to 8 bits.

    Raises:
        UserError: `full` does not say what the range of these values is.
    """
    if values.dtype == np.uint8:
        return _stretch_bytes(values) if depth == "stretch_all" else cast(UInt8Array, values)
    if values.dtype == np.bool_:
        return np.where(values, 255, 0).astype(np.uint8)
    if depth != "full":
        return _stretch(values)
    if values.dtype == np.uint16:
        return cast(UInt8Array, _FROM_16_BIT[values])
    if values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:  # False for NaN
        return cast(UInt8Array, np.rint(values * 255).astype(np.uint8))
    run = f"its {values.dtype} values run from {float(values.min()):.6g} to {float(values.max()):.6g}"
    raise UserError(
        f"{path}: {run}, which depth: full cannot map to 0..255 (it takes 8 or 16 unsigned bits, or floats in 0..1); "
        "set depth: stretch"
    )


def to_channels(values: npt.NDArray[Any], alpha: bool, channels: int, path: Path) -> npt.NDArray[Any]:
    """Bring bands (H, W, B) to `channels`: opacity is dropped, grey repeated for 3; colour is mixed in `to_grey`.

    Raises:
        BandsError: the file has another number of bands.
    """
    bands = values.shape[2]
    if bands == channels:
        return values
    if alpha:
        return to_channels(values[:, :, :-1], False, channels, path)
    if bands == 1 and channels == 3:
        return np.repeat(values, 3, axis=2)
    if bands == 3 and channels == 1:
        return values
    raise BandsError(path, bands, channels)


def to_grey(pixels: UInt8Array) -> UInt8Array:
    """Luma (H, W, 1) of RGB (H, W, 3): 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
    return cast(UInt8Array, cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)[:, :, None])


def _stretch(values: npt.NDArray[Any]) -> UInt8Array:
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(values.shape, np.uint8)
    low, high = np.percentile(values[known], STRETCH_PERCENTILES)
    return _spread(np.where(known, values, low), low, high)


def _stretch_bytes(values: UInt8Array) -> UInt8Array:
    """As `_stretch`, from the counts of the 256 values."""
    ends = np.cumsum(np.bincount(values.ravel(), minlength=256))
    place = np.array(STRETCH_PERCENTILES) / 100 * (values.size - 1)
    below, above = (np.searchsorted(ends, end, side="right") for end in (np.floor(place), np.ceil(place)))
    low, high = below + (above - below) * (place % 1)
    table = _spread(np.arange(256), low, high)
    return table[values]


def _spread(values: npt.NDArray[Any], low: float, high: float) -> UInt8Array:
    gain = 255 / (high - low) if high > low else 0.0  # a constant picture becomes black
    return cast(UInt8Array, np.rint(np.clip((values - low) * gain, 0, 255)).astype(np.uint8))
