"""Four pictures in one, and two pictures blended, with the objects of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lit_vision.data import geometry
from lit_vision.data.augmentation import Augmentation
from lit_vision.data.colour import change_colors
from lit_vision.data.geometry import Fit, Matrix, Size
from lit_vision.data.paste import Window, paste
from lit_vision.data.transforms import FILL, Transform
from lit_vision.types import BoolArray, FloatArray, Int64Array, UInt8Array

QUADRANTS = 4
SPLIT = (0.2, 0.8)  # where the four meet, as a share of each side: Darknet's smallest offset is 0.2
BLEND = 32.0  # of the Beta distribution: both pictures stay visible, since the loss counts the boxes of both in full


@dataclass(frozen=True)
class Picture:
    """A picture with its objects.

    Args:
        pixels: (H, W, C) uint8.
        boxes: (N, 4) float32 xyxy; of an original in its pixels, which are `factor` times those of `pixels`.
        labels: (N,) int64.
        crowd: (N,) bool.
        factor: pixels of the original to one of `pixels`, along each side.
    """

    pixels: UInt8Array
    boxes: FloatArray
    labels: Int64Array
    crowd: BoolArray
    factor: int = 1

    @property
    def size(self) -> Size:
        """Height and width of the original."""
        return self.pixels.shape[0] * self.factor, self.pixels.shape[1] * self.factor


def compose(
    pictures: Sequence[Picture], transform: Transform, image_size: Size, rng: np.random.Generator
) -> tuple[Picture, Matrix]:
    """One picture alone, or four in one, as the network is to see them.

    Mosaic: Bochkovskiy, Wang and Liao 2020, YOLOv4, https://arxiv.org/abs/2004.10934, section 3.3. Each of the four is
    turned, zoomed and so on as if it were alone, and its quadrant shows a random part of that in one warp; colours
    change by one draw for the whole. Boxes are cut to their quadrants; those of which too little is left go, as in a
    picture alone.

    Args:
        pictures: one, or four where the transform has an augmentation.
        transform: of training.
        image_size: height, width of the network's input.
        rng: source of all randomness.

    Returns:
        Pixels (*image_size, C) and boxes in them, and the frame of the first picture.
    """
    if len(pictures) == QUADRANTS and transform.augmentation is not None:
        return _mosaic(pictures, transform, transform.augmentation, image_size, rng)
    (alone,) = pictures
    frame, _ = transform.frame(alone.size, rng, image_size)
    pixels = transform.paint(alone.pixels, geometry.magnified(frame, alone.factor), image_size, rng)
    everything = np.array([0, 0, image_size[1], image_size[0]])
    return _shown(pixels, alone, geometry.warp_boxes(alone.boxes, frame), everything, transform), frame


def _mosaic(
    pictures: Sequence[Picture],
    transform: Transform,
    augmentation: Augmentation,
    image_size: Size,
    rng: np.random.Generator,
) -> tuple[Picture, Matrix]:
    places = draw_mosaic([picture.size for picture in pictures], transform.fit, image_size, augmentation, rng)
    pixels = np.full((*image_size, pictures[0].pixels.shape[2]), FILL, np.uint8)
    frames, covered = [], []
    for picture, (frame, window) in zip(pictures, places, strict=True):
        drawn, seen = paste(picture.pixels, geometry.magnified(frame, picture.factor), pixels, window)
        frames.append(geometry.magnified(drawn, 1 / picture.factor))
        covered.append(seen)
    together = _join(pixels, pictures)
    owners = np.repeat(np.arange(len(pictures)), [len(picture.boxes) for picture in pictures])
    windows = np.array([(columns.start, rows.start, columns.stop, rows.stop) for _, (rows, columns) in places])
    boxes = geometry.warp_boxes(together.boxes, np.stack(frames)[owners])
    painted = _coloured(pixels, covered, augmentation, rng)
    return _shown(painted, together, boxes, windows[owners], transform), frames[0]


def _coloured(
    pixels: UInt8Array, covered: Sequence[Window], augmentation: Augmentation, rng: np.random.Generator
) -> UInt8Array:
    """The whole with other colours; the padding between and around the pictures keeps its grey."""
    changed = change_colors(pixels, augmentation, rng)
    if (
        sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in covered)
        == pixels[..., 0].size
    ):
        return changed
    kept = np.full_like(pixels, FILL)
    for window in covered:
        kept[window] = changed[window]
    return kept


def draw_mosaic(
    sizes: Sequence[Size], fit: Fit, image_size: Size, augmentation: Augmentation, rng: np.random.Generator
) -> list[tuple[Matrix, Window]]:
    """Frames and windows of four pictures: above left, above right, below left, below right.

    A picture that is larger than its quadrant shows a random part of itself, so `translate` has no part in it; a
    smaller one touches the point where the four meet.
    """
    height, width = image_size
    x, y = round(width * rng.uniform(*SPLIT)), round(height * rng.uniform(*SPLIT))
    windows = [
        (rows, columns) for rows in (slice(0, y), slice(y, height)) for columns in (slice(0, x), slice(x, width))
    ]
    placed = []
    for size, (rows, columns) in zip(sizes, windows, strict=True):
        frame = augmentation.draw_frame(fit, size, image_size, rng)
        x1, y1, x2, y2 = geometry.outline(frame, size)
        if augmentation.crop_area is not None:  # what lies outside the crop is not to be seen
            x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        shift_x = _shift(x1, x2, columns, columns.start > 0, rng.random())
        shift_y = _shift(y1, y2, rows, rows.start > 0, rng.random())
        placed.append((geometry.shifted(frame, shift_x, shift_y), (rows, columns)))
    return placed


def _shift(low: float, high: float, window: slice, meets_low: bool, share: float) -> int:
    """Whole pixels by which low..high moves to fill a window, or to touch that end of it where the pictures meet."""
    to_start, to_stop = float(window.start - low), float(window.stop - high)
    room = to_start - to_stop
    if room >= 0:
        return round(to_start - share * room)
    return round(to_start if meets_low else to_stop)


def _shown(
    pixels: UInt8Array, picture: Picture, boxes: npt.NDArray[Any], windows: npt.NDArray[Any], transform: Transform
) -> Picture:
    """`pixels` with those of a picture's objects of which enough is left in their windows."""
    cut, keep = geometry.cut_boxes(boxes, windows, transform.min_visible, transform.min_side)
    keep = kept_crowds(cut, keep, picture.crowd, transform)
    return Picture(pixels, cut[keep], picture.labels[keep], picture.crowd[keep])


def kept_crowds(boxes: FloatArray, keep: BoolArray, crowd: BoolArray, transform: Transform) -> BoolArray:
    """(N,) what to keep: of a crowd region whatever is left, since the objects in it are no background."""
    visible: BoolArray = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= transform.min_side
    return keep | (crowd & visible)


def _join(pixels: UInt8Array, parts: Sequence[Picture]) -> Picture:
    return Picture(
        pixels,
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.crowd for part in parts]),
    )


def blend(one: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Mixup of two pictures of one size, with the objects of both.

    Zhang, He et al. 2019, Bag of Freebies for Training Object Detection, https://arxiv.org/abs/1902.04103, section 3.1;
    there the loss weighs each object by its picture's share, here both shares stay near one half instead.
    """
    share = float(rng.beta(BLEND, BLEND))
    pixels: Any = cv2.addWeighted(one.pixels, share, other.pixels, 1 - share, 0.0)
    return _join(pixels.reshape(one.pixels.shape), (one, other))
