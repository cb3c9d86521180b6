"""Pictures to classify cut out of a data set of boxes: each object, and places without one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lit_vision.data.decode import read_size
from lit_vision.data.index import Index
from lit_vision.data.warp import FILL
from lit_vision.errors import DataError, UserError
from lit_vision.ops.boxes import covered, iou
from lit_vision.types import SPLITS, BoolArray, FloatArray, UInt8Array

BACKGROUND = "background"
TRIES = 20  # boxes drawn for each one that is wanted


@dataclass(frozen=True)
class ObjectCrops:
    """How objects with boxes become pictures of their class.

    Args:
        background: crops of each picture that show no object; they are of a class "background" of their own. 0 = none.
        background_iou: a background crop's IoU with each object is below it, and the share of it that lies in a crowd
            region likewise.
        margin: what is added to a box on each side, as a share of its width or height.
        jitter: in training, boxes move by up to this share of their sides, and are larger or smaller by up to as much,
            with what truly surrounds them; 0.1 is what windows of a sliding detector miss an object by.
        cache_gib: GiB of decoded training pictures that stay in memory, per process and shared by its workers. Those
            beyond it are decoded anew for each of their crops.

    Raises:
        UserError: a value is out of range.
    """

    background: int = 4
    background_iou: float = 0.3
    margin: float = 0.0
    jitter: float = 0.0
    cache_gib: float = 1.0

    def __post_init__(self) -> None:
        if self.background < 0 or not 0 < self.background_iou <= 1:
            raise UserError(
                f"data.crops: background is {self.background} and background_iou {self.background_iou}; give a whole "
                "number from 0, and a number above 0 and up to 1"
            )
        if not 0 <= self.margin <= 4 or not 0 <= self.jitter < 0.5:
            raise UserError(
                f"data.crops: margin is {self.margin} and jitter {self.jitter}; give 0 to 4, and 0 to below 0.5"
            )
        if self.cache_gib < 0:
            raise UserError(f"data.crops: cache_gib is {self.cache_gib}; give 0 or more")


def crops_of(index: Index, crops: ObjectCrops, seed: int) -> Index:
    """An index of crops: picture k of it is `boxes[k]` of the file `files[k]`, with one label.

    Crops are in the split of their picture. Crowd regions give none. Backgrounds have the sizes of the training split's
    objects and lie at random; what one picture gets depends on the seed and its place in the data set alone.

    Args:
        index: pictures with boxes, in their splits.
        crops: see there.
        seed: of the backgrounds.

    Raises:
        UserError: the data set has a class "background" already.
        DataError: no crop comes of the training or of the validation split.
    """
    if crops.background and BACKGROUND in index.class_names:
        raise UserError(f"{index.root} has a class {BACKGROUND} of its own: set data.crops.background to 0")
    sides = _sides(index)
    owners, labels, boxes = [], [], []
    for i in np.flatnonzero(index.splits >= 0).tolist():
        for box, label in _crops_of_picture(index, i, crops, sides, np.random.default_rng((seed, i))):
            owners.append(i)
            labels.append(label)
            boxes.append(box)
    source = np.array(owners, np.int64)
    kept = set(index.splits[source].tolist())
    if gone := [name for k, name in enumerate(SPLITS[:2]) if (index.splits == k).any() and k not in kept]:
        mend = "set data.crops.background, or draw the splits anew (val_fraction, seed)."
        where = " and the ".join(gone)
        raise DataError([f"{index.root}: pictures of the {where} split show no object to be cut out: {mend}"])
    names = (*index.class_names, BACKGROUND) if crops.background else index.class_names
    empty = int(sum(label == len(index.class_names) for label in labels))
    note = f"{len(labels) - empty} crops of objects and {empty} of background from {len(set(owners))} pictures."
    return replace(
        index,
        class_names=names,
        files=index.files.take(source),
        sizes=index.sizes[source],
        splits=index.splits[source],
        offsets=np.arange(len(source) + 1, dtype=np.int64),
        labels=np.array(labels, np.int32),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        mask_kind="none",
        crowd=None,
        segments=None,
        segment_kinds=None,
        masks=None,
        class_masks=None,
        groups=None if index.groups is None else index.groups.take(source),
        notes=(*index.notes, note),
    )


def _crops_of_picture(
    index: Index, i: int, crops: ObjectCrops, sides: FloatArray, rng: np.random.Generator
) -> Iterator[tuple[list[float], int]]:
    """Boxes on whole pixels inside picture i, with their labels."""
    assert index.boxes is not None
    own = index.span(i)
    size = _size(index, i)
    crowd = np.zeros(own.stop - own.start, bool) if index.crowd is None else index.crowd[own]
    for box, label, of_many in zip(index.boxes[own], index.labels[own].tolist(), crowd.tolist(), strict=True):
        if not of_many:
            yield whole_pixels(with_margin(box, crops.margin), size), label
    for box in _backgrounds(index.boxes[own], crowd, size, crops, sides, rng):
        yield whole_pixels(box, size), len(index.class_names)


def _sides(index: Index) -> FloatArray:
    """(N, 2) widths and heights of the training split's objects, or of all where it has none."""
    assert index.boxes is not None
    sides = index.boxes[:, 2:] - index.boxes[:, :2]
    training = np.repeat(index.splits == 0, np.diff(index.offsets))
    if index.crowd is not None:
        training &= ~index.crowd
    return sides[training] if training.any() else sides


def _size(index: Index, i: int) -> tuple[int, int]:
    height, width = index.sizes[i].tolist()
    return (height, width) if height and width else read_size(index.path(i))


def _backgrounds(
    objects: FloatArray,
    crowd: BoolArray,
    size: tuple[int, int],
    crops: ObjectCrops,
    sides: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """Up to `crops.background` boxes (N, 4) that overlap no object by much; fewer where a picture has no room."""
    count = TRIES * crops.background
    if not count or not len(sides):
        return np.zeros((0, 4), np.float32)
    chosen = sides[rng.integers(len(sides), size=count)] * (1 + 2 * crops.margin)
    chosen = np.minimum(chosen, np.array(size[::-1], np.float32))
    corners = rng.uniform(size=(count, 2)) * (np.array(size[::-1]) - chosen)
    boxes = np.concatenate([corners, corners + chosen], axis=1).astype(np.float32)
    if len(objects):
        drawn, given = torch.from_numpy(boxes), torch.from_numpy(np.array(objects))
        overlap = torch.where(torch.from_numpy(crowd), covered(drawn, given), iou(drawn, given)).amax(dim=1).numpy()
        boxes = boxes[overlap < crops.background_iou]
    return boxes[: crops.background]


def with_margin(box: FloatArray, margin: float) -> FloatArray:
    """A box (4,) larger on each side by a share of its width or height."""
    sides = np.tile(box[2:] - box[:2], 2)
    return np.asarray(box + sides * margin * np.array([-1, -1, 1, 1]), np.float32)


def jittered(box: FloatArray, share: float, rng: np.random.Generator) -> FloatArray:
    """A box (4,) moved and resized by up to a share of its sides; both sides change by the same factor."""
    sides = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + rng.uniform(-share, share, 2) * sides
    half = sides / 2 * (1 + share) ** rng.uniform(-1, 1)
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def whole_pixels(box: FloatArray, size: tuple[int, int]) -> list[float]:
    """The nearest whole-pixel box (4,) inside a picture of `size`; at least one pixel large."""
    height, width = size
    x1, y1, x2, y2 = np.round(box).astype(int).tolist()
    x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return [float(x1), float(y1), float(max(min(x2, width), x1 + 1)), float(max(min(y2, height), y1 + 1))]


def crop_names(index: Index) -> list[str]:
    """A name for every crop: its file, and behind # its place among the file's crops."""
    counts: dict[str, int] = {}
    names = []
    for file in index.files.texts():
        counts[file] = counts.get(file, 0) + 1
        names.append(f"{file}#{counts[file]}")
    return names


def cut_out(image: UInt8Array, box: Sequence[int], fill: int = FILL) -> UInt8Array:
    """What a box x1, y1, x2, y2 on whole pixels shows of a picture (H, W, C); `fill` where it sticks out."""
    x1, y1, x2, y2 = box
    height, width = image.shape[:2]
    inside = image[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return np.ascontiguousarray(inside)
    cut = np.full((y2 - y1, x2 - x1, image.shape[2]), fill, np.uint8)
    top, left = max(-y1, 0), max(-x1, 0)
    cut[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return cut
