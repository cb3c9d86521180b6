"""Test-time augmentation: a batch of images at other sizes and mirrored, and boxes found there brought back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_vision.ops.averaging import AXES, check_views


@dataclass(frozen=True)
class View:
    """How the network is shown an image.

    Args:
        scale: factor on both sides.
        flip: "horizontal" (left to right), "vertical" (top to bottom), or None.
    """

    scale: float = 1.0
    flip: str | None = None


def views(scales: Sequence[float], flips: Sequence[str]) -> list[View]:
    """Each scale as it is and with each of the flips.

    Raises:
        UserError: there is no scale, one is not above 0, or a flip is unknown or there twice.
    """
    check_views(scales, flips)
    return [View(scale, flip) for scale in dict.fromkeys(scales) for flip in (None, *flips)]


def show(images: Tensor, view: View, multiple: int) -> Tensor:
    """Images (B, C, H, W) as a view shows them, each side rounded to a multiple of `multiple`; float if resized."""
    height, width = (max(round(side * view.scale / multiple), 1) * multiple for side in images.shape[-2:])
    if (height, width) != tuple(images.shape[-2:]):
        images = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True)
    return images if view.flip is None else images.flip(AXES[view.flip])


def unshow(boxes: Tensor, view: View, shown: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Boxes found in a view, in pixels of the images it was made from.

    Args:
        boxes: (..., 4) xyxy, pixels of what was shown.
        view: the view.
        shown: height and width of what was shown.
        size: height and width of the images.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    if view.flip == "horizontal":
        x1, x2 = shown[1] - x2, shown[1] - x1
    elif view.flip == "vertical":
        y1, y2 = shown[0] - y2, shown[0] - y1
    down, across = size[0] / shown[0], size[1] / shown[1]
    return torch.stack([x1 * across, y1 * down, x2 * across, y2 * down], dim=-1)
