"""Drawn pictures of shapes on textured backgrounds, with exact labels. Pure: a random generator in, arrays out."""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from lit_vision.types import BoolArray, FloatArray, Int32Array, Int64Array, UInt8Array

CLASSES = ("disc", "square", "triangle", "star")
HUE_SPREAD = 0.125  # turns to either side: in scenes each of the four classes has a quarter of the colour circle
OVERSAMPLING = 4  # outlines are filled at 4x and averaged, so that edges are as soft as a camera's
MIN_VISIBLE = 0.6  # share of a shape that shapes drawn over it must leave visible
MIN_PIXELS = 30
TRIES = 25


@dataclass(frozen=True)
class Scene:
    """A picture and everything that is true of it.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: (H, W) int32 label map of the visible parts, 0 = background, 1..N; every object is one
            4-connected part. Larger numbers lie in front.
        labels: (N,) int64, position in CLASSES; object k has labels[k - 1].
        boxes: (N, 4) float32 xyxy pixels, tight round the visible pixels.
    """

    image: UInt8Array
    instances: Int32Array
    labels: Int64Array
    boxes: FloatArray

    @property
    def mask(self) -> UInt8Array:
        """(H, W) uint8: 0 background, 1 + class inside objects."""
        table = np.concatenate([np.zeros(1, np.uint8), (self.labels + 1).astype(np.uint8)])
        return np.asarray(table[self.instances], np.uint8)


@dataclass(frozen=True)
class Shape:
    """An outline to draw: class, centre (x, y) and radius of the circle round it in pixels, angle in radians."""

    label: int
    centre: tuple[float, float]
    radius: float
    angle: float

    def outline(self) -> FloatArray:
        """(P, 2) float32 corners (x, y) in pixels."""
        corners = (48, 4, 3, 10)[self.label]
        turns = np.linspace(0, 2 * np.pi, corners, endpoint=False) + self.angle
        radii = np.full(corners, self.radius)
        if CLASSES[self.label] == "star":
            radii[1::2] *= 0.45
        points = np.stack([np.cos(turns), np.sin(turns)], 1) * radii[:, None] + self.centre
        return np.asarray(points, np.float32)

    def window(self, size: int) -> tuple[slice, slice]:
        """Rows and columns of a (size, size) picture that the shape can touch."""
        x, y = self.centre
        low = [max(0, int(c - self.radius) - 1) for c in (y, x)]
        high = [min(size, int(c + self.radius) + 2) for c in (y, x)]
        return slice(low[0], max(low[0] + 1, high[0])), slice(low[1], max(low[1] + 1, high[1]))

    def coverage(self, rows: slice, columns: slice) -> FloatArray:
        """(rows, columns) float32, the share of each pixel of a window that the shape covers, in [0, 1]."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        fine = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING), np.uint8)
        # fillPoly puts pixel centres at whole numbers, outlines at pixel edges; 4 fractional bits
        points = self.outline() - np.asarray([columns.start, rows.start], np.float32)
        cv2.fillPoly(fine, [np.round((points * OVERSAMPLING - 0.5) * 16).astype(np.int32)], 255, shift=4)
        covered = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(covered / np.float32(255), np.float32)


def draw_scene(rng: np.random.Generator, size: int = 160, objects: tuple[int, int] = (4, 8)) -> Scene:
    """Draws a picture of several shapes that touch, overlap and stick out of the picture.

    Args:
        rng: every choice is drawn from it, so equal generators give equal pictures.
        size: height and width in pixels, at least 64.
        objects: fewest and most shapes that are tried; a shape without room is left out, so there can be fewer.

    Returns:
        The scene. Classes appear equally often over many scenes. Each has its own quarter of the colour circle, as
        things in real pictures have theirs, so that a network learns them within a minute on a CPU.
    """
    count = int(rng.integers(objects[0], objects[1] + 1))
    labels = (rng.permutation(count) + rng.integers(len(CLASSES))) % len(CLASSES)
    painting = _Painting(rng, size)
    for label in labels:
        painting.try_to_add(int(label), (0.085 * size, 0.17 * size))
    return painting.finish()


def draw_single(rng: np.random.Generator, label: int, size: int = 96) -> Scene:
    """Draws one large shape of a class and up to three small ones round it: a picture to classify.

    Colours are any: the outline alone tells the class.

    Args:
        rng: every choice is drawn from it.
        label: position in CLASSES of the large shape, which is instance 1 of the scene.
        size: height and width in pixels, at least 64.
    """
    painting = _Painting(rng, size, spread=0.5)
    painting.try_to_add(label, (0.24 * size, 0.38 * size), central=True)
    for small in rng.integers(len(CLASSES), size=rng.integers(4)):
        painting.try_to_add(int(small), (0.07 * size, 0.1 * size))
    return painting.finish()


class _Painting:
    """A scene in the making: pixels as float32, the label map, and what was drawn."""

    def __init__(self, rng: np.random.Generator, size: int, spread: float = HUE_SPREAD) -> None:
        self.rng, self.size, self.spread = rng, size, spread
        self.pixels = _texture(rng, size, _colour(rng), depth=rng.uniform(8, 28))
        self.instances = np.zeros((size, size), np.int32)
        self.colours = [self.pixels.mean((0, 1))]
        self.shapes: list[Shape] = []

    def try_to_add(self, label: int, radii: tuple[float, float], central: bool = False) -> None:
        """Draws a shape where it leaves the earlier ones recognisable; gives up after some tries."""
        for _ in range(TRIES):
            shape = self._propose(label, self.rng.uniform(*radii), central)
            window = shape.window(self.size)
            coverage = shape.coverage(*window)
            if self._leaves_room(shape, coverage >= 0.5):
                self._paint(shape, coverage, window)
                return

    def _propose(self, label: int, radius: float, central: bool) -> Shape:
        """A place at random; for half the shapes one that touches or overlaps an earlier shape."""
        angle = self.rng.uniform(0, 2 * np.pi)
        low, high = (0.4, 0.6) if central else (0.04, 0.96)
        x, y = self.rng.uniform(low * self.size, high * self.size, 2)
        if self.shapes and not central and self.rng.random() < 0.5:
            near = self.shapes[int(self.rng.integers(len(self.shapes)))]
            distance = (near.radius + radius) * self.rng.uniform(0.6, 0.95)
            turn = self.rng.uniform(0, 2 * np.pi)
            x, y = near.centre[0] + distance * np.cos(turn), near.centre[1] + distance * np.sin(turn)
        return Shape(label, (float(x), float(y)), radius, angle)

    def _leaves_room(self, shape: Shape, inside: BoolArray) -> bool:
        """Whether the shape itself, and all that it covers in part, stay visible enough and in one part."""
        if not _stays_recognisable(shape, inside):
            return False
        rows, columns = shape.window(self.size)
        for number in np.unique(self.instances[rows, columns][inside]):
            left = self.instances == number
            left[rows, columns] &= ~inside
            if number and not _stays_recognisable(self.shapes[number - 1], left):
                return False
        return True

    def _paint(self, shape: Shape, coverage: FloatArray, window: tuple[slice, slice]) -> None:
        """Blends the shape over the picture, in a colour unlike those around it."""
        colour = _distinct_colour(self.rng, self.colours, shape.label / len(CLASSES), self.spread)
        fill = _texture(self.rng, max(coverage.shape), colour, depth=self.rng.uniform(2, 10))
        fill = fill[: coverage.shape[0], : coverage.shape[1]]
        self.pixels[window] += coverage[:, :, None] * (fill - self.pixels[window])
        self.shapes.append(shape)
        self.colours.append(colour)
        self.instances[window][coverage >= 0.5] = len(self.shapes)

    def finish(self) -> Scene:
        """Lights the picture from one side, adds noise and rounds."""
        ramp = np.linspace(-1, 1, self.size, dtype=np.float32)
        turn, strength = self.rng.uniform(0, 2 * np.pi), self.rng.uniform(0, 0.3)
        light = 1 + strength * (np.cos(turn) * ramp[None, :] + np.sin(turn) * ramp[:, None]) / np.sqrt(2)
        noise = self.rng.standard_normal(self.pixels.shape, np.float32) * self.rng.uniform(1, 7)
        image = np.clip(np.round(self.pixels * light[:, :, None] + noise), 0, 255).astype(np.uint8)
        labels = np.asarray([shape.label for shape in self.shapes], np.int64)
        return Scene(image, self.instances, labels, tight_boxes(self.instances))


def tight_boxes(instances: Int32Array) -> FloatArray:
    """(N, 4) float32 xyxy boxes tight round the pixels of objects 1..N of a label map; N is its largest number."""
    boxes = np.zeros((int(instances.max(initial=0)), 4), np.float32)
    for k in range(len(boxes)):
        rows, columns = np.nonzero(instances == k + 1)
        if len(rows):
            boxes[k] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return boxes


def _stays_recognisable(shape: Shape, visible: BoolArray) -> bool:
    """Whether enough of a shape is visible, in one part."""
    if visible.sum() < max(MIN_PIXELS, MIN_VISIBLE * cv2.contourArea(shape.outline())):
        return False
    count, _ = cv2.connectedComponents(visible.astype(np.uint8), connectivity=4)
    return bool(count == 2)  # background and one part


def _colour(rng: np.random.Generator) -> FloatArray:
    """(3,) float32 RGB of a background: any hue, never vivid, so that light and noise seldom clip."""
    return _rgb(rng.uniform(0, 1), rng.uniform(0, 0.4), rng.uniform(0.3, 0.8))


def _distinct_colour(rng: np.random.Generator, others: list[FloatArray], hue: float, spread: float) -> FloatArray:
    """Of ten colours within `spread` turns of a hue the one farthest from its nearest among the others."""
    hues = hue + rng.uniform(-spread, spread, 10)
    candidates = np.stack([_rgb(hue, rng.uniform(0.4, 1), rng.uniform(0.35, 0.9)) for hue in hues])
    distances = np.linalg.norm(candidates[:, None] - np.stack(others)[None], axis=2).min(1)
    return np.asarray(candidates[int(distances.argmax())], np.float32)


def _rgb(hue: float, saturation: float, value: float) -> FloatArray:
    """(3,) float32 RGB in 0..255 of a hue in turns (any number), saturation and value in [0, 1]."""
    return np.asarray(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32) * 255


def _texture(rng: np.random.Generator, size: int, colour: FloatArray, depth: float) -> FloatArray:
    """(size, size, 3) float32: a colour with blotches of two sizes and faint stripes of +-depth grey levels."""
    pattern = np.zeros((size, size), np.float32)
    for cells in (5, 20):
        coarse = rng.standard_normal((cells, cells), np.float32)
        pattern += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    ramp = np.arange(size, dtype=np.float32)
    turn, period = rng.uniform(0, np.pi), rng.uniform(6, 30)
    pattern += np.sin((np.cos(turn) * ramp[None, :] + np.sin(turn) * ramp[:, None]) * (2 * np.pi / period))
    return np.asarray(colour + np.float32(depth / 2) * pattern[:, :, None], np.float32)
