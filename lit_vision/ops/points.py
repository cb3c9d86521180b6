"""Boxes without anchors: distances from a point in each cell to the four sides, plain or as distributions.

FCOS (Tian et al. 2019, arXiv:1904.01355) for the distances, generalized focal loss (Li et al. 2020, arXiv:2006.04388)
for the distributions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_vision.ops.grid import MAX_LOG_SIZE


class Points(NamedTuple):
    """The N points that boxes are measured from: centres of the cells, row by row, scale after scale.

    places: (N, 2) x and y, network pixels. strides: (N,) side of the cell, network pixels.
    """

    places: Tensor
    strides: Tensor

    def at(self, rows: Tensor) -> "Points":
        """The points at these positions, of any shape."""
        return Points(self.places[rows], self.strides[rows])


def make_points(sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | None = None) -> Points:
    """The points of S scales.

    Args:
        sizes: rows and columns of each scale.
        strides: network pixels per cell of each scale.
        device: where they are wanted.
    """
    places, sides = [], []
    for (rows, columns), stride in zip(sizes, strides, strict=True):
        y = (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) * stride
        x = (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) * stride
        places.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(-1, 2))
        sides.append(torch.full((rows * columns,), float(stride), device=device))
    return Points(torch.cat(places), torch.cat(sides))


def flatten_points(outputs: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """S raw outputs (B, K, rows, columns) to (B, N, K), N in the order of `Points`."""
    return torch.cat([output.permute(0, 2, 3, 1).flatten(1, 2) for output in outputs], dim=1).to(dtype)


def distances(raw: Tensor, reg_max: int) -> Tensor:
    """Raw values (..., 4 * (reg_max + 1)) to distances (..., 4) left, up, right, down, in cells.

    With reg_max above 0, those of a side are logits of the distances 0, 1, ..., reg_max, whose mean is the distance.
    With 0, the one value is its logarithm.
    """
    if reg_max == 0:
        return raw.clamp(max=MAX_LOG_SIZE).exp()
    bins = torch.arange(reg_max + 1, device=raw.device, dtype=raw.dtype)
    chances = raw.reshape(*raw.shape[:-1], 4, reg_max + 1).softmax(dim=-1)
    return (chances * bins).sum(dim=-1)  # autocast would round a product of matrices


def decode_points(raw: Tensor, points: Points, reg_max: int) -> Tensor:
    """Boxes (..., 4) xyxy in network pixels of raw values (..., 4 * (reg_max + 1)), one for each point."""
    reach = distances(raw, reg_max) * points.strides[..., None]
    return torch.cat([points.places - reach[..., :2], points.places + reach[..., 2:]], dim=-1)


def encode_points(boxes: Tensor, points: Points) -> Tensor:
    """Distances (..., 4) in cells from each point to the sides of its box (..., 4); negative where it lies outside."""
    near, far = points.places - boxes[..., :2], boxes[..., 2:] - points.places
    return torch.cat([near, far], dim=-1) / points.strides[..., None]
