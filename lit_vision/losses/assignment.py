"""Which of YOLO's boxes are trained to be which objects."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_vision.ops.boxes import area, size_iou, xyxy_to_cxcywh

Assignment = Literal["best", "threshold", "ratio"]

CHUNK = 64  # objects that all boxes of an image are compared with at once: a few tens of megabytes


class Truths(NamedTuple):
    """All objects of a batch in one row.

    boxes: (T, 4) float32 xyxy, network pixels. labels: (T,) int64. image: (T,) int64, position in the batch.
    """

    boxes: Tensor
    labels: Tensor
    image: Tensor


class Slots(NamedTuple):
    """The P boxes of a batch that are trained to be objects, each once.

    image: (P,) position in the batch. place: (P,) position among the image's N boxes.
    boxes: (P, 4) float32 target, xyxy, network pixels. classes: (P, C) float32, 1 for each class wanted here.
    """

    image: Tensor
    place: Tensor
    boxes: Tensor
    classes: Tensor


def gather_truths(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], crowd: Sequence[Tensor], height: int, width: int
) -> tuple[Truths, Tensor]:
    """All boxes of B images, and (T,) bool which of them are objects that can be trained.

    Crowd regions, boxes without area and those centred outside the picture cannot; their boxes are replaced by one
    pixel, so that whatever is computed of them in passing is finite.
    """
    joined = torch.cat(list(boxes)).float()
    image = torch.cat([torch.full((len(own),), i, device=joined.device) for i, own in enumerate(boxes)])
    centres = (joined[:, :2] + joined[:, 2:]) / 2
    inside = (centres >= 0) & (centres < centres.new_tensor([width, height]))
    valid = ~torch.cat(list(crowd)) & (inside & (joined[:, 2:] > joined[:, :2])).all(dim=1)
    dummy = joined.new_tensor([0.0, 0.0, 1.0, 1.0])
    return Truths(torch.where(valid[:, None], joined, dummy), torch.cat(list(labels)), image), valid


def join_truths(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], crowd: Sequence[Tensor], height: int, width: int
) -> Truths:
    """The objects of B images that can be trained, see `gather_truths`."""
    every, valid = gather_truths(boxes, labels, crowd, height, width)
    return Truths(*(rows[valid] for rows in every))


class Matching(NamedTuple):
    """Which anchors an object trains beside the best, and in which cells.

    overlap: those whose IoU of width and height with the object is above it; None: no others.
    ratio: those whose width and height are each at most so many times the object's, and it theirs; None: no others.
    neighbours: also the cell beside that of the centre, in x and in y, whose middle is nearer to it.
    """

    overlap: float | None = None
    ratio: float | None = None
    neighbours: bool = False


BEST = Matching()


def assign(
    truths: Truths,
    num_classes: int,
    anchors: Tensor,
    strides: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    matching: Matching = BEST,
    rivals: Tensor | None = None,
) -> Slots:
    """Each object's slots: the cell of its centre, with the best anchor of all scales or with several.

    The anchor's own scale has the cell. Where objects share a slot, the last one's box counts and all their classes.
    With neighbours, an object whose centre the cell holds comes before those from beside it, and its class alone
    counts: the others have slots of their own.

    Args:
        truths: T objects.
        num_classes: C.
        anchors: (S, A, 2) network pixels.
        strides: of the scales.
        sizes: rows and columns of the scales.
        matching: see there.
        rivals: (S, M, 2) anchors of which each object takes the best, scale by scale, wherever it has a slot; None:
            `anchors`, of all scales together.
    """
    centres = xyxy_to_cxcywh(truths.boxes)
    chosen = _matched(centres[:, 2:], anchors.reshape(-1, 2).float(), matching, rivals)
    truth, anchor = torch.nonzero(chosen, as_tuple=True)  # rows in the order of the objects
    own = torch.ones_like(truth, dtype=torch.bool)
    shift = centres.new_zeros(len(truth), 2, dtype=torch.long)
    if matching.neighbours:
        truth, anchor, own, shift = _with_neighbours(centres, truth, anchor, anchors.shape[1], strides)
    place, exists = _places(centres[truth, :2], shift, anchor, anchors.shape[1], strides, sizes)
    truth, own, place = truth[exists], own[exists], place[exists]
    total = anchors.shape[1] * sum(rows * columns for rows, columns in sizes)
    keys, slot = torch.unique(truths.image[truth] * total + place, return_inverse=True)
    rank = truth + len(truths.boxes) * own
    last = torch.zeros_like(keys).scatter_reduce(0, slot, rank, "amax")
    if matching.neighbours:
        first = rank == last[slot]
        truth, slot = truth[first], slot[first]
    classes = torch.zeros(len(keys), num_classes, device=keys.device)
    classes[slot, truths.labels[truth]] = 1.0
    boxes = truths.boxes[last % max(len(truths.boxes), 1)]
    return Slots(torch.div(keys, total, rounding_mode="floor"), keys % total, boxes, classes)


def _matched(sizes: Tensor, anchors: Tensor, matching: Matching, rivals: Tensor | None) -> Tensor:
    """(T, S * A) bool of objects' widths and heights (T, 2) and anchors' (S * A, 2)."""
    overlaps = size_iou(sizes, anchors)
    if rivals is None:
        chosen = torch.zeros_like(overlaps, dtype=torch.bool)
        chosen.scatter_(1, overlaps.argmax(dim=1, keepdim=True), True)
    else:
        scales = zip(rivals, anchors.chunk(len(rivals)), strict=True)
        best = [(every[size_iou(sizes, every).argmax(dim=1)][:, None] == own).all(dim=-1) for every, own in scales]
        chosen = torch.cat(best, dim=1)
    if matching.overlap is not None:
        chosen |= overlaps > matching.overlap
    if matching.ratio is not None:
        ratio = sizes[:, None] / anchors
        chosen |= torch.maximum(ratio, 1 / ratio).amax(dim=-1) <= matching.ratio
    return chosen


def _with_neighbours(
    centres: Tensor, truth: Tensor, anchor: Tensor, per_scale: int, strides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pairs (3 P,) of object and anchor, whether in the object's own cell, and how far from it: (3 P, 2)."""
    stride = torch.tensor(list(strides), device=anchor.device)[torch.div(anchor, per_scale, rounding_mode="floor")]
    part = centres[truth, :2] / stride[:, None] % 1
    toward = torch.where(part < 0.5, -1, 1)  # (P, 2)
    still = torch.zeros_like(toward[:, 0])
    shift = torch.cat(
        [
            torch.stack([still, still], dim=1),
            torch.stack([toward[:, 0], still], dim=1),
            torch.stack([still, toward[:, 1]], dim=1),
        ]
    )
    return truth.repeat(3), anchor.repeat(3), (shift == 0).all(dim=1), shift


def _places(
    centres: Tensor,
    shift: Tensor,
    anchor: Tensor,
    per_scale: int,
    strides: Sequence[int],
    sizes: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor]:
    """Position in the row of all boxes of the cell at each centre (P, 2), and whether the picture has that cell.

    The cell is `shift` (P, 2) columns and rows from the centre's, its anchor (P,) among those of all scales.
    """
    extents = torch.tensor([(columns, rows) for rows, columns in sizes], device=anchor.device)
    counts = extents.prod(dim=1) * per_scale
    starts = counts.cumsum(0) - counts
    scale = torch.div(anchor, per_scale, rounding_mode="floor")
    stride = torch.tensor(list(strides), device=anchor.device)[scale, None]
    cell = (centres / stride).long() + shift  # (P, 2) column, row
    exists = ((cell >= 0) & (cell < extents[scale])).all(dim=1)
    return starts[scale] + (cell[:, 1] * extents[scale, 0] + cell[:, 0]) * per_scale + anchor % per_scale, exists


@torch.no_grad()
def ignored_boxes(
    predicted: Tensor, boxes: Sequence[Tensor], crowd: Sequence[Tensor], threshold: float | Tensor
) -> Tensor:
    """(B, N) bool: predicted boxes (B, N, 4) that overlap an object, or lie in a crowd, by more than the threshold.

    The threshold may be one for each of the N.
    """
    ignored = torch.zeros(predicted.shape[:2], dtype=torch.bool, device=predicted.device)
    for i, (own, crowded) in enumerate(zip(boxes, crowd, strict=True)):
        for part, flags in zip(torch.split(own.float(), CHUNK), torch.split(crowded, CHUNK), strict=True):
            ignored[i] |= _overlapping(predicted[i], part, flags, threshold)
    return ignored


def _overlapping(predicted: Tensor, boxes: Tensor, crowd: Tensor, threshold: float | Tensor) -> Tensor:
    """(N,) bool for a few boxes (M, 4): memory is N * M, and coordinates each in a row of their own are quickest."""
    x1, y1, x2, y2 = (side[:, None] for side in predicted.unbind(dim=1))
    left, top, right, bottom = boxes.unbind(dim=1)
    across = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_(min=0)
    shared = torch.minimum(y2, bottom).sub_(torch.maximum(y1, top)).clamp_(min=0).mul_(across)  # (N, M)
    own = area(predicted)[:, None]
    whole = torch.where(crowd, own, own + area(boxes)).sub_(shared.where(~crowd, 0.0))
    least = threshold[:, None] if isinstance(threshold, Tensor) else threshold
    return (shared.div_(whole) > least).any(dim=1)  # 0 / 0, where there is no area, is not above it
