"""Windows that slide over a picture: their shapes, where they lie, and what they find together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vision.ops.boxes import iou
from lit_vision.types import DetectionPrediction

Size = tuple[int, int]  # height, width
SLACK = 1e-6  # of a step: what rounding may add to a quotient


def pixels_of(value: float, whole: float) -> float:
    """Up to 1 a share of `whole`, above 1 pixels; in pixels."""
    return value * whole if value <= 1 else value


def window_shapes(sizes: Sequence[float], ratios: Sequence[float], picture: Size) -> list[Size]:
    """Height and width of the windows for a picture, each shape once, none larger than the picture.

    A window of size s and ratio r covers s * s pixels, its width is r times its height.

    Args:
        sizes: sides of the square windows: pixels, or up to 1 a share of the picture's shorter side.
        ratios: width by height.
        picture: height and width, pixels.
    """
    shapes: dict[Size, None] = {}
    for size in sizes:
        side = pixels_of(size, min(picture))
        for ratio in ratios:
            wanted = (side / math.sqrt(ratio), side * math.sqrt(ratio))
            height, width = (min(max(round(one), 1), most) for one, most in zip(wanted, picture, strict=True))
            shapes[height, width] = None
    return list(shapes)


def whole_steps(step: float, unit: float) -> int:
    """How many units of a grid a step is: the nearest whole number, at least 1."""
    return max(round(step / unit), 1)


@dataclass(frozen=True)
class WindowGrid:
    """Windows of one shape that cover a picture, row by row.

    Attributes:
        window: height and width, pixels.
        step: from a window to the next one below, and to the right, pixels.
        origin: top and left of the first window; 0 or less, since what the grid is too large by sticks out evenly.
        count: rows and columns.
    """

    window: Size
    step: tuple[float, float]
    origin: Size
    count: Size

    def __len__(self) -> int:
        return self.count[0] * self.count[1]

    @property
    def boxes(self) -> Tensor:
        """(N, 4) float32 xyxy on whole pixels of the picture; those at the edges may stick out."""
        tops, lefts = (
            torch.round(start + step * torch.arange(count, dtype=torch.float64))
            for start, step, count in zip(self.origin, self.step, self.count, strict=True)
        )
        top, left = tops.repeat_interleave(len(lefts)), lefts.repeat(len(tops))
        return torch.stack([left, top, left + self.window[1], top + self.window[0]], dim=1).float()


def window_grid(picture: Size, window: Size, step: tuple[float, float]) -> WindowGrid:
    """The fewest windows of a shape, `step` apart, that cover all of a picture.

    Args:
        picture: height and width, pixels.
        window: height and width, no larger than the picture.
        step: downwards and to the right, pixels, above 0.
    """
    counts, origins = [], []
    for extent, side, distance in zip(picture, window, step, strict=True):
        count = 1 + max(math.ceil((extent - side) / distance - SLACK), 0)
        counts.append(count)
        origins.append(-math.floor(((count - 1) * distance + side - extent) / 2 + SLACK))
    return WindowGrid(window, step, (origins[0], origins[1]), (counts[0], counts[1]))


def without_margin(boxes: Tensor, margin: float) -> Tensor:
    """Boxes (N, 4) xyxy about which windows were drawn larger on each side by `margin` of the box's sides."""
    sides = (boxes[:, 2:] - boxes[:, :2]) / (1 + 2 * margin)
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


def vote_boxes(
    chosen: DetectionPrediction, boxes: Tensor, probabilities: Tensor, overlap: float
) -> DetectionPrediction:
    """Detections moved to the mean of all windows round them, weighted by the probability of their class.

    Box voting: Gidaris and Komodakis 2015, https://arxiv.org/abs/1505.01749, 4.2. Windows are steps apart; their mean
    is not.

    Args:
        chosen: detections that non-maximum suppression has left.
        boxes: (N, 4) xyxy, all windows.
        probabilities: (N, C) of their classes.
        overlap: lowest IoU of a window with the detection that it votes on.
    """
    weights = probabilities[:, chosen["labels"]].t().float() * (iou(chosen["boxes"], boxes) >= overlap)  # (M, N)
    total = weights.sum(dim=1, keepdim=True)
    with torch.autocast(boxes.device.type, enabled=False):  # which would round the boxes
        moved = torch.where(total > 0, weights @ boxes / total.clamp(min=1e-12), chosen["boxes"])
    return {"boxes": moved, "labels": chosen["labels"], "scores": chosen["scores"]}
