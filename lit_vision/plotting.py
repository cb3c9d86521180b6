"""Draws labels and predictions over pictures: used by the pictures of a run, by predict, and by the docs.

All functions take a picture (H, W, C) uint8 of any number of bands and give RGB uint8, never changing their input.
Small pictures are enlarged by a whole factor, so that text stays readable; boxes and masks are in the picture's pixels.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lit_vision.types import IGNORE_INDEX, BoolArray, Int32Array, UInt8Array

JPEG_LIMIT = 65500  # pixels of a side
_ROWS = 512  # of a picture that are coloured at a time
READABLE = 320  # pixels of the longer side below which pictures are enlarged
KEPT = 2048  # pixels of the longer side that drawings of many pictures keep
Array = npt.NDArray[np.generic]
Color = tuple[int, int, int]
WHITE, GREY = (255, 255, 255), (110, 110, 110)


@cache
def palette() -> UInt8Array:
    """(256, 3) uint8 RGB, every colour as far as possible from all before it (farthest points in CIE Lab)."""
    steps = np.linspace(0.08, 0.96, 9, dtype=np.float32)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = cv2.cvtColor(candidates[None], cv2.COLOR_RGB2LAB)[0]
    visible = (lab[:, 0] > 30) & (lab[:, 0] < 92) & (np.linalg.norm(lab[:, 1:], axis=1) > 12)
    candidates, lab = candidates[visible], lab[visible]
    chosen = [int(np.argmax(candidates @ np.array([1, -0.5, -1], np.float32)))]  # a strong red-orange first
    distances = np.linalg.norm(lab - lab[chosen[0]], axis=1)
    for _ in range(255):
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return np.asarray(np.round(candidates[chosen] * 255), np.uint8)


def color_of(label: int) -> Color:
    """RGB of a class or object number."""
    red, green, blue = palette()[label % 256].tolist()
    return red, green, blue


def as_rgb(image: UInt8Array) -> UInt8Array:
    """(H, W, 3): the first three bands, or the first one as grey where there are fewer."""
    image = image[:, :, None] if image.ndim == 2 else image
    bands = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(bands)


def enlargement(size: Sequence[int]) -> int:
    """The whole factor by which a picture of this height and width is enlarged before drawing."""
    return max(1, -(-READABLE // max(1, size[0], size[1])))


def enlarge(image: UInt8Array) -> UInt8Array:
    """The picture as RGB, enlarged where it is small (nearest pixel, so that labels stay exact)."""
    rgb, factor = as_rgb(image), enlargement(image.shape[:2])
    return np.repeat(np.repeat(rgb, factor, axis=0), factor, axis=1) if factor > 1 else rgb.copy()


def draw_boxes(
    image: UInt8Array,
    boxes: npt.ArrayLike,
    labels: npt.ArrayLike,
    class_names: Sequence[str],
    scores: npt.ArrayLike | None = None,
) -> UInt8Array:
    """Boxes with class names, and scores where given; the surest are drawn last.

    Args:
        image: (H, W, C) uint8.
        boxes: (N, 4) xyxy in pixels of the image.
        labels: (N,) positions in class_names.
        class_names: K names.
        scores: (N,) in [0, 1].
    """
    canvas, factor = enlarge(image), enlargement(image.shape[:2])
    scaled = np.asarray(boxes, np.float64).reshape(-1, 4) * factor
    numbers = np.asarray(labels, np.int64).reshape(-1)
    shares = None if scores is None else np.asarray(scores, np.float64).reshape(-1)
    order = range(len(scaled)) if shares is None else np.argsort(shares, kind="stable").tolist()
    for i in order:
        x1, y1, x2, y2 = (round(edge) for edge in np.clip(scaled[i], -1e6, 1e6).tolist())
        color = color_of(int(numbers[i]))
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, _thickness(canvas))
        score = "" if shares is None else f" {shares[i]:.2f}"
        _tag(canvas, class_names[int(numbers[i])] + score, (x1, y1), color)
    return canvas


def draw_mask(image: UInt8Array, mask: Array, class_names: Sequence[str], opacity: float = 0.5) -> UInt8Array:
    """Classes as transparent colours, with a legend of those that occur.

    A class named "background" is left as it is; pixels of IGNORE_INDEX are darkened.

    Args:
        image: (H, W, C) uint8.
        mask: (H, W) class per pixel.
        class_names: K names.
        opacity: of the colours, 0..1.
    """
    canvas, factor = enlarge(image), enlargement(image.shape[:2])
    classes = _enlarged(mask, factor)
    hidden = [k for k, name in enumerate(class_names) if name.lower() == "background"]
    table = palette().copy()
    table[IGNORE_INDEX] = 0
    _tint(canvas, classes, ~np.isin(np.arange(256), hidden)[classes], table, opacity)
    y = 0
    for k in np.flatnonzero(np.bincount(classes.ravel(), minlength=1)).tolist():
        if k not in (*hidden, IGNORE_INDEX):
            y += _tag(canvas, class_names[k], (0, y), color_of(k), inside=True)
    return canvas


def draw_instances(
    image: UInt8Array,
    instances: Array,
    labels: npt.ArrayLike = (),
    class_names: Sequence[str] = (),
    scores: npt.ArrayLike | None = None,
) -> UInt8Array:
    """Every object in a colour of its own with a white outline; class names, if there are several, at its middle.

    Args:
        image: (H, W, C) uint8.
        instances: (H, W) label map, 0 = background, 1..N; below 0, unknown, is darkened.
        labels: (N,) class of object k at position k - 1.
        class_names: K names.
        scores: (N,) in [0, 1], shown behind the names.
    """
    canvas, factor = enlarge(image), enlargement(image.shape[:2])
    numbers = _enlarged(instances, factor)
    _tint(canvas, (numbers - 1) % 256, numbers > 0, palette(), 0.55)
    _tint(canvas, np.zeros_like(numbers), numbers < 0, np.zeros((1, 3), np.uint8), 0.55)
    canvas[_outlines(numbers)] = WHITE
    classes = np.asarray(labels, np.int64).reshape(-1)
    shares = None if scores is None else np.asarray(scores, np.float64).reshape(-1)
    if len(class_names) > 1:
        for k, (x, y) in _middles(numbers).items():
            if 0 < k <= len(classes):
                score = "" if shares is None else f" {shares[k - 1]:.2f}"
                label = int(classes[k - 1])
                _tag(canvas, class_names[label] + score, (x, y), color_of(label), centered=True)
    return canvas


def draw_label(image: UInt8Array, lines: Sequence[str], color: Color = GREY) -> UInt8Array:
    """Lines of text in the upper left corner, such as a class and its probability.

    Args:
        image: (H, W, C) uint8.
        lines: one text each.
        color: RGB behind the text; green and red for right and wrong, say.
    """
    canvas, y = enlarge(image), 0
    for line in lines:
        y += _tag(canvas, line, (0, y), color, inside=True)
    return canvas


def reduced(picture: UInt8Array) -> UInt8Array:
    """The picture averaged down by a whole factor to at most KEPT pixels a side: several of 10,000 fill the memory."""
    height, width = picture.shape[:2]
    factor = -(-max(height, width) // KEPT)
    size = (max(width // factor, 1), max(height // factor, 1))
    return picture if factor == 1 else np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def grid(pictures: Sequence[UInt8Array], columns: int = 4, gap: int = 4) -> UInt8Array:
    """Pictures side by side on white, row by row; smaller ones keep their size at the upper left of their cell.

    Args:
        pictures: RGB uint8, at least one.
        columns: pictures in a row.
        gap: pixels between them.
    """
    columns = max(1, min(columns, len(pictures)))
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    canvas = np.full(shape, 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return canvas


def write_picture(path: Path, picture: UInt8Array, quality: int = 88) -> Path:
    """Writes an RGB picture; the ending of the name says the format. Folders are made.

    JPEG cannot hold more than 65,500 pixels a side: larger pictures are thinned out by a whole factor.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    step = -(-max(picture.shape[:2]) // JPEG_LIMIT) if path.suffix in (".jpg", ".jpeg") else 1
    picture = np.ascontiguousarray(picture[::step, ::step])
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix in (".jpg", ".jpeg") else []
    _, data = cv2.imencode(path.suffix, bgr, settings)
    path.write_bytes(data.tobytes())  # not cv2.imwrite, which fails in silence
    return path


def _enlarged(labels: Array, factor: int) -> Int32Array:
    return np.repeat(np.repeat(np.asarray(labels, np.int32), factor, axis=0), factor, axis=1)


def _tint(canvas: UInt8Array, labels: Int32Array, shown: BoolArray, colors: UInt8Array, opacity: float) -> None:
    """Mixes each label's colour into the pixels that are `shown`, in place; by rows, for the memory."""
    for at in range(0, len(canvas), _ROWS):
        part, rows = canvas[at : at + _ROWS], slice(at, at + _ROWS)
        mixed = cv2.addWeighted(part, 1 - opacity, colors[labels[rows]], opacity, 0)
        np.copyto(part, mixed, where=shown[rows, :, None])


def _outlines(numbers: Int32Array) -> BoolArray:
    """Pixels of objects whose right or lower neighbour is of another object or of none."""
    edges = np.zeros(numbers.shape, np.bool_)
    edges[:, :-1] |= numbers[:, :-1] != numbers[:, 1:]
    edges[:-1] |= numbers[:-1] != numbers[1:]
    return edges


def _middles(numbers: Int32Array) -> dict[int, tuple[int, int]]:
    """Object number -> mean (x, y) of its pixels."""
    rows, columns = np.nonzero(numbers > 0)
    found = numbers[rows, columns]
    counts = np.bincount(found)
    x, y = (np.bincount(found, place) / np.maximum(counts, 1) for place in (columns, rows))
    return {int(k): (int(x[k]), int(y[k])) for k in np.flatnonzero(counts)}


def _thickness(canvas: UInt8Array) -> int:
    return max(1, round(float(max(canvas.shape[:2])) / 350))


def _ascii(text: str) -> str:
    """The text without accents: OpenCV draws ASCII only, other letters become "?"."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()


def _tag(
    canvas: UInt8Array, text: str, at: tuple[int, int], color: Color, inside: bool = False, centered: bool = False
) -> int:
    """Text on a coloured ground above `at` (inside: below it), moved into the picture; gives its height in pixels."""
    scale, text = max(0.38, max(canvas.shape[:2]) / 1600), _ascii(text)
    thickness = max(1, round(scale * 1.4))
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    full = int(height + base + 2)
    x = at[0] - (width // 2 if centered else 0)
    y = at[1] - (full // 2 if centered else 0 if inside else full)
    x, y = max(0, min(x, canvas.shape[1] - width - 4)), max(0, min(y, canvas.shape[0] - full))
    cv2.rectangle(canvas, (x, y), (x + width + 3, y + full - 1), color, cv2.FILLED)
    dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 140
    ink = WHITE if dark else (0, 0, 0)
    cv2.putText(canvas, text, (x + 2, y + height + 1), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thickness, cv2.LINE_AA)
    return full
