"""Anchors: the widths and heights that YOLO's boxes are measured against, in pixels of the network's input."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_vision.errors import UserError
from lit_vision.ops.boxes import size_iou

Anchors = list[tuple[float, float]]

# YOLO v3 (Redmon and Farhadi 2018, section 2.3): k-means on COCO at 416, smallest first.
PAPER_ANCHORS: Anchors = [
    (10.0, 13.0), (16.0, 30.0), (33.0, 23.0),
    (30.0, 61.0), (62.0, 45.0), (59.0, 119.0),
    (116.0, 90.0), (156.0, 198.0), (373.0, 326.0),
]  # fmt: skip
# yolov3-tiny.cfg of the Darknet program.
TINY_ANCHORS: Anchors = [(10.0, 14.0), (23.0, 27.0), (37.0, 58.0), (81.0, 82.0), (135.0, 169.0), (344.0, 319.0)]

ROUNDS = 100  # k-means settles after a few dozen
GENERATIONS = 1000  # of the refinement: 0.2 s for nine anchors and a thousand boxes
MOST_CLUSTERED = 1_000_000  # boxes: of more, so many are drawn; torch draws k-means' start from 2^24 at the most
MOST_BOXES = 10_000  # that the refinement looks at in each generation
LARGEST_CHANGE = 0.4  # of the logarithm of a width or height in one generation
RECALL_IOU = 0.5


def arrange_anchors(anchors: Sequence[Sequence[float]], num_scales: int) -> Tensor:
    """Anchors (S * A pairs) sorted by area and dealt out, the largest to the coarsest scale: (S, A, 2).

    Raises:
        UserError: they are not pairs of positive, finite numbers, or not the same number for each scale.
    """
    flat = [number for pair in anchors for number in pair]
    if any(len(pair) != 2 for pair in anchors) or not flat or not all(0 < number < inf for number in flat):
        raise UserError("`anchors` must be a list of [width, height] in pixels, all above 0")
    if len(anchors) % num_scales:
        raise UserError(
            f"`anchors` has {len(anchors)} pairs, which {num_scales} scales cannot share evenly; "
            f"give {num_scales}, {2 * num_scales} or {3 * num_scales}"
        )
    return deal_anchors(anchors, [len(anchors) // num_scales] * num_scales)


def deal_anchors(anchors: Sequence[Sequence[float]], counts: Sequence[int]) -> Tensor:
    """As many anchors for each scale, the largest for the first: (S, A, 2), smallest first within a scale.

    A scale with fewer than A ends with 0 x 0, which fits no object.
    """
    by_area = sorted(anchors, key=lambda pair: pair[0] * pair[1])
    ends = [len(by_area) - sum(counts[:scale]) for scale in range(len(counts))]
    scales = [by_area[end - count : end] for end, count in zip(ends, counts, strict=True)]
    return pad_sequence([torch.tensor(own, dtype=torch.float32) for own in scales], batch_first=True)


def _spread_start(sizes: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++: each further centre is drawn with probability of its squared distance from those there are."""
    centres = sizes[torch.randint(len(sizes), (1,), generator=generator)]
    while len(centres) < k:
        distance = (1 - size_iou(sizes, centres)).amin(dim=1).clamp(min=0).square()
        chosen = torch.multinomial(distance, 1, generator=generator)
        centres = torch.cat([centres, sizes[chosen]])
    return centres


def _means(sizes: Tensor, owner: Tensor, centres: Tensor) -> Tensor:
    """Mean size of each cluster; a cluster that lost all its members stays where it was."""
    counts = torch.bincount(owner, minlength=len(centres))
    sums = torch.zeros_like(centres).index_add_(0, owner, sizes)
    return torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)


def cluster_anchors(sizes: Tensor, k: int, seed: int = 0) -> tuple[Tensor, float]:
    """Anchors that fit a data set's boxes: k-means with distance 1 - IoU (YOLO9000, Redmon and Farhadi 2017).

    Of more than MOST_CLUSTERED boxes, that many are drawn for it.

    Args:
        sizes: (N, 2) widths and heights, pixels of the network input, positive.
        k: how many anchors.
        seed: of the starting choice; the same sizes and seed give the same anchors.

    Returns:
        Anchors (k, 2) float32 sorted by area, and the mean over boxes of the IoU with their best anchor.

    Raises:
        UserError: there are fewer than k different sizes.
    """
    every = _positive(sizes)
    sizes = every
    if len(every) > MOST_CLUSTERED:
        chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:MOST_CLUSTERED]
        sizes = every[chosen]
    different = len(torch.unique(sizes, dim=0))
    if different < k:
        raise UserError(
            f"{k} anchors cannot be clustered from {different} different box sizes; give `anchors` as a list or 'paper'"
        )
    centres = _spread_start(sizes, k, torch.Generator().manual_seed(seed))
    for _ in range(ROUNDS):
        moved = _means(sizes, size_iou(sizes, centres).argmax(dim=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    centres = centres[centres.prod(dim=1).argsort()]
    return centres.float(), float(_best_iou(every, centres).mean())


class AnchorFit(NamedTuple):
    """How well anchors suit boxes.

    Args:
        mean_iou: mean over boxes of the IoU of width and height with their best anchor.
        recall: share of the boxes for which that IoU is above 0.5: what the anchors by themselves, put at the right
            place, would find at the usual threshold. (The network then corrects their sizes.)
    """

    mean_iou: float
    recall: float


def anchor_fit(sizes: Tensor, anchors: Tensor, threshold: float = RECALL_IOU) -> AnchorFit:
    """How well anchors (k, 2) suit boxes of `sizes` (N, 2), both width and height in the same pixels.

    Args:
        sizes: boxes without a width or a height are left out.
        anchors: the anchors.
        threshold: IoU above which a box counts as recalled.
    """
    best = _best_iou(_positive(sizes), anchors.detach().cpu().double())
    return AnchorFit(float(best.mean()), float((best > threshold).double().mean()))


def refine_anchors(sizes: Tensor, anchors: Tensor, generations: int = GENERATIONS, seed: int = 0) -> Tensor:
    """Anchors evolved to a higher mean best IoU, which k-means, whose centres are means, does not reach by itself.

    A (1 + 1) evolution strategy (Rechenberg 1973): each generation scales some widths and heights by random factors
    about 1, and a child that suits the boxes better takes its parent's place.

    Args:
        sizes: (N, 2) widths and heights, pixels of the network input.
        anchors: (k, 2) to begin with.
        generations: children to try.
        seed: of the draws; the same arguments give the same anchors.

    Returns:
        (k, 2) float32 sorted by area, whose mean best IoU over all boxes is not below that of `anchors`.
    """
    sizes, parent = _positive(sizes), anchors.detach().cpu().double()
    generator = torch.Generator().manual_seed(seed)
    sample = sizes[torch.randperm(len(sizes), generator=generator)[:MOST_BOXES]]
    fitness = anchor_fit(sample, parent).mean_iou
    for _ in range(generations):
        draws = torch.rand((2, *parent.shape), generator=generator, dtype=torch.float64)
        reach = LARGEST_CHANGE * float(torch.rand(1, generator=generator)) ** 3  # mostly small: few large ones succeed
        child = torch.where(draws[0] < 0.3, parent * (reach * (2 * draws[1] - 1)).exp(), parent)
        found = anchor_fit(sample, child).mean_iou
        if found > fitness:
            parent, fitness = child, found
    refined = parent[parent.prod(dim=1).argsort()].float()
    worse = anchor_fit(sizes, refined).mean_iou < anchor_fit(sizes, anchors).mean_iou  # of those not in the sample
    return anchors[anchors.prod(dim=1).argsort()].detach().cpu().float() if worse else refined


def _best_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """(N,) IoU of each size with its best anchor; in portions, so that memory does not grow with N times k."""
    return torch.cat([size_iou(part, anchors).amax(dim=1) for part in torch.split(sizes, MOST_CLUSTERED)])


def _positive(sizes: Tensor) -> Tensor:
    sizes = sizes.detach().cpu().double()
    return sizes[(sizes > 0).all(dim=1)]
