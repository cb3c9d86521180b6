"""The few boxes of YOLO's raw outputs whose objectness is above a threshold; the many others are never decoded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_vision.ops.grid import Decoded, Grid, decode


def decode_above(outputs: Sequence[Tensor], anchors: Tensor, strides: Sequence[int], threshold: float) -> list[Decoded]:
    """Boxes whose objectness is above a threshold, in the order of `Grid`.

    Args:
        outputs: S raw outputs (B, A * (5 + C), rows, columns), anchor-major.
        anchors: (S, A, 2) widths and heights, network pixels.
        strides: network pixels per cell of each scale.
        threshold: of the objectness, strict.

    Returns:
        For each image boxes (N, 4), objectness (N,) and probabilities (N, C), float32.
    """
    parts = [
        _scale_above(output, own, stride, threshold)
        for output, own, stride in zip(outputs, anchors.float(), strides, strict=True)
    ]
    images, flat = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    grid = Grid(*(torch.cat(column) for column in zip(*(part[2] for part in parts), strict=True)))
    boxes, objectness, probabilities = decode(flat, grid), flat[:, 4].sigmoid(), flat[:, 5:].sigmoid()
    size = outputs[0].shape[0]
    if size == 1:
        return [Decoded(boxes, objectness, probabilities)]
    own_rows = [(images == i).nonzero().flatten() for i in range(size)]
    return [Decoded(boxes[rows], objectness[rows], probabilities[rows]) for rows in own_rows]


def _scale_above(output: Tensor, anchors: Tensor, stride: int, threshold: float) -> tuple[Tensor, Tensor, Grid]:
    """Image (N,), raw values (N, 5 + C) float32, and the grid of the boxes of a scale that are above."""
    batch, _, rows, columns = output.shape
    cells = output.view(batch, len(anchors), -1, rows, columns).permute(0, 3, 4, 1, 2)  # (B, rows, columns, A, 5 + C)
    image, y, x, anchor = torch.nonzero(cells[..., 4].float().sigmoid() > threshold, as_tuple=True)
    corners = torch.stack([x, y], dim=1).float() * stride
    grid = Grid(corners, anchors[anchor], torch.full_like(corners[:, 0], stride))
    return image, cells[image, y, x, anchor].float(), grid


def decoded_above(network: Any, outputs: Sequence[Tensor], threshold: float) -> list[Decoded]:
    """The same for any network: by its own `decode_above`, or else by its `decode` and a filter.

    Args:
        network: has `decode(outputs) -> Decoded` of a batch.
        outputs: of the network.
        threshold: of the objectness, strict.
    """
    if hasattr(network, "decode_above"):
        found: list[Decoded] = network.decode_above(outputs, threshold)
        return found
    decoded: Decoded = network.decode(outputs)
    kept = decoded.objectness > threshold
    return [Decoded(*(part[i][rows] for part in decoded)) for i, rows in enumerate(kept)]
