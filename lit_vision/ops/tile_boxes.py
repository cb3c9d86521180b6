"""Boxes found in overlapping tiles of a picture, joined to one box per object."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lit_vision.ops.boxes import area, classwise_nms, intersection
from lit_vision.types import DetectionPrediction

EDGE = 0.02  # of a tile's side: a box that ends nearer to an inner border is taken to be cut by it
INSIDE = 0.8  # share of a cut box that lies in another one for it to be a part of that


def merge_tiles(
    found: DetectionPrediction, tile_of: Tensor, tiles: Tensor, size: tuple[int, int], nms_threshold: float
) -> DetectionPrediction:
    """One box per object from boxes that were found tile by tile.

    A box that ends at a border of its tile, and not of the picture, is cut: it shows a part of an object. It goes where
    another tile shows all of it without cutting it: that one sees more of the object, and what it has found counts,
    be it another class or nothing. A cut box that is left is the same object as a box of its class in another tile
    if their IoU is above `nms_threshold`; or the IoU of what the two tiles' common region shows of them; or if at
    least 80 % of it lies in the other. If that one is not cut, the cut one goes; cut ones are joined to the box round
    them all, with the highest of their scores. Last comes greedy NMS, class by class.

    So an object that fits into the overlap comes out whole, as one tile has seen it whole; a longer one is put
    together. Without overlap there is nothing to tell parts of one object by.

    Args:
        found: boxes (N, 4) in pixels of the picture, labels and scores.
        tile_of: (N,) int64 the tile of each.
        tiles: (T, 4) xyxy, pixels of the picture.
        size: height and width of the picture.
        nms_threshold: IoU above which two boxes of a class are one object.

    Returns:
        (M, 4), (M,), (M,), scores falling.
    """
    cut = cut_boxes(found["boxes"], tiles[tile_of], size)
    kept = ~(cut & _seen_better(found["boxes"], cut, tile_of, tiles, size))
    boxes, labels, scores = found["boxes"][kept], found["labels"][kept], found["scores"][kept]
    cut, tile_of = cut[kept], tile_of[kept]
    first, second = _same_objects(boxes, labels, cut, tile_of, tiles, nms_threshold)
    whole_partner = torch.zeros_like(cut)
    for one, other in ((first, second), (second, first)):
        whole_partner[one[~cut[other]]] = True
    part = cut & ~whole_partner
    alone = ~cut
    joined, groups = _joined(boxes, scores, part, first, second)
    merged = {
        "boxes": torch.cat([boxes[alone], joined]),
        "labels": torch.cat([labels[alone], labels[groups]]),
        "scores": torch.cat([scores[alone], scores[groups]]),
    }
    kept = classwise_nms(merged["boxes"], merged["labels"], merged["scores"], nms_threshold)
    return {"boxes": merged["boxes"][kept], "labels": merged["labels"][kept], "scores": merged["scores"][kept]}


def cut_boxes(boxes: Tensor, own: Tensor, size: tuple[int, int]) -> Tensor:
    """(N,) bool: which boxes (N, 4) end at a border of their own tile (N, 4) that is no border of the picture."""
    edges = own.to(boxes)
    picture = torch.tensor([0, 0, size[1], size[0]], device=boxes.device).to(boxes)
    margin = EDGE * (edges[:, 2:] - edges[:, :2]).repeat(1, 2)
    near = torch.cat([boxes[:, :2] - edges[:, :2], edges[:, 2:] - boxes[:, 2:]], dim=1) <= margin
    return (near & (edges != picture)).any(dim=1)


def _seen_better(boxes: Tensor, cut: Tensor, tile_of: Tensor, tiles: Tensor, size: tuple[int, int]) -> Tensor:
    """(N,) bool: which cut boxes lie in another tile that does not cut them."""
    better = torch.zeros_like(cut)
    own = tiles.to(boxes)
    for t in torch.unique(tile_of[cut]).tolist():
        rows = (cut & (tile_of == t)).nonzero().flatten()
        overlapping = ((own[:, :2] < own[t, 2:]) & (own[:, 2:] > own[t, :2])).all(dim=1)
        overlapping[t] = False
        for other in own[overlapping]:
            inside = (boxes[rows, :2] >= other[:2]).all(dim=1) & (boxes[rows, 2:] <= other[2:]).all(dim=1)
            better[rows] |= inside & ~cut_boxes(boxes[rows], other.expand(len(rows), 4), size)
    return better


def _same_objects(
    boxes: Tensor, labels: Tensor, cut: Tensor, tile_of: Tensor, tiles: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Positions (P,) and (P,) of pairs that are one object, at least one of each pair cut."""
    pairs = [torch.zeros(2, 0, dtype=torch.int64, device=boxes.device)]
    for ours, theirs, common in _neighbours(tile_of, tiles):
        a, b = boxes[ours][:, None], boxes[theirs][None]
        same = (labels[ours][:, None] == labels[theirs]) & (cut[ours][:, None] | cut[theirs])
        if not bool(same.any()):
            continue
        region = common.to(boxes)
        shared = intersection(a, b)
        seen = _iou(_clip(a, region), _clip(b, region))
        inside = (cut[ours][:, None] & (shared >= INSIDE * area(a))) | (cut[theirs] & (shared >= INSIDE * area(b)))
        same &= (_iou(a, b) > threshold) | (seen > threshold) | (inside & (shared > 0))
        row, column = same.nonzero(as_tuple=True)
        pairs.append(torch.stack([ours[row], theirs[column]]))
    first, second = torch.cat(pairs, dim=1)
    return first, second


def _neighbours(tile_of: Tensor, tiles: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Positions of the boxes of two tiles that overlap, and what they have in common."""
    order = tile_of.argsort(stable=True)
    counts = tile_of.bincount(minlength=len(tiles)).tolist()
    rows = torch.split(order, counts)
    corners = tiles.cpu()
    filled = torch.tensor(counts) > 0
    for t in filled.nonzero().flatten().tolist():
        near = torch.maximum(corners[t, :2], corners[t + 1 :, :2])
        far = torch.minimum(corners[t, 2:], corners[t + 1 :, 2:])
        overlapping = (far > near).all(dim=1) & filled[t + 1 :]
        for other in overlapping.nonzero().flatten().tolist():
            yield rows[t], rows[t + 1 + other], torch.cat([near[other], far[other]])


def _clip(boxes: Tensor, region: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(boxes, region[:2].repeat(2)), region[2:].repeat(2))


def _iou(a: Tensor, b: Tensor) -> Tensor:
    shared = intersection(a, b)
    return shared / (area(a) + area(b) - shared).clamp(min=torch.finfo(shared.dtype).tiny)


def _joined(boxes: Tensor, scores: Tensor, part: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (G, 4) round the parts of each object, and the position (G,) of the part with the highest score."""
    places = part.nonzero().flatten()
    if not len(places):
        return boxes[:0], places
    both = part[first] & part[second]
    number = torch.cumsum(part, 0) - 1
    edges = torch.stack([number[first[both]], number[second[both]]]).cpu().numpy()
    count = len(places)
    graph = coo_matrix((np.ones(edges.shape[1], bool), edges), shape=(count, count))
    groups, group = connected_components(graph, directed=False)
    group_of = torch.from_numpy(group.astype(np.int64)).to(boxes.device)
    index, own = group_of[:, None].expand(-1, 2), boxes[places]
    near = own.new_full((groups, 2), torch.inf).scatter_reduce(0, index, own[:, :2], "amin")
    far = own.new_full((groups, 2), -torch.inf).scatter_reduce(0, index, own[:, 2:], "amax")
    best, rising = np.zeros(groups, np.int64), np.argsort(scores[places].cpu().numpy(), kind="stable")
    best[group[rising]] = rising  # the last one written stays
    return torch.cat([near, far], dim=1), places[torch.from_numpy(best).to(places.device)]
