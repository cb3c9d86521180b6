"""Boxes: their forms, their overlaps, and the choice of detections among a network's many boxes.

Boxes are (N, 4) float, xyxy, x1 <= x < x2, in pixels of whatever picture the caller means.
"""

from typing import cast

import torch
from torch import Tensor
from torchvision.ops import nms

from lit_vision.types import DetectionPrediction

FEW = 1500  # boxes that enter NMS at once, of all classes, on a CPU
PORTION = 3  # candidates per detection wanted that enter NMS at first
MIN_SIDE = 1e-3  # pixels, of boxes whose loss is taken: the ratio of the sides, and its gradient, stay finite
MAX_CANDIDATES = 30_000  # bounds the time of NMS; what lies beyond has the scores of noise


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners to centre, width and height."""
    corner, opposite = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(corner + opposite) / 2, opposite - corner], dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre, width and height to corners."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy to (...); a box whose corners are swapped has area 0."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def with_sides(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) of which those thinner than MIN_SIDE reach that far from their left upper corner."""
    return torch.cat([boxes[..., :2], torch.maximum(boxes[..., 2:], boxes[..., :2] + MIN_SIDE)], dim=-1)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area shared by boxes a (..., 4) and b (..., 4), which broadcast against each other, to (...)."""
    near = torch.maximum(a[..., :2], b[..., :2])
    far = torch.minimum(a[..., 2:], b[..., 2:])
    return (far - near).clamp(min=0).prod(dim=-1)


def elementwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of a (..., 4) with b (..., 4), broadcast, in [0, 1]; 0 where both are empty."""
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(shared))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of a (N, 4) with every box of b (M, 4), to (N, M) in [0, 1]."""
    return elementwise_iou(a[:, None], b[None])


def covered(a: Tensor, b: Tensor) -> Tensor:
    """Fraction of each box of a (N, 4) that lies in each box of b (M, 4), to (N, M): COCO's overlap with a crowd."""
    own = area(a)[:, None]
    shared = intersection(a[:, None], b[None])
    return torch.where(own > 0, shared / own, torch.zeros_like(shared))


def size_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of widths and heights alone, as if all centres agreed: a (N, 2) and b (M, 2) to (N, M)."""
    shared = torch.minimum(a[:, None], b[None]).prod(dim=-1)
    return shared / (a.prod(dim=-1)[:, None] + b.prod(dim=-1)[None] - shared)


def select_detections(
    boxes: Tensor,
    objectness: Tensor,
    probabilities: Tensor,
    objectness_threshold: float = 0.5,
    score_threshold: float | Tensor = 0.5,
    nms_threshold: float = 0.45,
    max_detections: int = 100,
    max_candidates: int = MAX_CANDIDATES,
) -> DetectionPrediction:
    """The detections of one image by the YOLO v3 rule: objectness filter, then greedy NMS class by class.

    A box whose objectness is not above its threshold is dropped. Each class whose score (objectness times
    probability) is above its threshold then yields a box of its own, so that one box may carry several classes.
    Within a class, a box is suppressed whose IoU with a better one is above `nms_threshold`. All three
    comparisons are strict, as in Darknet (https://github.com/pjreddie/darknet, `get_yolo_detections`,
    `do_nms_sort`), whose one threshold 0.5 serves as both of the first two.

    Args:
        boxes: (N, 4) xyxy.
        objectness: (N,) in [0, 1].
        probabilities: (N, C) in [0, 1], independent of each other.
        objectness_threshold: of the first filter.
        score_threshold: of the scores; one for all classes, or (C,).
        nms_threshold: IoU above which the lesser box of the same class goes.
        max_detections: the best so many are kept.
        max_candidates: the best so many enter NMS.

    Returns:
        boxes, labels and scores of the detections, scores falling.
    """
    kept = objectness > objectness_threshold
    if not kept.all():  # where the network's outputs have been filtered before, there is nothing to copy
        boxes, objectness, probabilities = boxes[kept], objectness[kept], probabilities[kept]
    boxes, scores = boxes.float(), (objectness[:, None] * probabilities).float()
    # Positions in the flat (rows * C) scores: half the memory of rows and labels, and faster to find.
    places = (scores > score_threshold).flatten().nonzero().flatten()
    best = scores.flatten()[places]
    if len(best) > max_candidates:
        best, chosen = best.topk(max_candidates)
        places = places[chosen]
    rows, labels = places // scores.shape[1], places % scores.shape[1]
    chosen = classwise_nms(boxes[rows], labels, best, nms_threshold, max_detections)
    return {"boxes": boxes[rows[chosen]], "labels": labels[chosen], "scores": best[chosen]}


def classwise_nms(boxes: Tensor, labels: Tensor, scores: Tensor, threshold: float, limit: int | None = None) -> Tensor:
    """Greedy non-maximum suppression within each class.

    A box goes whose IoU with a better one of its class, which has not gone itself, is above the threshold. Candidates
    enter in portions, the best first, beside what is left of those before: what went cannot suppress, so that the
    result is the same as for all at once, and most never enter where `limit` is reached early.

    Args:
        boxes: (N, 4) xyxy.
        labels: (N,).
        scores: (N,).
        threshold: IoU.
        limit: how many of the best to find; None: all.

    Returns:
        (M,) positions, scores falling; of equal scores the first comes first.
    """
    limit = len(scores) if limit is None else limit
    order = scores.argsort(descending=True, stable=True)
    left, seen, portion = order[:0], 0, max(PORTION * limit, 1)
    while seen < len(order) and len(left) < limit:
        tried = torch.cat([left, order[seen : seen + portion]])
        left = tried[_surviving(boxes[tried].double(), labels[tried], scores[tried].double(), threshold)]
        seen, portion = seen + portion, 2 * portion
    return left[:limit]


def _surviving(boxes: Tensor, labels: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Positions of the boxes that are left, in order; they come best first."""
    if len(boxes) <= FEW or boxes.device.type != "cpu":
        return cast(Tensor, nms(_apart(boxes, labels), scores, threshold))
    # On a CPU the comparisons of all with all are one thread's work, most of them between classes.
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    counts = labels.bincount()
    for own in torch.split(labels.argsort(stable=True), counts[counts > 0].tolist()):
        kept[own[nms(boxes[own], scores[own], threshold)]] = True
    return kept.nonzero().flatten()


def _apart(boxes: Tensor, labels: Tensor) -> Tensor:
    """The boxes with each class moved to a place of its own, so that no two classes overlap.

    They must be float64: in float32, coordinates near 10,000 of class 80 would be rounded to sixteenths of a pixel.
    """
    if not len(boxes):
        return boxes
    low, high = boxes.aminmax()
    return boxes + labels[:, None] * (high - low + 1)
