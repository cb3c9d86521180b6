"""Necks: S features of a backbone to S features that know of each other, for heads of any kind."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_vision.networks.csp_layers import ConvUnit, CSPBlock
from lit_vision.networks.yolo_layers import Scale


class TopDown(nn.Module):
    """The neck of YOLO v3: coarse features are upsampled and joined to finer ones.

    Args:
        scales: S scales, coarsest first, without heads.
        channels: of the S features given, coarsest first.
    """

    def __init__(self, scales: Sequence[Scale], channels: Sequence[int]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)
        self.channels = tuple(channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """S features to S features (B, channels, H / stride, W / stride), both coarsest first."""
        given, route = [], None
        for feature, scale in zip(features, self.scales, strict=True):
            new, route = scale(feature, route)
            given.append(new)
        return given


class PAN(nn.Module):
    """Down from coarse to fine, then up again (PANet, Liu et al. 2018, arXiv:1803.01534), joined by CSP blocks.

    Args:
        in_channels: of the S features, coarsest first.
        width: channels of the coarsest feature given, halved at each finer one, 16 at least.
    """

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        widths = [max(width >> k, 16) for k in range(len(in_channels))]
        self.channels = tuple(widths)
        self.lateral = nn.ModuleList(
            ConvUnit(a, b) if a != b else nn.Identity() for a, b in zip(in_channels, widths, strict=True)
        )
        fine, coarse = widths[1:], widths[:-1]
        self.down = nn.ModuleList(CSPBlock(a + b, b, shortcut=False) for a, b in zip(coarse, fine, strict=True))
        self.stride = nn.ModuleList(ConvUnit(b, b, 3, stride=2) for b in fine)
        self.up = nn.ModuleList(CSPBlock(a + b, a, shortcut=False) for a, b in zip(coarse, fine, strict=True))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """S features to S features (B, channels, H / stride, W / stride), both coarsest first."""
        found = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for k, block in enumerate(self.down):
            coarse = F.interpolate(found[k], scale_factor=2.0, mode="nearest")
            found[k + 1] = block(torch.cat([coarse, found[k + 1]], dim=1))
        for k in reversed(range(len(self.up))):
            finer = self.stride[k](found[k + 1])
            found[k] = self.up[k](torch.cat([finer, found[k]], dim=1))
        return cast(list[Tensor], found)
