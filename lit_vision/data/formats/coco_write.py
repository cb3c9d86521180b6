"""Writes an index as COCO files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lit_vision.data.formats.output import new_folder, place_image, size_of, unique_names
from lit_vision.data.index import POLYGONS, RLE, Index
from lit_vision.data.rle import counts_of, polygon_rle, split_rings
from lit_vision.types import SPLITS, FloatArray

__all__ = ["write"]


def write(index: Index, output: Path, link: bool = False) -> list[str]:
    """Writes `annotations/instances_<split>.json` and `images/<split>/`.

    Nothing is lost. See `output.py` for arguments and errors.
    """
    new_folder(output, index)
    (output / "annotations").mkdir()
    names = unique_names(index)
    categories = [{"id": k + 1, "name": name, "supercategory": ""} for k, name in enumerate(index.class_names)]
    for split in sorted(set(index.splits.tolist())):
        name = SPLITS[split] if split >= 0 else ""
        folder = output / "images" / name
        images, annotations = [], []
        for i in np.flatnonzero(index.splits == split).tolist():
            place_image(index.path(i), folder / names[i], link)
            height, width = size_of(index, i)
            images.append({"id": i + 1, "file_name": names[i], "width": width, "height": height})
            annotations += list(_annotations(index, i, (height, width)))
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = output / "annotations" / (f"instances_{name}.json" if name else "instances.json")
        file.write_bytes(msgspec.json.encode(content))
    return []


def _annotations(index: Index, i: int, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    span = index.span(i)
    for k in range(span.start, span.stop):
        x1, y1, x2, y2 = (0.0,) * 4 if index.boxes is None else index.boxes[k].tolist()
        segmentation, area = _segmentation(index, k, size)
        yield {
            "id": k + 1,
            "image_id": i + 1,
            "category_id": int(index.labels[k]) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1) if area is None else area,
            "iscrowd": int(index.crowd is not None and index.crowd[k]),
            "segmentation": segmentation,
        }


def _segmentation(index: Index, k: int, size: tuple[int, int]) -> tuple[Any, float | None]:
    """COCO's value for outline k and its area in pixels; an empty list and None where there is no outline."""
    kind = 0 if index.segments is None or index.segment_kinds is None else int(index.segment_kinds[k])
    raw = index.segments.raw(k) if index.segments is not None else b""
    if kind == POLYGONS:
        points: FloatArray = np.frombuffer(raw, np.float32).reshape(-1, 2)
        area = float(counts_of(polygon_rle(points, size))[1::2].sum())
        return [ring.astype(np.float64).ravel().tolist() for ring in split_rings(points)], area
    if kind == RLE:
        return {"size": list(size), "counts": raw.decode()}, float(counts_of(raw)[1::2].sum())
    return [], None
