"""From one annotation format to another."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from scipy.ndimage import find_objects

from lit_vision.data.formats import coco, options_of_words, read, recognise, voc, yolo
from lit_vision.data.formats.files import nearest
from lit_vision.data.formats.outlines import Box, mask_box
from lit_vision.data.formats.output import require_free, size_of
from lit_vision.data.index import RLE, Index, Packed
from lit_vision.data.rasterise import object_file, rasterise
from lit_vision.data.rle import encode_label_map, encode_rle
from lit_vision.errors import DataError, UserError

Target = Literal["coco", "voc", "yolo"]
_WRITERS: dict[str, Callable[..., list[str]]] = {"coco": coco.write, "voc": voc.write, "yolo": yolo.write}


def convert(
    source: Path | str,
    output: Path | str,
    to: Target,
    format: str = "auto",
    *,
    options: Mapping[str, Any] | None = None,
    link: bool = False,
) -> list[str]:
    """Writes a data set of objects in another format. The source is only read.

    Args:
        source: the data set.
        output: an empty or new folder outside of it.
        to: the format to write.
        format: the format of the source; recognised where "auto".
        options: options of the source's reader.
        link: symbolic links to the images instead of copies.

    Returns:
        Sentences: what was recognised, mended, and what the new format cannot hold, with counts.

    Raises:
        UserError: a setting is wrong, or the source holds no objects.
        DataError: records of the source cannot be used.
    """
    if to not in _WRITERS:
        raise UserError(f"There is no format {to!r} to write: {nearest(to, get_args(Target))}")
    require_free(Path(output))  # before large data sets are read
    index = read(source, format, **(options or {}))
    if index.problems:
        raise DataError(index.problems)
    index = with_objects(index)
    return [*index.notes, *_WRITERS[to](index, Path(output), link)]


def convert_by_words(
    source: Path, output: Path, to: Target, format: str, words: Mapping[str, str], link: bool
) -> list[str]:
    """`convert` with the reader's options as they stand on a command line."""
    known = recognise(source) if words and format == "auto" else format
    return convert(source, output, to, format, options=options_of_words(known, words), link=link)


def with_objects(index: Index) -> Index:
    """The index with a box for every object, and masks of objects as run lengths instead of files.

    Raises:
        UserError: the index holds no objects, but labels of images or class masks.
    """
    if index.mask_kind == "classes":
        raise UserError(f"{index.root} holds class masks, which say no objects: COCO, VOC and YOLO cannot hold them.")
    if index.mask_kind == "none" and index.segments is None:
        raise UserError(f"{index.root} holds labels of whole images: COCO, VOC and YOLO cannot hold them.")
    if index.mask_kind == "instances":
        return _from_label_maps(index)
    if index.boxes is None and index.segments is not None:
        return _from_files(index, index.segments)
    return index


def _from_label_maps(index: Index) -> Index:
    labels: list[int] = []
    segments: list[bytes] = []
    boxes: list[Box] = []
    counts: list[int] = []
    for i in range(len(index)):
        instances, classes, _ = rasterise(index, i, size_of(index, i))
        counts.append(len(classes))
        labels += classes.tolist()
        segments += encode_label_map(instances, len(classes))
        boxes += [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in find_objects(instances)]
    offsets = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)
    bare = replace(index, mask_kind="none", masks=None, class_masks=None, offsets=offsets)
    return _placed(replace(bare, labels=np.array(labels, np.int32)), segments, boxes)


def _from_files(index: Index, files: Packed) -> Index:
    segments: list[bytes] = []
    boxes: list[Box] = []
    for i in range(len(index)):
        span, size = index.span(i), size_of(index, i)
        for k in range(span.start, span.stop):
            mask = object_file(index, files.text(k), size)
            if not mask.any():
                raise UserError(
                    f"{index.root / files.text(k)} has no pixel that is not 0: delete it or draw the object."
                )
            segments.append(encode_rle(mask))
            boxes.append(mask_box(mask))
    return _placed(index, segments, boxes)


def _placed(index: Index, segments: list[bytes], boxes: list[Box]) -> Index:
    return replace(
        index,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        crowd=np.zeros(len(boxes), np.bool_),
        segments=Packed.pack(segments),
        segment_kinds=np.full(len(boxes), RLE, np.uint8),
    )
