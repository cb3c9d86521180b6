"""Writes an index as YOLO text labels."""

from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from lit_vision.data.formats.outlines import mask_polygons
from lit_vision.data.formats.output import new_folder, place_image, size_of, unique_names
from lit_vision.data.index import POLYGONS, RLE, Index
from lit_vision.data.rle import decode_rle, polygon_rle, split_rings
from lit_vision.types import SPLITS, FloatArray

__all__ = ["write"]

_OVERSHOOT = 1  # pixels by which corners are moved into the image: some readers refuse fractions below 0 or above 1


def write(index: Index, output: Path, link: bool = False) -> list[str]:
    """Writes `data.yaml`, `images/<split>/` and `labels/<split>/*.txt`; objects with an outline become polygons.

    Crowds, holes and lesser parts are lost. See `output.py` for arguments and errors.
    """
    new_folder(output, index)
    losses = {"crowd": 0, "parts": 0, "holes": 0, "split": int((index.splits < 0).sum())}
    splits = np.maximum(index.splits, 0)
    for i, name in enumerate(unique_names(index)):
        split = SPLITS[splits[i]]
        place_image(index.path(i), output / "images" / split / name, link)
        label = output / "labels" / split / f"{PurePosixPath(name).stem}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("".join(_lines(index, i, losses)), "utf-8")
    content = {"path": "."} | {SPLITS[k]: f"images/{SPLITS[k]}" for k in sorted(set(splits.tolist()))}
    names = {"names": dict(enumerate(index.class_names))}
    (output / "data.yaml").write_text(yaml.safe_dump(content | names, sort_keys=False, allow_unicode=True), "utf-8")
    return _sentences(losses)


def _sentences(losses: dict[str, int]) -> list[str]:
    texts = {
        "crowd": "YOLO labels have no crowds: {} crowd regions were left out.",
        "parts": "A YOLO polygon is one ring: of {} objects in several parts only the largest part was kept.",
        "holes": "A YOLO polygon has no holes: those of {} objects were filled.",
        "split": "YOLO needs a split for every image: {} images without one were put into train.",
    }
    return [texts[key].format(count) for key, count in losses.items() if count]


def _lines(index: Index, i: int, losses: dict[str, int]) -> list[str]:
    height, width = size_of(index, i)
    scale = np.array([width, height], np.float64)
    lines = []
    span = index.span(i)
    for k in range(span.start, span.stop):
        if index.crowd is not None and index.crowd[k]:
            losses["crowd"] += 1
            continue
        rings, holes = _rings(index, k, (height, width))
        losses["parts"] += len(rings) > 1
        losses["holes"] += holes
        box = np.zeros((2, 2)) if index.boxes is None else index.boxes[k].astype(np.float64).reshape(2, 2)
        low, high = np.clip(box, 0, scale)
        places = max(rings, key=_area).astype(np.float64) / scale if rings else ((low + high) / 2, high - low) / scale
        numbers = " ".join(repr(float(value)) for value in places.ravel())
        lines.append(f"{index.labels[k]} {numbers}\n")
    return lines


def _rings(index: Index, k: int, size: tuple[int, int]) -> tuple[list[FloatArray], bool]:
    """Outlines of an object, and whether they leave out its holes; the rings of COCO's polygons are united, not cut."""
    if index.segments is None or index.segment_kinds is None:
        return [], False
    if index.segment_kinds[k] == POLYGONS:
        points: FloatArray = np.frombuffer(index.segments.raw(k), np.float32).reshape(-1, 2)
        inside = np.clip(points, 0, np.array(size[::-1], np.float32))
        if np.nanmax(np.abs(points - inside)) <= _OVERSHOOT:
            return split_rings(inside), False
        return mask_polygons(decode_rle(polygon_rle(points, size), size))  # moving its corners would bend it
    return mask_polygons(decode_rle(index.segments.raw(k), size)) if index.segment_kinds[k] == RLE else ([], False)


def _area(ring: FloatArray) -> float:
    """The shoelace formula."""
    x, y = ring.astype(np.float64).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
