"""Collects the images and objects a reader meets, then lays them out as an Index."""

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lit_vision.data.formats.boxes import clip_boxes, clip_note
from lit_vision.data.index import NO_SEGMENT, Index, MaskKind, Packed
from lit_vision.types import BoolArray, FloatArray, Int32Array, UInt8Array


class IndexBuilder:
    """Growing arrays, one row per image and one per object: a million objects take tens of megabytes.

    Args:
        root: folder that all paths are relative to.
        format: name of the format.
        places: whether the objects have boxes and outlines; False for the labels of whole images.
    """

    def __init__(self, root: Path, format: str, places: bool = False) -> None:
        self.root, self.format, self.places = root, format, places
        self.notes: list[str] = []
        self.problems: list[str] = []
        self._files: list[str] = []
        self._masks: list[str] = []
        self._class_masks: list[str] = []
        self._groups: list[str] = []
        self._splits, self._sizes, self._counts = array("b"), array("i"), array("q")
        self._labels, self._boxes, self._crowd, self._kinds = array("i"), array("d"), array("b"), array("B")
        self._segments: list[bytes] = []

    def __len__(self) -> int:
        return len(self._files)

    def add_image(
        self,
        file: str,
        split: int = -1,
        size: tuple[int, int] = (0, 0),
        mask: str = "",
        class_mask: str = "",
        group: str = "",
    ) -> None:
        """Appends an image; the objects added after it are its own."""
        self._files.append(file)
        self._splits.append(split)
        self._sizes.extend(size)
        self._counts.append(0)
        self._masks.append(mask)
        self._class_masks.append(class_mask)
        self._groups.append(group)

    def add_object(
        self,
        label: int,
        box: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        crowd: bool = False,
        segment: bytes = b"",
        kind: int = NO_SEGMENT,
    ) -> None:
        """Appends an object to the last image; box (x1, y1, x2, y2) in pixels."""
        self._counts[-1] += 1
        self._labels.append(label)
        if self.places:
            self._boxes.extend(box)
            self._crowd.append(crowd)
            self._segments.append(segment)
            self._kinds.append(kind)

    def build(
        self,
        class_names: Sequence[str],
        mask_kind: MaskKind = "none",
        colors: UInt8Array | None = None,
        multi_label: bool = False,
        boxes: bool = True,
        ignore_index: int = 255,
    ) -> Index:
        """The Index of everything added; boxes that stick out of their images are clipped, with a note."""
        counts = np.frombuffer(self._counts, np.int64) if self._counts else np.zeros(0, np.int64)
        sizes: Int32Array = np.array(self._sizes, np.int32).reshape(-1, 2)
        return Index(
            root=self.root,
            format=self.format,
            class_names=tuple(class_names),
            files=Packed.pack(self._files),
            sizes=sizes,
            splits=np.array(self._splits, np.int8),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
            labels=np.array(self._labels, np.int32),
            boxes=self._clipped(np.repeat(sizes, counts, axis=0)) if self.places and boxes else None,
            crowd=self._crowds() if self.places else None,
            segments=Packed.pack(self._segments) if self.places else None,
            segment_kinds=np.array(self._kinds, np.uint8) if self.places else None,
            masks=Packed.pack(self._masks) if mask_kind != "none" else None,
            mask_kind=mask_kind,
            class_masks=Packed.pack(self._class_masks) if any(self._class_masks) else None,
            colors=colors,
            groups=Packed.pack(self._groups) if any(self._groups) else None,
            multi_label=multi_label,
            notes=tuple(self.notes),
            ignore_index=ignore_index,
            problems=tuple(self.problems),
        )

    def _crowds(self) -> BoolArray:
        return np.array(self._crowd, np.int8).astype(np.bool_)

    def _clipped(self, sizes: Int32Array) -> FloatArray:
        boxes, overhang = clip_boxes(np.array(self._boxes, np.float64).reshape(-1, 4), sizes)
        self.notes.extend(clip_note(overhang))
        return boxes
