"""The parts of YOLO v3: Darknet's convolution, the tiny backbone, and one scale of the neck with its head."""

from collections.abc import Sequence
from itertools import pairwise
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1  # of Darknet's leaky ReLU
OBJECT_PRIOR = 0.01


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation and leaky ReLU; the size stays but for the stride."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm_eps: float = 1e-5) -> None:
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, a=SLOPE)
        super().__init__(
            convolution,
            nn.BatchNorm2d(out_channels, eps=norm_eps),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class TinyBackbone(nn.Module):
    """Backbone of yolov3-tiny.cfg: seven convolutions with pools between.

    Images (B, in_channels, H, W) give features (B, 256, H/16, W/16) and (B, 1024, H/32, W/32).
    """

    channels = (256, 1024)

    def __init__(self, in_channels: int = 3, norm_eps: float = 1e-5) -> None:
        super().__init__()
        widths = (in_channels, 16, 32, 64, 128, 256, 512, 1024)
        self.blocks = nn.ModuleList(ConvBlock(a, b, 3, norm_eps) for a, b in pairwise(widths))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features at strides 16 and 32."""
        x = images
        for block in self.blocks[:4]:
            x = F.max_pool2d(block(x), 2)
        fine = self.blocks[4](x)
        x = self.blocks[5](F.max_pool2d(fine, 2))
        # Darknet's pool of size 2 and stride 1 looks right and down; beyond the border lies -inf, not 0.
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2, stride=1)
        return [fine, self.blocks[6](x)]


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


def _five(in_channels: int, width: int, norm_eps: float) -> nn.Sequential:
    return nn.Sequential(
        ConvBlock(in_channels, width, 1, norm_eps),
        ConvBlock(width, 2 * width, 3, norm_eps),
        ConvBlock(2 * width, width, 1, norm_eps),
        ConvBlock(width, 2 * width, 3, norm_eps),
        ConvBlock(2 * width, width, 1, norm_eps),
    )


def paper_scales(
    channels: Sequence[int], width: int, num_anchors: int, num_classes: int, norm_eps: float = 1e-5
) -> list[Scale]:
    """Scales of YOLO v3 (section 2.3), coarsest first.

    Args:
        channels: of the backbone's features, coarsest first.
        width: channels of the coarsest route (512 in the paper), halved at each finer scale.
        num_anchors: per scale.
        num_classes: C.
        norm_eps: of the batch normalisation.
    """
    scales: list[Scale] = []
    for depth, in_channels in enumerate(channels):
        own = max(width >> depth, 8)
        reduce = ConvBlock(max(width >> (depth - 1), 8), own, 1, norm_eps) if depth else None
        block = _five(in_channels + (own if depth else 0), own, norm_eps)
        output = ConvBlock(own, 2 * own, 3, norm_eps)
        scales.append(Scale(reduce, block, output, Head(2 * own, num_anchors, num_classes)))
    return scales


def tiny_scales(num_anchors: int, num_classes: int, norm_eps: float = 1e-5) -> list[Scale]:
    """The two scales of yolov3-tiny.cfg, coarsest first, over `TinyBackbone`."""
    fine, coarse = TinyBackbone.channels
    return [
        Scale(
            None,
            ConvBlock(coarse, 256, 1, norm_eps),
            ConvBlock(256, 512, 3, norm_eps),
            Head(512, num_anchors, num_classes),
        ),
        Scale(
            ConvBlock(256, 128, 1, norm_eps),
            nn.Identity(),
            ConvBlock(fine + 128, 256, 3, norm_eps),
            Head(256, num_anchors, num_classes),
        ),
    ]
