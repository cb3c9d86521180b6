"""YOLO's raw outputs as one row of boxes: cell by cell, anchor by anchor, scale after scale."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MAX_LOG_SIZE = 16.0  # keeps exp and areas finite; boxes far larger than any picture are alike anyway


class Grid(NamedTuple):
    """What each of the N boxes is measured from; row-major cells, then anchors, scale after scale.

    corners: (N, 2) left upper corner (x, y) of the cell, network pixels.
    anchors: (N, 2) width and height of the anchor, network pixels.
    strides: (N,) side of the cell, network pixels.
    """

    corners: Tensor
    anchors: Tensor
    strides: Tensor

    def at(self, places: Tensor) -> "Grid":
        """The rows at these positions."""
        return Grid(self.corners[places], self.anchors[places], self.strides[places])


class Decoded(NamedTuple):
    """Boxes of a batch of images.

    boxes: (B, N, 4) float32 xyxy, network pixels. objectness: (B, N) in [0, 1].
    probabilities: (B, N, C) in [0, 1], each class for itself.
    """

    boxes: Tensor
    objectness: Tensor
    probabilities: Tensor


def make_grid(sizes: Sequence[tuple[int, int]], anchors: Tensor, strides: Sequence[int]) -> Grid:
    """The grid of S scales.

    Args:
        sizes: rows and columns of each scale.
        anchors: (S, A, 2) widths and heights, network pixels.
        strides: network pixels per cell of each scale.
    """
    parts = []
    for (rows, columns), own, stride in zip(sizes, anchors.float(), strides, strict=True):
        y = torch.arange(rows, device=anchors.device, dtype=torch.float32) * stride
        x = torch.arange(columns, device=anchors.device, dtype=torch.float32) * stride
        corners = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (rows, columns, 2)
        corners = corners.view(-1, 1, 2).expand(-1, len(own), -1).reshape(-1, 2)
        parts.append((corners, own.repeat(rows * columns, 1), torch.full_like(corners[:, 0], stride)))
    corner, anchor, side = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return Grid(corner, anchor, side)


def grid_of(outputs: Sequence[Tensor], anchors: Tensor, strides: Sequence[int]) -> Grid:
    """The grid that these raw outputs (B, A * (5 + C), rows, columns) lie on."""
    return make_grid([(output.shape[2], output.shape[3]) for output in outputs], anchors, strides)


def flatten_outputs(outputs: Sequence[Tensor], num_anchors: int) -> Tensor:
    """S raw outputs (B, A * (5 + C), rows, columns) to (B, N, 5 + C) float32: tx, ty, tw, th, objectness, classes.

    Channels are anchor-major, as in Darknet; N is in the order of `Grid`.
    """
    rows = []
    for output in outputs:
        batch, _, *size = output.shape
        cells = output.float().reshape(batch, num_anchors, -1, *size)  # (B, A, 5 + C, rows, columns)
        rows.append(cells.permute(0, 3, 4, 1, 2).flatten(1, 3))
    return torch.cat(rows, dim=1)


def decode(flat: Tensor, grid: Grid) -> Tensor:
    """Boxes (..., N, 4) xyxy in network pixels of raw values (..., N, 4 or more).

    x = (column + sigmoid(tx)) * stride, w = anchor width * exp(tw); y and h likewise (YOLOv3, section 2.1).
    """
    centres = grid.corners + flat[..., :2].sigmoid() * grid.strides[:, None]
    half = grid.anchors * flat[..., 2:4].clamp(max=MAX_LOG_SIZE).exp() / 2
    return torch.cat([centres - half, centres + half], dim=-1)
