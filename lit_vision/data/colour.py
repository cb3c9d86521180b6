"""Random changes of a picture's colours, each in the one call of OpenCV that is fastest for it."""

from statistics import NormalDist
from typing import Any

import cv2
import numpy as np

from lit_vision.data.augmentation import Augmentation
from lit_vision.data.warp import FILL, by_fours
from lit_vision.types import UInt8Array

_LEVELS = np.arange(256, dtype=np.float64)
_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])  # quantiles: a byte becomes a draw


def change_colors(pixels: UInt8Array, augmentation: Augmentation, rng: np.random.Generator) -> UInt8Array:
    """Pixels (H, W, C) with colours, blur, noise and a covered rectangle drawn from the ranges."""
    if pixels.shape[2] == 3 and (augmentation.hue or augmentation.saturation):
        pixels = _shift_hue_and_saturation(pixels, augmentation, rng)
    if augmentation.brightness or augmentation.contrast:
        pixels = _change_brightness(pixels, augmentation, rng)
    if rng.random() < augmentation.blur:
        sigma = rng.uniform(*augmentation.blur_sigma)
        pixels = by_fours(lambda bands: cv2.GaussianBlur(bands, (0, 0), sigma), pixels)
    if augmentation.noise:
        pixels = _add_noise(pixels, rng.uniform(0, augmentation.noise), rng)
    if rng.random() < augmentation.erase:
        pixels = _erase(pixels, augmentation.erase_area, rng)
    return pixels


def _shift_hue_and_saturation(pixels: UInt8Array, augmentation: Augmentation, rng: np.random.Generator) -> UInt8Array:
    shift = rng.uniform(-augmentation.hue, augmentation.hue) * 180  # OpenCV's hue circle has 180 steps
    gain = 1 + rng.uniform(-augmentation.saturation, augmentation.saturation)
    hues = (np.rint(_LEVELS + shift) % 180).astype(np.uint8)
    # Planes by themselves are looked up in half the time that one table of three columns takes.
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hue, saturation, value = cv2.split(hsv)
    cv2.LUT(hue, hues, dst=hue)
    cv2.convertScaleAbs(saturation, dst=saturation, alpha=gain)
    cv2.merge((hue, saturation, value), dst=hsv)
    return _uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _change_brightness(pixels: UInt8Array, augmentation: Augmentation, rng: np.random.Generator) -> UInt8Array:
    """RGB shares one draw, so that colours stay; other bands differ in kind, each has its own."""
    draws = 1 if pixels.shape[2] == 3 else pixels.shape[2]
    brightness = 1 + rng.uniform(-augmentation.brightness, augmentation.brightness, draws)
    contrast = 1 + rng.uniform(-augmentation.contrast, augmentation.contrast, draws)
    if draws == 1:  # half the time of a table
        offset = 127.5 * (1 - float(contrast[0]))
        changed = cv2.addWeighted(pixels, float(brightness[0] * contrast[0]), pixels, 0, offset)
        return _uint8(changed).reshape(pixels.shape)
    tables = (_LEVELS[:, None] * brightness - 127.5) * contrast + 127.5
    return _uint8(cv2.LUT(pixels, np.clip(np.rint(tables), 0, 255).astype(np.uint8)[None]))


def _add_noise(pixels: UInt8Array, sigma: float, rng: np.random.Generator) -> UInt8Array:
    height, width, channels = pixels.shape
    flat = np.ascontiguousarray(pixels).reshape(height, width * channels)
    draws = np.frombuffer(rng.bytes(flat.size), np.uint8).reshape(flat.shape)
    table = np.rint(_NORMAL * sigma).astype(np.int16)
    return _uint8(cv2.add(flat, cv2.LUT(draws, table[None]), dtype=cv2.CV_8U)).reshape(pixels.shape)


def _erase(pixels: UInt8Array, area: tuple[float, float], rng: np.random.Generator) -> UInt8Array:
    height, width = pixels.shape[:2]
    covered, shape = rng.uniform(*area) * height * width, float(np.exp(rng.uniform(-0.7, 0.7)))  # 1:2 to 2:1
    h, w = min(height, round(np.sqrt(covered * shape))), min(width, round(np.sqrt(covered / shape)))
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    pixels = pixels.copy()
    pixels[y : y + h, x : x + w] = FILL
    return pixels


def _uint8(array: Any) -> UInt8Array:
    """OpenCV's stubs promise less than it keeps."""
    return array  # type: ignore[no-any-return]  # uint8 in, uint8 out
