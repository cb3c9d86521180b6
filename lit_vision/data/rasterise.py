"""Annotations of one image as pixels: a label map of its objects, or a class mask."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, cast

import cv2
import numpy as np

from lit_vision.data.decode import read_label_map, read_mask
from lit_vision.data.index import FILE, POLYGONS, RLE, Index
from lit_vision.data.rle import pixels_of, polygon_rle
from lit_vision.errors import DataError, UserError
from lit_vision.ops.instances import runs_of
from lit_vision.types import IGNORE_INDEX, BoolArray, FloatArray, Int32Array, Int64Array, UInt8Array

AnyArray = TypeVar("AnyArray", Int32Array, BoolArray)
CROWD = -1
BACKGROUND = "background"


def rasterise(index: Index, i: int, size: tuple[int, int]) -> tuple[Int32Array, Int64Array, BoolArray]:
    """The objects of image i as a label map.

    Where objects overlap, the smaller one is seen: it lies on the larger more often than under it. Objects of which
    no pixel is seen get no number. Polygons and run lengths give the very pixels that pycocotools gives. The objects of
    a label map get their class by vote of the pixels of the class mask; without one they are all of class 0.

    Args:
        index: annotations with outlines, mask files or label maps; objects with a box alone are left out.
        i: position of the image.
        size: its height and width.

    Returns:
        (H, W) int32 label map, 0 = background, 1..N = objects, -1 = crowd where no object is seen; (N,) labels;
        (H, W) bool, where crowds are.

    Raises:
        UserError: a mask file is missing, damaged or of another size, or an object has no class.
    """
    if index.mask_kind == "instances":
        instances, labels = _from_label_map(index, i, size)
        return instances, labels, np.zeros(size, np.bool_)
    height, width = size
    crowd, instances = np.zeros(height * width, np.bool_), np.zeros(height * width, np.int32)
    solid: list[tuple[int, Int64Array]] = []
    for k, pixels in object_pixels(index, i, size):
        if index.crowd is not None and index.crowd[k]:
            crowd[pixels] = True
        else:
            solid.append((k, pixels))
    for number in sorted(range(len(solid)), key=lambda n: (-len(solid[n][1]), n)):
        instances[solid[number][1]] = number + 1
    instances, kept = renumber(instances)
    instances[crowd & (instances == 0)] = CROWD
    labels = index.labels[[k for k, _ in solid]].astype(np.int64) if solid else np.zeros(0, np.int64)
    return _upright(instances, size), labels[kept - 1], _upright(crowd, size)


def _upright(columns: AnyArray, size: tuple[int, int]) -> AnyArray:
    """(H, W) from pixels in the order of run lengths: down the columns."""
    return np.ascontiguousarray(columns.reshape(size[1], size[0]).T)


def object_pixels(index: Index, i: int, size: tuple[int, int]) -> Iterator[tuple[int, Int64Array]]:
    """Position in the index's objects, and places of the pixels, of each object of image i that has an outline.

    Pixel (y, x) has the place x * H + y, as in run lengths; small objects in large images then cost little.

    Raises:
        UserError: an object's mask file is missing, damaged or of another size.
    """
    if index.segments is None or index.segment_kinds is None:
        return
    span = index.span(i)
    for k in range(span.start, span.stop):
        kind, raw = int(index.segment_kinds[k]), index.segments.raw(k)
        if kind == FILE:
            yield k, np.flatnonzero(object_file(index, os.fsdecode(raw), size).T)
        elif kind in (POLYGONS, RLE):
            points: FloatArray = np.frombuffer(raw if kind == POLYGONS else b"", np.float32).reshape(-1, 2)
            compressed = polygon_rle(points, size) if kind == POLYGONS else raw
            try:
                yield k, pixels_of(compressed, size)
            except ValueError as error:
                raise UserError(f"{index.path(i)}: an object's run lengths do not fit it: {error}.") from None


def object_file(index: Index, file: str, size: tuple[int, int]) -> BoolArray:
    """(H, W) mask of an object from its own file: whatever is not 0.

    Raises:
        UserError: the file is missing, damaged or of another size.
    """
    values = read_label_map(index.root / file)
    _require_size(values, size, index.root / file)
    return values > 0


def renumber(instances: Int32Array) -> tuple[Int32Array, Int64Array]:
    """Numbers the objects of a label map 1..N without gaps, in the order of their old numbers.

    Returns:
        The new label map, and (N,) the old numbers.
    """
    old = np.unique(instances.ravel()[runs_of(instances)[0]])  # far fewer runs than pixels
    old = old[old > 0]
    if len(old) == 0:
        return np.zeros_like(instances), np.zeros(0, np.int64)
    if int(old[-1]) == len(old):
        return instances, old.astype(np.int64)
    found = np.searchsorted(old, instances).astype(np.int32)
    return np.where(instances > 0, found + 1, 0).astype(np.int32), old.astype(np.int64)


def _from_label_map(index: Index, i: int, size: tuple[int, int]) -> tuple[Int32Array, Int64Array]:
    path = index.root / (index.masks.text(i) if index.masks is not None else "")
    instances = read_label_map(path)
    _require_size(instances, size, path)
    instances, old = renumber(instances)
    name = index.class_masks.text(i) if index.class_masks is not None else ""
    if not name:
        return instances, np.zeros(len(old), np.int64)
    classes = read_mask(index.root / name)
    _require_size(classes, size, index.root / name)
    return instances, _vote(instances, classes, old, len(index.class_names), index.root / name)


def _vote(instances: Int32Array, classes: UInt8Array, old: Int64Array, num_classes: int, file: Path) -> Int64Array:
    """The commonest class among each object's pixels; background (0) and what is no class have no vote.

    Args:
        instances: label map of the objects 1..N.
        classes: (H, W) 1 + class.
        old: (N,) the objects' numbers in their file.
        num_classes: K.
        file: of the class mask, for errors.
    """
    ballots = (instances[instances > 0].astype(np.int64) - 1) * 256 + classes[instances > 0]
    votes = np.bincount(ballots, minlength=len(old) * 256).reshape(len(old), 256)
    valid = votes[:, 1 : min(num_classes, IGNORE_INDEX - 1) + 1]
    silent = np.flatnonzero(valid.sum(1) == 0)
    if len(silent):
        other = [value for value in np.flatnonzero(votes[silent[0]]).tolist() if num_classes < value != IGNORE_INDEX]
        why = f", but the value {other[0]}, and there are {num_classes} classes" if other else ""
        raise UserError(f"{file} gives object {old[silent[0]]} no class{why}: paint its pixels with 1 + class.")
    labels: Int64Array = valid.argmax(1).astype(np.int64)
    return labels


def segmentation_classes(index: Index) -> tuple[str, ...]:
    """The class names that the values of `class_mask` stand for: with "background" first where objects are painted."""
    return index.class_names if index.mask_kind == "classes" else (BACKGROUND, *index.class_names)


def refuse_more_than_bytes(index: Index) -> None:
    """Class masks are of bytes, of which the last is for what is ignored.

    Raises:
        DataError: there are more classes.
    """
    names = segmentation_classes(index)
    if len(names) > IGNORE_INDEX:
        beside = "" if index.mask_kind == "classes" else " beside the background"
        most = IGNORE_INDEX - (len(names) - len(index.class_names))
        raise DataError(
            [
                f"{index.root} has {len(index.class_names)} classes, but a class mask holds at most {most}{beside}: "
                "leave some out of the annotations, or merge several into one."
            ]
        )


def class_mask(index: Index, i: int, size: tuple[int, int]) -> UInt8Array:
    """The class of every pixel of image i.

    Args:
        index: annotations with class masks (colours and `ignore_index` are brought to class numbers), or with objects
            that are painted: 0 = background, 1 + label inside objects, 255 in crowds.
        i: position of the image.
        size: its height and width.

    Returns:
        (H, W) uint8, a position in `segmentation_classes(index)`; 255 = ignore.

    Raises:
        UserError: a mask file is missing, damaged, of another size, or has a colour that stands for nothing.
    """
    if index.mask_kind != "classes":
        instances, labels, _ = rasterise(index, i, size)
        values = np.concatenate([[0], labels + 1, [IGNORE_INDEX]]).astype(np.uint8)  # -1 finds the last one: crowd
        return values[instances]
    path = index.root / (index.masks.text(i) if index.masks is not None else "")
    mask = read_mask(path, index.colors)
    _require_size(mask, size, path)
    # A look-up by OpenCV takes a fifth of the time of numpy's.
    return cast(UInt8Array, cv2.LUT(mask, mask_values(index)))


def mask_values(index: Index) -> UInt8Array:
    """(256,) table from the numbers in a mask file to classes: what is to be ignored becomes 255."""
    values = np.arange(256, dtype=np.uint8)
    values[index.ignore_index] = IGNORE_INDEX
    if index.colors is not None:
        values[len(index.class_names) : len(index.colors)] = IGNORE_INDEX
    return values


def _require_size(values: Int32Array | UInt8Array, size: tuple[int, int], path: object) -> None:
    if values.shape != size:
        raise UserError(
            f"{path} is {values.shape[1]} x {values.shape[0]}, but its image is {size[1]} x {size[0]}: "
            f"make the mask as large as the image."
        )
