"""The few boxes of YOLO's raw outputs whose objectness is above a threshold; the many others are never decoded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_vision.ops.grid import Decoded, Grid, decode


def decode_above(outputs: Sequence[Tensor], grid: Grid, num_anchors: int, threshold: float) -> list[Decoded]:
    """Boxes whose objectness is above a threshold, in the order of `Grid`.

    Args:
        outputs: S raw outputs (B, A * (5 + C), rows, columns), anchor-major.
        grid: of these outputs.
        num_anchors: A.
        threshold: of the objectness, strict.

    Returns:
        For each image boxes (N, 4), objectness (N,) and probabilities (N, C), float32.
    """
    parts, start = [], 0
    for output in outputs:
        image, places, raw = _scale_above(output, num_anchors, threshold)
        parts.append((image, start + places, raw))
        start += output.shape[2] * output.shape[3] * num_anchors
    images, places, flat = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    boxes = decode(flat, grid.at(places))
    found = Decoded(boxes, flat[:, 4].sigmoid(), flat[:, 5:].sigmoid())
    if outputs[0].shape[0] == 1:
        return [found]
    own_rows = [(images == i).nonzero().flatten() for i in range(outputs[0].shape[0])]
    return [Decoded(*(part[rows] for part in found)) for rows in own_rows]


def _scale_above(output: Tensor, num_anchors: int, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of a scale's boxes that are above: image (N,), place among one image's (N,), raw values (N, 5 + C) float32."""
    batch, _, rows, columns = output.shape
    cells = output.view(batch, num_anchors, -1, rows, columns).permute(0, 3, 4, 1, 2)  # (B, rows, columns, A, 5 + C)
    image, y, x, anchor = torch.nonzero(cells[..., 4].float().sigmoid() > threshold, as_tuple=True)
    return image, (y * columns + x) * num_anchors + anchor, cells[image, y, x, anchor].float()


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
