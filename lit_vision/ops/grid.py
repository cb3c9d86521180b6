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
    scale_x_y: (N,) how far centres reach, in cells about the cell's middle: 1 in YOLO v3, up to 2 in later networks.
    """

    corners: Tensor
    anchors: Tensor
    strides: Tensor
    scale_x_y: Tensor

    def at(self, places: Tensor) -> "Grid":
        """The rows at these positions."""
        return Grid(*(values[places] for values in self))


class Decoded(NamedTuple):
    """Boxes of a batch of images.

    boxes: (B, N, 4) float32 xyxy, network pixels. objectness: (B, N) in [0, 1].
    probabilities: (B, N, C) in [0, 1], each class for itself.
    """

    boxes: Tensor
    objectness: Tensor
    probabilities: Tensor


def make_grid(
    sizes: Sequence[tuple[int, int]],
    anchors: Tensor,
    strides: Sequence[int],
    scale_x_y: Sequence[float] | None = None,
) -> Grid:
    """The grid of S scales.

    Args:
        sizes: rows and columns of each scale.
        anchors: (S, A, 2) widths and heights, network pixels.
        strides: network pixels per cell of each scale.
        scale_x_y: of each scale; None: 1.
    """
    parts = []
    reaches = scale_x_y or [1.0] * len(strides)
    for (rows, columns), own, stride, reach in zip(sizes, anchors.float(), strides, reaches, strict=True):
        y = torch.arange(rows, device=anchors.device, dtype=torch.float32) * stride
        x = torch.arange(columns, device=anchors.device, dtype=torch.float32) * stride
        corners = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (rows, columns, 2)
        corners = corners.view(-1, 1, 2).expand(-1, len(own), -1).reshape(-1, 2)
        sides = (torch.full_like(corners[:, 0], stride), torch.full_like(corners[:, 0], reach))
        parts.append((corners, own.repeat(rows * columns, 1), *sides))
    return Grid(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))


def grid_of(
    outputs: Sequence[Tensor], anchors: Tensor, strides: Sequence[int], scale_x_y: Sequence[float] | None = None
) -> Grid:
    """The grid that these raw outputs (B, A * (5 + C), rows, columns) lie on."""
    return make_grid([(output.shape[2], output.shape[3]) for output in outputs], anchors, strides, scale_x_y)


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

    x = (column + s * sigmoid(tx) - (s - 1) / 2) * stride with s = scale_x_y, w = anchor width * exp(tw); y and h
    likewise. With s = 1 that is YOLOv3, section 2.1; s above 1 lets a centre reach the border of its cell (YOLOv4,
    Bochkovskiy et al. 2020, arXiv:2004.10934, "eliminate grid sensitivity").
    """
    reach = grid.scale_x_y[:, None]
    centres = grid.corners + (flat[..., :2].sigmoid() * reach - (reach - 1) / 2) * grid.strides[:, None]
    half = grid.anchors * flat[..., 2:4].clamp(max=MAX_LOG_SIZE).exp() / 2
    return torch.cat([centres - half, centres + half], dim=-1)
