"""Files of the objects of one picture: label map, measures for a table, outlines for COCO."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import tifffile
from PIL import Image
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.data.rle import encode_label_map
from lit_vision.ops.instances import runs_of
from lit_vision.types import Int32Array, Int64Array

MOST_OBJECTS = 65535  # of a picture: what 16 bits can number
LabelMapKind: TypeAlias = Literal["png", "tiff"]
HEADER = ("path", "label", "object", "score", "area", "x", "y", "left", "top", "width", "height")


class Measures(NamedTuple):
    """Of N objects, in pixels of their label map; zeros for those that have no pixel.

    areas: (N,) pixels.
    centroids: (N, 2) x and y of the mean pixel centre: the single pixel (3, 5) has (3.5, 5.5), 0.5 more than
        scikit-image and StarDist give, which count from a pixel's centre.
    boxes: (N, 4) left, top, width and height.
    """

    areas: Int64Array
    centroids: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    boxes: Int64Array


def measured(instances: Int32Array, count: int) -> Measures:
    """Area, centroid and box of each of the objects 1..count of a label map."""
    starts, lengths = runs_of(np.pad(instances, ((0, 0), (0, 1))))  # no run goes on in the next row
    width = instances.shape[1] + 1
    numbers = np.pad(instances, ((0, 0), (0, 1))).ravel()[starts]
    inside = numbers > 0
    k, starts, lengths = numbers[inside], starts[inside], lengths[inside]
    rows, left = starts // width, starts % width
    areas = np.bincount(k, lengths, count + 1)[1:].astype(np.int64)
    sums = [np.bincount(k, lengths * middle, count + 1)[1:] for middle in (left + lengths / 2, rows + 0.5)]
    corners = np.full((count + 1, 4), [width, len(instances), 0, 0], np.int64)
    for column, (better, edge) in enumerate(
        [(np.minimum, left), (np.minimum, rows), (np.maximum, left + lengths), (np.maximum, rows + 1)]
    ):
        better.at(corners[:, column], k, edge)
    corners = np.where(areas[:, None] > 0, corners[1:], 0)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    return Measures(areas, np.stack(sums, 1) / np.maximum(areas, 1)[:, None], boxes)


def write_label_map(path: Path, instances: Int32Array, kind: LabelMapKind = "png") -> Path:
    """Writes 16 bits, or a TIFF of 32 bits where there are more than 65,535 objects, which is said aloud.

    Args:
        path: without an ending, which may hold dots.
        instances: label map.
        kind: "png", or "tiff" (compressed with deflate, which ImageJ, QuPath and scikit-image read).

    Returns:
        The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = int(instances.max(initial=0))
    many = count > MOST_OBJECTS
    if kind == "png" and not many:
        file = path.parent / f"{path.name}.png"
        Image.fromarray(instances.astype(np.uint16)).save(file)
        return file
    file = path.parent / f"{path.name}.tif"
    values = instances.astype(np.uint32 if many else np.uint16)
    tifffile.imwrite(file, values, compression="zlib", photometric="minisblack")
    if many:
        rank_zero_info(f"{file}: {count:,} objects are more than 16 bits can number, hence a 32-bit TIFF")
    return file


def outlines(instances: Int32Array, measures: Measures) -> Iterator[dict[str, object]]:
    """COCO's segmentation, bbox and area of each object."""
    codes = encode_label_map(instances, len(measures.areas))
    for counts, box, area in zip(codes, measures.boxes.tolist(), measures.areas.tolist(), strict=True):
        rle = {"size": list(instances.shape), "counts": counts.decode("ascii")}
        yield {"segmentation": rle, "bbox": box, "area": area}
