"""Which points of an anchor-free detector are trained to be which objects: by task alignment, or by SimOTA.

Each object looks at a window of cells about its centre, on every scale: T objects and M cells make (T, M) tables,
whatever the number of points and classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_vision.losses.assignment import Truths
from lit_vision.ops.boxes import elementwise_iou

PointAssignment = Literal["task_aligned", "simota"]

MIN_IOU = 0.05  # counts for less: objects that no box overlaps yet are to be found, too
OUTSIDE = 1e5  # SimOTA's cost of a point outside the box, more than all else together


class Candidates(NamedTuple):
    """The M cells about each of T objects, all (T, M).

    place: position among the image's N points. inside: the point lies in the box, or its cell holds the centre.
    exists: the cell lies in the picture.
    """

    place: Tensor
    inside: Tensor
    exists: Tensor


class PointTargets(NamedTuple):
    """Q pairs of a point and an object; a point is chosen by one object at most.

    image, place, truth: (Q,) position in the batch, among the image's points, among the objects.
    chosen: (Q,) bool: the others stand here only to keep shapes fixed, which spares a GPU from waiting.
    quality: (Q,) float32 in [0, 1], the class probability wanted; 0 where not chosen.
    """

    image: Tensor
    place: Tensor
    truth: Tensor
    chosen: Tensor
    quality: Tensor


@dataclass(frozen=True)
class Law:
    """How objects choose points.

    Args:
        kind: "task_aligned" (TOOD, Feng et al. 2021, arXiv:2108.07755, 3.2): the `top_k` points of the greatest
            score ** alpha * IoU ** beta, trained to that measure, scaled so that its maximum is the best IoU.
            "simota" (YOLOX, Ge et al. 2021, arXiv:2107.08430, 2.1): the cheapest points by class cross-entropy and
            3 * -log IoU, as many as the sum of the `top_k` best IoUs says, trained to their IoU.
        top_k: see above.
        alpha: see above.
        beta: see above.
        window: cells about the centre, along each side, that are looked at on each scale; odd.
    """

    kind: PointAssignment = "task_aligned"
    top_k: int = 10
    alpha: float = 1.0
    beta: float = 6.0
    window: int = 5


@torch.no_grad()
def assign_points(
    truths: Truths,
    valid: Tensor,
    predicted: Tensor,
    logits: Tensor,
    negative: Tensor,
    strides: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    law: Law,
) -> PointTargets:
    """The points that are trained to be objects.

    Args:
        truths: T objects.
        valid: (T,) bool; the others choose nothing.
        predicted: (B, N, 4) boxes as the network gives them now.
        logits: (B, N, C) of the classes.
        negative: (B, N) cross-entropy of a point's classes to none at all; only SimOTA asks for it.
        strides: of the scales.
        sizes: rows and columns of the scales.
        law: see there.
    """
    found = candidates(truths.boxes, strides, sizes, law.window)
    image = truths.image[:, None]
    overlap = elementwise_iou(predicted[image, found.place], truths.boxes[:, None])  # (T, M)
    logit = logits[image, found.place, truths.labels[:, None]]
    if law.kind == "task_aligned":
        best = _aligned(found, overlap, logit, law)
    else:
        best = _cheapest(found, overlap, negative[image, found.place] - logit, law)
    place = found.place.gather(1, best.column)
    key, eligible = image * predicted.shape[1] + place, best.eligible & valid[:, None]
    chosen = _settled(key, eligible, best.priority, predicted.shape[:2])
    quality = best.measure * chosen
    if law.kind == "task_aligned":
        most = (overlap.clamp(min=MIN_IOU).gather(1, best.column) * chosen).amax(dim=1, keepdim=True)
        quality = quality / quality.amax(dim=1, keepdim=True).clamp(min=torch.finfo(quality.dtype).tiny) * most
    truth = torch.arange(len(place), device=place.device)[:, None].expand_as(place)
    return PointTargets(*(x.flatten() for x in (image.expand_as(place), place, truth, chosen, quality)))


class _Best(NamedTuple):
    """The top K cells of each object, all (T, K).

    column: among its candidates. eligible: wanted at all. priority: against other objects that want the point.
    measure: how good it is.
    """

    column: Tensor
    eligible: Tensor
    priority: Tensor
    measure: Tensor


def _aligned(found: Candidates, overlap: Tensor, logit: Tensor, law: Law) -> _Best:
    measure = logit.sigmoid() ** law.alpha * overlap.clamp(min=MIN_IOU) ** law.beta
    best, column = measure.where(found.exists & found.inside, -1.0).topk(min(law.top_k, measure.shape[1]))
    return _Best(column, best >= 0, overlap.gather(1, column), best)


def _cheapest(found: Candidates, overlap: Tensor, cross_entropy: Tensor, law: Law) -> _Best:
    top_k, floored = min(law.top_k, overlap.shape[1]), overlap.clamp(min=MIN_IOU)
    cost = cross_entropy - 3 * floored.log() + OUTSIDE * ~found.inside
    worth, column = (-cost).where(found.exists, -torch.inf).topk(top_k)
    wanted = overlap.where(found.exists, 0.0).topk(top_k).values.sum(dim=1, keepdim=True).long().clamp(min=1)
    eligible = (torch.arange(top_k, device=wanted.device) < wanted) & (worth > -torch.inf)
    return _Best(column, eligible, worth, floored.gather(1, column))


def candidates(boxes: Tensor, strides: Sequence[int], sizes: Sequence[tuple[int, int]], window: int) -> Candidates:
    """The cells about the centre of each box (T, 4): `window` along each side, on every scale, M in all."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    offset = torch.arange(window, device=boxes.device) - window // 2
    middle = (offset == 0)[:, None] & (offset == 0)
    parts, start = [], 0
    for (rows, columns), stride in zip(sizes, strides, strict=True):
        cell = (centre / stride).floor().long()
        x, y = cell[:, :1] + offset, cell[:, 1:] + offset  # (T, window)
        across = ((x + 0.5) * stride > boxes[:, :1]) & ((x + 0.5) * stride < boxes[:, 2:3])
        down = ((y + 0.5) * stride > boxes[:, 1:2]) & ((y + 0.5) * stride < boxes[:, 3:])
        inside = (down[:, :, None] & across[:, None]) | middle
        exists = ((y >= 0) & (y < rows))[:, :, None] & ((x >= 0) & (x < columns))[:, None]
        place = start + y.clamp(0, rows - 1)[:, :, None] * columns + x.clamp(0, columns - 1)[:, None]
        parts.append([table.flatten(1) for table in (place, inside, exists)])
        start += rows * columns
    return Candidates(*(torch.cat(tables, dim=1) for tables in zip(*parts, strict=True)))


def _settled(key: Tensor, eligible: Tensor, priority: Tensor, shape: Sequence[int]) -> Tensor:
    """(T, K) bool: a point that several objects want goes to the one of highest priority, the first of equals.

    Args:
        key: (T, K) the point, numbered through the batch.
        eligible: (T, K) bool, wanted at all.
        priority: (T, K) float.
        shape: B and N.
    """
    count, points = len(key), shape[0] * shape[1]
    wanted = priority.where(eligible, -torch.inf)
    highest = torch.full((points,), -torch.inf, device=key.device, dtype=priority.dtype)
    highest = highest.scatter_reduce(0, key.flatten(), wanted.flatten(), "amax")
    leading = eligible & (wanted == highest[key])
    truth = torch.arange(count, device=key.device)[:, None].expand_as(key)
    first = torch.full((points,), count, device=key.device)
    first = first.scatter_reduce(0, key.flatten(), truth.where(leading, count).flatten(), "amin")
    return leading & (first[key] == truth)
