"""Test-time augmentation: the mean of what a network says of several views of the same pictures."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from torch import Tensor
from torch.nn import functional as F

from lit_vision.errors import UserError

Flip: TypeAlias = Literal["horizontal", "vertical"]
AXES = {"horizontal": -1, "vertical": -2}  # of an image, that a flip turns round


def check_views(scales: Sequence[float], flips: Sequence[str]) -> None:
    """Raises UserError for scales and flips that make no views."""
    if not scales or min(scales) <= 0:
        raise UserError(f"model.tta_scales is {list(scales)}: give factors above 0, such as [0.75, 1.0, 1.25]")
    wrong = [flip for flip in flips if flip not in AXES]
    if wrong or len(set(flips)) < len(flips):
        raise UserError(f"model.tta_flips is {list(flips)}: give {' and '.join(AXES)}, each at most once")


def mean_over_views(
    maps_of: Callable[[Tensor], Tensor], images: Tensor, scales: Sequence[float] = (1.0,), flips: Sequence[str] = ()
) -> Tensor:
    """Mean of the maps of all views, each brought back: every scale, as it is and mirrored in each of the ways.

    Args:
        maps_of: images (B, C, h, w) of any size to maps (B, K, h, w), such as probabilities.
        images: (B, C, H, W); other scales than 1 reach `maps_of` as float32.
        scales: factors on height and width; images and maps are interpolated bilinearly.
        flips: "horizontal" (left to right) and "vertical".

    Returns:
        (B, K, H, W).
    """
    if list(scales) == [1.0] and not flips:
        return maps_of(images)
    total, size = None, images.shape[-2:]
    for scale in scales:
        scaled = _resized(images, scale)
        for axes in ([], *([AXES[flip]] for flip in flips)):
            maps = maps_of(scaled.flip(axes) if axes else scaled)
            maps = maps.flip(axes) if axes else maps
            if maps.shape[-2:] != size:
                maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
            total = maps if total is None else total + maps
    assert total is not None  # check_views: there is at least one scale
    return total / (len(scales) * (1 + len(flips)))


def _resized(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    height, width = (max(round(side * scale), 1) for side in images.shape[-2:])
    shrinks = scale < 1
    return F.interpolate(images.float(), (height, width), mode="bilinear", align_corners=False, antialias=shrinks)
