"""Pictures of a batch mixed with each other: mixup and cutmix, drawn from torch's generator."""

import math

import torch
from torch import Tensor


def mixup(images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Blends each picture with the one before it in the batch: `share` of it, 1 - `share` of the other.

    Zhang et al. 2018, mixup: beyond empirical risk minimization, https://arxiv.org/abs/1710.09412.

    Shape:
        images: (B, C, H, W), any dtype; the result is float32. targets: (B, K) float.
    """
    mixed = torch.lerp(images.float().roll(1, 0), images.float(), share)
    return mixed, torch.lerp(targets.roll(1, 0), targets, share)


def cutmix(images: Tensor, targets: Tensor, box: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Replaces a box of each picture by that of the one before it; targets mix by the area.

    Yun et al. 2019, CutMix, https://arxiv.org/abs/1905.04899.

    Args:
        images: (B, C, H, W), any dtype, which is kept.
        targets: (B, K) float.
        box: x1, y1, x2, y2 in pixels, x1 <= x < x2.
    """
    x1, y1, x2, y2 = box
    mixed = images.clone()
    mixed[..., y1:y2, x1:x2] = images.roll(1, 0)[..., y1:y2, x1:x2]
    share = 1 - (x2 - x1) * (y2 - y1) / (images.shape[-1] * images.shape[-2])
    return mixed, torch.lerp(targets.roll(1, 0), targets, share)


def draw_share(alpha: float) -> float:
    """A share from Beta(alpha, alpha): near 0 and 1 for small alpha, uniform for 1."""
    return float(torch.distributions.Beta(alpha, alpha).sample())


def draw_box(height: int, width: int, share: float) -> tuple[int, int, int, int]:
    """A box round a random centre that covers 1 - `share` of the picture, less where it sticks out."""
    side = math.sqrt(1 - share)
    x, y = (int(torch.randint(extent, ())) for extent in (width, height))
    half_width, half_height = round(width * side / 2), round(height * side / 2)
    return max(x - half_width, 0), max(y - half_height, 0), min(x + half_width, width), min(y + half_height, height)


class Mixing:
    """Mixes a training batch by mixup or cutmix; where both are on, each batch draws one of them.

    Args:
        mixup: alpha of the Beta distribution of the blend, 0 = off; 0.1 to 0.4 is usual, 0.8 for long runs.
        cutmix: alpha of the Beta distribution of the area, 0 = off; 1.0 is usual.
    """

    def __init__(self, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        self.mixup, self.cutmix = mixup, cutmix

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images (B, C, H, W) and targets (B, K) float."""
        if not self:
            return images, targets
        cut = self.cutmix > 0 and (self.mixup == 0 or float(torch.rand(())) < 0.5)
        if not cut:
            return mixup(images, targets, draw_share(self.mixup))
        height, width = images.shape[-2:]
        return cutmix(images, targets, draw_box(height, width, draw_share(self.cutmix)))
