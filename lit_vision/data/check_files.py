"""Whether the files of a data set can be read and fit each other, many at a time."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lit_vision.data import FILES_CHECKED
from lit_vision.data.decode import check_file, read_mask, read_size
from lit_vision.data.index import FILE, Index
from lit_vision.data.rasterise import mask_values, object_file, rasterise
from lit_vision.errors import UserError
from lit_vision.types import IGNORE_INDEX, BoolArray, Int32Array

_CHUNK = 2048  # images submitted at a time; a million at once would fill the memory
_FEW = 8  # numbers in a label map that may be classes


class Finding(NamedTuple):
    """What the files say.

    Args:
        sizes: (N, 2) height and width of the images; those of images in no split stay as they were.
        shown: (K,) classes that masks of the training split show.
        unread: whether a mask of the training split could not be read, so that `shown` may lack classes.
        torn: label maps of few objects, each in several parts, and label maps with objects.
        unknown: pixels of 255 in the class masks of the training split, and all their pixels.
    """

    sizes: Int32Array
    shown: BoolArray
    unread: bool
    torn: tuple[int, int] = (0, 0)
    unknown: tuple[int, int] = (0, 0)


class _Look(NamedTuple):
    problems: list[str]
    size: tuple[int, int]
    labels: set[int]
    torn: bool = False
    unknown: int = 0  # pixels


def look_at_files(
    index: Index, problems: list[str], progress: Callable[[int, int], None] | None, workers: int
) -> Finding:
    """Reads the headers of all images in a split, and all their masks.

    Args:
        index: the data set.
        problems: gets a sentence for each file that cannot be used.
        progress: called with the images done and all images.
        workers: threads.
    """
    kept = Path(os.environ.get(FILES_CHECKED, os.devnull))
    if kept.is_file():
        found = np.load(kept)
        return Finding(found["sizes"], found["shown"], unread=False)
    finding = _look_at_all(index, problems, progress, workers)
    if FILES_CHECKED in os.environ and not problems:
        np.savez(kept, sizes=finding.sizes, shown=finding.shown)
    return finding


def _look_at_all(
    index: Index, problems: list[str], progress: Callable[[int, int], None] | None, workers: int
) -> Finding:
    used = np.flatnonzero(index.splits >= 0).tolist()
    sizes: Int32Array = index.sizes.copy()
    shown = np.zeros(len(index.class_names), np.bool_)
    unread, torn, maps, unknown, pixels = False, 0, 0, 0, 0
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for at in range(0, len(used), _CHUNK):
            chunk = used[at : at + _CHUNK]
            for done, (i, look) in enumerate(zip(chunk, pool.map(partial(_look, index), chunk), strict=True), at + 1):
                problems += look.problems
                sizes[i] = look.size
                torn, maps = torn + look.torn, maps + bool(look.labels)
                if index.splits[i] == 0:
                    shown[list(look.labels)] = True
                    unread |= bool(look.problems)
                    unknown, pixels = unknown + look.unknown, pixels + look.size[0] * look.size[1]
                if progress is not None:
                    progress(done, len(used))
    return Finding(sizes, shown, unread and index.mask_kind != "none", (torn, maps), (unknown, pixels))


def _look(index: Index, i: int) -> _Look:
    path = index.path(i)
    problem = check_file(path)
    if problem is not None:
        return _Look([problem], (0, 0), set())
    try:
        size = read_size(path)
    except UserError as error:
        return _Look([str(error)], (0, 0), set())
    height, width = index.sizes[i].tolist()
    if height and width and (height, width) != size:
        fault = (
            f"{path} is {size[1]} x {size[0]} (upright), but its annotations are for {width} x {height}: "
            f"correct the annotations' width and height, or the image."
        )
        return _Look([fault], size, set())
    return _look_at_masks(index, i, size)


def _look_at_masks(index: Index, i: int, size: tuple[int, int]) -> _Look:
    try:
        if index.mask_kind == "classes":
            return _look_at_classes(index, i, size)
        if index.mask_kind == "instances":
            instances, labels, _ = rasterise(index, i, size)
            return _Look([], size, set(labels.tolist()), _is_torn(instances, len(labels)))
    except UserError as error:
        return _Look([str(error)], size, set())
    problems: list[str] = []
    if index.segment_kinds is not None and index.segments is not None:
        span = index.span(i)
        for k in range(span.start, span.stop):
            if index.segment_kinds[k] == FILE:
                _look_at_object(index, index.segments.text(k), size, problems)
    return _Look(problems, size, set())


def _is_torn(instances: Int32Array, count: int) -> bool:
    """Whether there are few objects and each has several parts, as classes have."""
    return 0 < count <= _FEW and all(
        cv2.connectedComponents((instances == k).astype(np.uint8))[0] > 2 for k in range(1, count + 1)
    )


def _look_at_object(index: Index, file: str, size: tuple[int, int], problems: list[str]) -> None:
    try:
        if not object_file(index, file, size).any():
            problems.append(f"{index.root / file} has no pixel that is not 0: delete it or draw the object.")
    except UserError as error:
        problems.append(str(error))


def _look_at_classes(index: Index, i: int, size: tuple[int, int]) -> _Look:
    path = index.root / (index.masks.text(i) if index.masks is not None else "")
    mask = read_mask(path, index.colors)
    if mask.shape != size:
        fault = (
            f"{path} is {mask.shape[1]} x {mask.shape[0]}, but its image is {size[1]} x {size[0]}: "
            f"make the mask as large as the image."
        )
        return _Look([fault], size, set())
    # A file's numbers are counted before those to ignore become 255.
    counts = np.bincount(mask.ravel(), minlength=256)
    problems: list[str] = []
    values = set(mask_values(index)[np.flatnonzero(counts)].tolist()) - {IGNORE_INDEX}
    if wrong := sorted(value for value in values if value >= len(index.class_names)):
        problems.append(
            f"{path} has the value {wrong[0]}, but there are {len(index.class_names)} classes, 0 to "
            f"{len(index.class_names) - 1}: correct the mask, add class names, or set ignore_index (or "
            "colors, where the values are shades of grey)."
        )
    shown = {value for value in values if value < len(index.class_names)}
    return _Look(problems, size, shown, unknown=int(counts[IGNORE_INDEX]))
