"""The annotations of one COCO file as arrays, in the order of their images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lit_vision.data.formats.boxes import box_fault, faulty_boxes
from lit_vision.data.formats.coco_json import CocoAnnotation, CocoFile, CocoImage, pack_segmentation
from lit_vision.data.formats.outlines import outline_box
from lit_vision.data.index import NO_SEGMENT, RLE
from lit_vision.data.rle import faulty_rles
from lit_vision.types import BoolArray, Int32Array, Int64Array, UInt8Array


class CocoTable(NamedTuple):
    """N images and their M objects, those that cannot be used left out.

    Args:
        sizes: (N, 2) height and width.
        counts: (N,) objects per image.
        labels: (M,) 0-based.
        boxes: (M, 4) xyxy, not clipped.
        crowd: (M,).
        segments: M outlines as `Index.segments` holds them.
        kinds: (M,) what they are.
        unwanted: how many objects are of a class that was not asked for.
    """

    sizes: Int32Array
    counts: Int64Array
    labels: Int32Array
    boxes: npt.NDArray[np.float64]
    crowd: BoolArray
    segments: list[bytes]
    kinds: UInt8Array
    unwanted: int


def make_table(
    document: CocoFile, name: str, labels: Mapping[int, int], outlines: bool, problems: list[str]
) -> CocoTable:
    """Lays out a COCO file.

    Args:
        document: the decoded file.
        name: how sentences call it.
        labels: label of each category id; -1 for categories that are not wanted.
        outlines: whether segmentations are decoded.
        problems: gets a sentence for each record that cannot be used.
    """
    images = document.images
    positions = _positions(images, name, problems)
    sizes = np.array([(image.height, image.width) for image in images], np.int32).reshape(-1, 2)
    rows = _usable(document.annotations, name, positions, labels, problems)
    wanted = [row for row in rows if labels[row.category_id] >= 0]
    owners = np.fromiter((positions[row.image_id] for row in wanted), np.int64, len(wanted))
    order = np.argsort(owners, kind="stable")
    shapes = _Shapes([wanted[k] for k in order], owners[order], sizes, images, name, problems)
    segments, kinds = shapes.segments(outlines)
    boxes = shapes.boxes(segments, kinds)
    keep = shapes.sound(boxes)
    return CocoTable(
        sizes=sizes,
        counts=np.bincount(shapes.owners[keep], minlength=len(images)).astype(np.int64),
        labels=np.array([labels[shapes.rows[k].category_id] for k in keep], np.int32),
        boxes=boxes[keep],
        crowd=np.array([bool(shapes.rows[k].iscrowd) for k in keep], np.bool_),
        segments=[segments[k] for k in keep],
        kinds=kinds[keep],
        unwanted=len(rows) - len(wanted),
    )


def _positions(images: Sequence[CocoImage], name: str, problems: list[str]) -> dict[int, int]:
    positions: dict[int, int] = {}
    for position, image in enumerate(images):
        first = positions.setdefault(image.id, position)
        if first != position:
            problems.append(
                f"{name}: the images {images[first].file_name} and {image.file_name} have the same id {image.id}: "
                f"give each its own."
            )
    return positions


def _usable(
    rows: Sequence[CocoAnnotation],
    name: str,
    positions: Mapping[int, int],
    labels: Mapping[int, int],
    problems: list[str],
) -> list[CocoAnnotation]:
    """The annotations whose ids are unique and point to an image and a category."""
    ids: set[int] = set()
    usable = []
    for row in rows:
        if row.id is not None and row.id in ids:
            problems.append(f"{name}: two annotations have the id {row.id}: give each its own.")
        elif row.image_id not in positions:
            problems.append(
                f"{name}: annotation {row.id} names image {row.image_id}, which is not in images: "
                f"add the image or delete the annotation."
            )
        elif row.category_id not in labels:
            problems.append(
                f"{name}: annotation {row.id} has category {row.category_id}, which is not in categories: "
                f"add the category or correct the annotation."
            )
        else:
            usable.append(row)
        if row.id is not None:
            ids.add(row.id)
    return usable


class _Shapes:
    """Boxes and outlines of annotations, with what is wrong with them."""

    def __init__(
        self,
        rows: list[CocoAnnotation],
        owners: Int64Array,
        sizes: Int32Array,
        images: Sequence[CocoImage],
        name: str,
        problems: list[str],
    ) -> None:
        self.rows, self.owners, self.sizes, self.images = rows, owners, sizes, images
        self.name, self.problems = name, problems
        self.bad: set[int] = set()

    def segments(self, outlines: bool) -> tuple[list[bytes], UInt8Array]:
        """Bytes and kind of every outline; none where they are not asked for and not needed for a box."""
        segments = [b""] * len(self.rows)
        kinds = np.zeros(len(self.rows), np.uint8)
        for k, row in enumerate(self.rows):
            if outlines or row.bbox is None:
                try:
                    kinds[k], segments[k] = pack_segmentation(row.segmentation, self._size(k))
                except ValueError as error:
                    self._report(k, f"its segmentation is malformed ({error}): correct or delete it")
        self._report_faulty_masks(segments, kinds)
        return segments, kinds

    def _report_faulty_masks(self, segments: Sequence[bytes], kinds: UInt8Array) -> None:
        masks = np.flatnonzero(kinds == RLE)
        areas = self.sizes[self.owners[masks]].astype(np.int64).prod(1)
        for place in faulty_rles([segments[k] for k in masks.tolist()], areas):
            k = int(masks[place])
            self._report(k, "its run lengths are malformed or do not fill the image: correct or delete it")

    def boxes(self, segments: Sequence[bytes], kinds: UInt8Array) -> npt.NDArray[np.float64]:
        """(M, 4) xyxy, from bbox, or round the outline where there is no bbox."""
        boxes = np.array([row.bbox or (0.0, 0.0, 0.0, 0.0) for row in self.rows], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        for k, row in enumerate(self.rows):
            if row.bbox is None and k not in self.bad:
                if kinds[k] == NO_SEGMENT:
                    self._report(k, "it has neither bbox nor segmentation: add one or delete it")
                else:
                    boxes[k] = outline_box(int(kinds[k]), segments[k], self._size(k))
        return boxes

    def sound(self, boxes: npt.NDArray[np.float64]) -> Int64Array:
        """Positions of the annotations with nothing wrong; the others are reported."""
        for k in faulty_boxes(boxes, self.sizes[self.owners]).tolist():
            if k not in self.bad:
                x1, y1, x2, y2 = boxes[k].tolist()
                fault = box_fault((x1, y1, x2, y2), self._size(k))
                self._report(
                    k, f"its box {[x1, y1, x2 - x1, y2 - y1]} (x, y, width, height) {fault}: correct or delete it"
                )
        return np.array([k for k in range(len(self.rows)) if k not in self.bad], np.int64)

    def _size(self, k: int) -> tuple[int, int]:
        height, width = self.sizes[self.owners[k]].tolist()
        return height, width

    def _report(self, k: int, what: str) -> None:
        self.bad.add(k)
        file = self.images[self.owners[k]].file_name
        self.problems.append(f"{self.name}: annotation {self.rows[k].id} of {file}: {what}.")
