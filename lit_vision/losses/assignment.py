"""Which of YOLO's boxes are trained to be which objects."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_vision.ops.boxes import covered, iou, size_iou, xyxy_to_cxcywh

Assignment = Literal["best", "threshold"]


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


def join_truths(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], crowd: Sequence[Tensor], height: int, width: int
) -> Truths:
    """The objects of B images; crowd regions, boxes without area and those centred outside the picture left out."""
    counts = torch.tensor([len(own) for own in boxes])
    image = torch.repeat_interleave(torch.arange(len(boxes)), counts).to(boxes[0].device)
    joined, flags = torch.cat(list(boxes)).float(), torch.cat(list(crowd))
    centres = (joined[:, :2] + joined[:, 2:]) / 2
    inside = (centres >= 0) & (centres < torch.tensor([width, height], device=joined.device))
    kept = ~flags & (inside & (joined[:, 2:] > joined[:, :2])).all(dim=1)
    return Truths(joined[kept], torch.cat(list(labels))[kept], image[kept])


def assign(
    truths: Truths,
    num_classes: int,
    anchors: Tensor,
    strides: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    threshold: float | None = None,
) -> Slots:
    """Each object's slots: the cell of its centre, with the best anchor of all scales or with several.

    The anchor's own scale has the cell. Where objects share a slot, the last one's box counts and all their classes.

    Args:
        truths: T objects.
        num_classes: C.
        anchors: (S, A, 2) network pixels.
        strides: of the scales.
        sizes: rows and columns of the scales.
        threshold: every anchor whose IoU of width and height with the object is above it is taken beside the best;
            None: the best alone.
    """
    centres = xyxy_to_cxcywh(truths.boxes)
    overlaps = size_iou(centres[:, 2:], anchors.reshape(-1, 2).float())  # (T, S * A)
    chosen = torch.zeros_like(overlaps, dtype=torch.bool)
    chosen.scatter_(1, overlaps.argmax(dim=1, keepdim=True), True)
    if threshold is not None:
        chosen |= overlaps > threshold
    truth, anchor = torch.nonzero(chosen, as_tuple=True)  # rows in the order of the objects
    place = _places(centres[truth, :2], anchor, anchors.shape[1], strides, sizes)
    total = anchors.shape[1] * sum(rows * columns for rows, columns in sizes)
    keys, slot = torch.unique(truths.image[truth] * total + place, return_inverse=True)
    last = torch.zeros_like(keys).scatter_reduce(0, slot, truth, "amax")
    classes = torch.zeros(len(keys), num_classes, device=keys.device)
    classes[slot, truths.labels[truth]] = 1.0
    return Slots(torch.div(keys, total, rounding_mode="floor"), keys % total, truths.boxes[last], classes)


def _places(
    centres: Tensor, anchor: Tensor, per_scale: int, strides: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> Tensor:
    """Position in the row of all boxes of the cell at each centre (P, 2) with each anchor (P,) of all scales."""
    extents = torch.tensor([(columns, rows) for rows, columns in sizes], device=anchor.device)
    counts = extents.prod(dim=1) * per_scale
    starts = counts.cumsum(0) - counts
    scale = torch.div(anchor, per_scale, rounding_mode="floor")
    stride = torch.tensor(list(strides), device=anchor.device)[scale, None]
    cell = (centres / stride).long()  # (P, 2) column, row
    return starts[scale] + (cell[:, 1] * extents[scale, 0] + cell[:, 0]) * per_scale + anchor % per_scale


@torch.no_grad()
def ignored_boxes(predicted: Tensor, boxes: Sequence[Tensor], crowd: Sequence[Tensor], threshold: float) -> Tensor:
    """(B, N) bool: predicted boxes (B, N, 4) that overlap an object, or lie in a crowd, by more than the threshold."""
    ignored = torch.zeros(predicted.shape[:2], dtype=torch.bool, device=predicted.device)
    for i, (own, crowded) in enumerate(zip(boxes, crowd, strict=True)):
        if len(own):
            objects, crowds = own[~crowded].float(), own[crowded].float()
            overlaps = torch.cat([iou(predicted[i], objects), covered(predicted[i], crowds)], dim=1)
            ignored[i] = overlaps.amax(dim=1) > threshold
    return ignored
