"""The parts of YOLO v3: Darknet's convolution and one scale of the neck with its head."""

from collections.abc import Sequence
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1  # of Darknet's leaky ReLU
OBJECT_PRIOR = 0.01


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation and leaky ReLU; the size stays but for the stride."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, a=SLOPE)
        super().__init__(
            convolution,
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class Head(nn.Conv2d):
    """The last convolution of a scale, (B, in_channels, H, W) to (B, A * (5 + C), H, W).

    Its biases start objectness at 1 % (as RetinaNet, Lin et al. 2017, section 4.1) and each class at 1 / C, so that
    the many empty cells do not swamp the first steps; its weights start near 0.
    """

    def __init__(self, in_channels: int, num_anchors: int, num_classes: int) -> None:
        super().__init__(in_channels, num_anchors * (5 + num_classes), 1)
        nn.init.normal_(self.weight, std=0.01)
        start = torch.zeros(num_anchors, 5 + num_classes, device=self.weight.device)
        start[:, 4] = log(OBJECT_PRIOR / (1 - OBJECT_PRIOR))
        start[:, 5:] = -log(max(num_classes - 1, 1))
        self.bias = nn.Parameter(start.flatten())


class Scale(nn.Module):
    """One scale of the neck: joins the coarser scale's route with this scale's feature and predicts.

    Args:
        reduce: brings the coarser scale's route to fewer channels before it is upsampled; None at the coarsest.
        block: joined feature to this scale's route.
        output: route to what the head sees.
        head: to raw logits.
    """

    def __init__(self, reduce: nn.Module | None, block: nn.Module, output: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.reduce = reduce
        self.block = block
        self.output = output
        self.head = head

    def forward(self, feature: Tensor, route: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (B, A * (5 + C), H, W) and this scale's route."""
        if self.reduce is not None and route is not None:
            coarse = F.interpolate(self.reduce(route), scale_factor=2.0, mode="nearest")
            feature = torch.cat([coarse, feature], dim=1)
        route = self.block(feature)
        return self.head(self.output(route)), route


def _five(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        ConvBlock(in_channels, width, 1),
        ConvBlock(width, 2 * width, 3),
        ConvBlock(2 * width, width, 1),
        ConvBlock(width, 2 * width, 3),
        ConvBlock(2 * width, width, 1),
    )


def paper_scales(channels: Sequence[int], width: int, num_anchors: int, num_classes: int) -> list[Scale]:
    """Scales of YOLO v3 (section 2.3), coarsest first.

    Args:
        channels: of the backbone's features, coarsest first.
        width: channels of the coarsest route (512 in the paper), halved at each finer scale.
        num_anchors: per scale.
        num_classes: C.
    """
    scales: list[Scale] = []
    for depth, in_channels in enumerate(channels):
        own = max(width >> depth, 8)
        reduce = ConvBlock(max(width >> (depth - 1), 8), own, 1) if depth else None
        block = _five(in_channels + (own if depth else 0), own)
        output = ConvBlock(own, 2 * own, 3)
        scales.append(Scale(reduce, block, output, Head(2 * own, num_anchors, num_classes)))
    return scales
