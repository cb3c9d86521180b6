"""Building blocks of the small detectors: convolution units, cross-stage-partial blocks, pyramid pooling."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Statistics follow the weights within some 20 steps: a short run on a few hundred photos has few hundred steps, and the
# batches of 8 that a small machine takes are noisier than 0.1 would like.
NORM_MOMENTUM = 0.05
NORM_EPS = 1e-3  # half precision rounds channels that hardly vary to 0; the papers' YOLOs since 2020 use this one
Activation = Callable[..., nn.Module]


class ConvUnit(nn.Sequential):
    """Convolution without bias, batch normalisation, activation; "same" padding, so only the stride changes the size.

    Args:
        in_channels: of x.
        out_channels: of the result.
        kernel_size: odd.
        stride: of the convolution.
        groups: `in_channels` for a depthwise convolution.
        act_layer: makes the activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act_layer: Activation = nn.SiLU,
    ) -> None:
        convolution = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        norm = nn.BatchNorm2d(out_channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)
        super().__init__(convolution, norm, act_layer(inplace=True))


def conv3x3(channels: int, depthwise: bool) -> nn.Sequential:
    """A 3x3 unit, or its cheap stand-in: 3x3 channel by channel, then 1x1 (MobileNets, arXiv:1704.04861)."""
    if not depthwise:
        return ConvUnit(channels, channels, 3)
    return nn.Sequential(ConvUnit(channels, channels, 3, groups=channels), ConvUnit(channels, channels))


class Residual(nn.Module):
    """Darknet-53's block, 1x1 then 3x3 (YOLOv3, section 2.4), with or without its shortcut."""

    def __init__(self, channels: int, shortcut: bool, act_layer: Activation) -> None:
        super().__init__()
        self.reduce = ConvUnit(channels, channels, 1, act_layer=act_layer)
        self.spread = ConvUnit(channels, channels, 3, act_layer=act_layer)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same."""
        new = self.spread(self.reduce(x))
        return x + new if self.shortcut else cast(Tensor, new)


class CSPBlock(nn.Module):
    """Half of the channels pass through a chain of blocks, the other half beside it (CSPNet, arXiv:1911.11929).

    The paper's partial dense block joins what each block gives, not the last alone, before the transition layer; so
    each block is reached by a gradient of its own.

    Args:
        in_channels: of x.
        out_channels: of the result.
        depth: blocks in the chain.
        shortcut: whether the blocks add their input.
        act_layer: makes the activations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int = 1,
        shortcut: bool = True,
        act_layer: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        half = max(out_channels // 2, 1)
        self.split = ConvUnit(in_channels, 2 * half, 1, act_layer=act_layer)
        self.blocks = nn.ModuleList(Residual(half, shortcut, act_layer) for _ in range(depth))
        self.transition = ConvUnit((2 + depth) * half, out_channels, 1, act_layer=act_layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        parts = list(self.split(x).chunk(2, dim=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return cast(Tensor, self.transition(torch.cat(parts, dim=1)))


class PyramidPool(nn.Module):
    """Spatial pyramid pooling (He et al. 2014, arXiv:1406.4729) as in YOLOv3-SPP: maxima over 5, 9 and 13 cells.

    A pool over 5 applied twice is one over 9, three times one over 13: the same maxima for a fifth of the comparisons.
    """

    def __init__(self, in_channels: int, out_channels: int, act_layer: Activation = nn.SiLU) -> None:
        super().__init__()
        half = max(in_channels // 2, 1)
        self.reduce = ConvUnit(in_channels, half, 1, act_layer=act_layer)
        self.join = ConvUnit(4 * half, out_channels, 1, act_layer=act_layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        parts = [self.reduce(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, stride=1, padding=2))
        return cast(Tensor, self.join(torch.cat(parts, dim=1)))
