"""Annotations of a whole data set in flat arrays: no Python object per sample, nothing for forked workers to copy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lit_vision.types import IGNORE_INDEX, SPLITS, BoolArray, FloatArray, Int32Array, Int64Array, Split, UInt8Array

MaskKind = Literal["none", "classes", "instances"]
NO_SEGMENT, POLYGONS, RLE, FILE = 0, 1, 2, 3


@dataclass(frozen=True)
class Packed:
    """N byte strings in one array: item i is data[offsets[i]:offsets[i + 1]]."""

    data: UInt8Array
    offsets: Int64Array

    @classmethod
    def pack(cls, items: Iterable[bytes | str]) -> "Packed":
        """Items as one array; text is encoded as utf-8, and file names as Python has them if they are none."""
        encoded = [item.encode(errors="surrogateescape") if isinstance(item, str) else item for item in items]
        lengths = np.fromiter((len(item) for item in encoded), np.int64, len(encoded))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def raw(self, i: int) -> bytes:
        """Bytes of item i."""
        return self.data[self.offsets[i] : self.offsets[i + 1]].tobytes()

    def text(self, i: int) -> str:
        """Item i as text (utf-8)."""
        return self.raw(i).decode(errors="surrogateescape")

    def texts(self) -> list[str]:
        """All items as text."""
        return [self.text(i) for i in range(len(self))]

    def take(self, indices: Int64Array) -> "Packed":
        """The items at these positions, in this order."""
        return Packed.pack(self.raw(int(i)) for i in indices)


@dataclass(frozen=True)
class Index:
    """N images and their M annotations.

    Args:
        root: folder that `files` and `masks` are relative to.
        format: the reader that made it, such as "coco".
        class_names: K names; a label is a position in it.
        files: N image paths, relative to root, with forward slashes.
        sizes: (N, 2) int32 height and width after EXIF rotation; 0 where the format does not say.
        splits: (N,) int8 position in SPLITS; -1 where the format does not say.
        offsets: (N + 1,) int64; annotations of image i are at offsets[i]:offsets[i + 1] of the arrays below.
        labels: (M,) int32. For classification, the labels of the image itself (several = multi-label).
        boxes: (M, 4) float32 xyxy, pixels of the original image; None where annotations have no place.
        crowd: (M,) bool; regions that are neither objects nor background.
        segments: M outlines. Kind POLYGONS: float32 (n, 2) points with a (NaN, NaN) row between rings.
            Kind RLE: COCO's compressed counts. Kind FILE: path of an object's own mask file, relative to root.
        segment_kinds: (M,) uint8, one of NO_SEGMENT, POLYGONS, RLE, FILE.
        masks: N paths of class masks or label maps, relative to root; "" where an image has none.
        mask_kind: what `masks` hold: a class per pixel, or an object number per pixel.
        class_masks: for label maps of several classes: N paths of class masks (0 background, 1 + class).
        colors: (K, 3) uint8 RGB; given where class masks are RGB pictures. Rows beyond K are colours to ignore.
        ignore_index: the value in the files of class masks that means "no class known".
        groups: N group names for k-fold; None where the format has none.
        multi_label: whether images can have several labels, or none (classification).
        notes: what the reader mended or skipped, a sentence each, to be shown to the user.
        problems: records the reader had to leave out, a sentence each; `data.check.check` raises them with its own.
        absent_test: a sentence where the data set names a test split that is not there; only a test is refused for it.
    """

    root: Path
    format: str
    class_names: tuple[str, ...]
    files: Packed
    sizes: Int32Array
    splits: np.ndarray[tuple[int], np.dtype[np.int8]]
    offsets: Int64Array
    labels: Int32Array
    boxes: FloatArray | None = None
    crowd: BoolArray | None = None
    segments: Packed | None = None
    segment_kinds: UInt8Array | None = None
    masks: Packed | None = None
    mask_kind: MaskKind = "none"
    class_masks: Packed | None = None
    colors: UInt8Array | None = None
    groups: Packed | None = None
    multi_label: bool = False
    notes: tuple[str, ...] = field(default=())
    ignore_index: int = IGNORE_INDEX
    problems: tuple[str, ...] = ()
    absent_test: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def path(self, i: int) -> Path:
        """Absolute path of image i."""
        return self.root / self.files.text(i)

    def span(self, i: int) -> slice:
        """Where the annotations of image i lie in labels, boxes, crowd and segments."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def indices(self, split: Split) -> Int64Array:
        """Positions of the images of a split, in order."""
        return np.flatnonzero(self.splits == SPLITS.index(split)).astype(np.int64)

    def with_splits(self, splits: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int8]]) -> "Index":
        """The same annotations under another division into splits."""
        return replace(self, splits=np.asarray(splits, np.int8))
