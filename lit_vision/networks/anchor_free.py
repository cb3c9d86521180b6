"""The anchor-free detector: one box for each cell, no objectness, boxes and classes found by layers of their own."""

from collections.abc import Sequence
from math import log
from typing import cast

import torch
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.csp_layers import ConvUnit, conv3x3
from lit_vision.networks.yolo_layers import OBJECT_PRIOR
from lit_vision.networks.yolo_network import pyramid
from lit_vision.ops.grid import Decoded
from lit_vision.ops.points import Points, decode_points, flatten_points, make_points

START_CELLS = 2.0  # a new head's boxes reach so many cells to each side


class AnchorFreeHead(nn.Module):
    """The head of one scale, decoupled as in YOLOX (Ge et al. 2021, arXiv:2107.08430).

    A new head gives boxes of some four cells, and 1 % for each class (as RetinaNet, Lin et al. 2017, section 4.1).

    Args:
        in_channels: of the neck's feature.
        num_classes: C.
        width: channels of the two branches.
        depth: 3x3 convolutions of each branch.
        depthwise: cheaper ones, see `csp_layers.conv3x3`.
        reg_max: largest distance to a side in cells, which is found as a distribution over 0, ..., reg_max; 0 finds
            its logarithm.
    """

    def __init__(
        self, in_channels: int, num_classes: int, width: int, depth: int, depthwise: bool, reg_max: int
    ) -> None:
        super().__init__()
        self.stem = ConvUnit(in_channels, width) if in_channels != width else nn.Identity()
        self.box_branch = nn.Sequential(*(conv3x3(width, depthwise) for _ in range(depth)))
        self.class_branch = nn.Sequential(*(conv3x3(width, depthwise) for _ in range(depth)))
        self.box = nn.Conv2d(width, 4 * (reg_max + 1), 1)
        self.classes = nn.Conv2d(width, num_classes, 1)
        starts = _start(reg_max).repeat(4), torch.full((num_classes,), log(OBJECT_PRIOR / (1 - OBJECT_PRIOR)))
        for layer, start in zip((self.box, self.classes), starts, strict=True):
            nn.init.normal_(layer.weight, std=0.01)
            layer.bias = nn.Parameter(start.to(layer.weight.device))

    def forward(self, feature: Tensor) -> Tensor:
        """(B, in_channels, H, W) to raw values (B, 4 * (reg_max + 1) + C, H, W), see `AnchorFreeYOLO`."""
        shared = self.stem(feature)
        return torch.cat([self.box(self.box_branch(shared)), self.classes(self.class_branch(shared))], dim=1)


def _start(reg_max: int) -> Tensor:
    """(reg_max + 1,) biases of one side: falling with the distance, so that the mean is near `START_CELLS`."""
    if reg_max == 0:
        return torch.tensor([log(START_CELLS)])
    return -torch.arange(reg_max + 1.0) * log((1 + START_CELLS) / START_CELLS)  # geometric: mean START_CELLS


class AnchorFreeYOLO(nn.Module):
    """A backbone, a neck and one `AnchorFreeHead` for each scale.

    Args:
        backbone: maps images (B, C, H, W) to S features, finest first.
        neck: maps S features to S features, coarsest first; its `channels` are those of the features given.
        strides: of the scales, coarsest first.
        num_classes: C.
        reg_max: see `AnchorFreeHead`.
        depth: likewise.
        depthwise: likewise.
        width: likewise; None: the neck's channels at each scale.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        strides: Sequence[int],
        num_classes: int,
        reg_max: int = 16,
        depth: int = 1,
        depthwise: bool = False,
        width: int | None = None,
    ) -> None:
        super().__init__()
        if reg_max < 0 or depth < 0 or (width is not None and width < 1):
            raise UserError(
                f"head_args: reg_max {reg_max} and depth {depth} must be 0 or more, width {width} 1 or more or null"
            )
        self.backbone, self.neck = backbone, neck
        self.strides, self.reg_max = tuple(strides), reg_max
        self.coarsest = self.strides[0]
        channels = cast(tuple[int, ...], neck.channels)
        self.heads = nn.ModuleList(
            AnchorFreeHead(own, num_classes, width or own, depth, depthwise, reg_max) for own in channels
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) to S raw outputs (B, 4 * (reg_max + 1) + C, H / stride, W / stride).

        Coarsest first. Channels are those of the left, upper, right and lower side (`lit_vision.ops.points`), then
        the classes' logits. H and W are multiples of the coarsest stride.
        """
        features = self.neck(pyramid(self.backbone, images, self.strides))
        return [head(feature) for head, feature in zip(self.heads, features, strict=True)]

    def decode(self, outputs: Sequence[Tensor]) -> Decoded:
        """Raw outputs as boxes in pixels of the network input, with probabilities.

        There is no objectness beside the classes: it is the best class's probability, and `probabilities` are relative
        to it, so that their product, a detection's score, is the class's own probability.
        """
        return self._decoded(flatten_points(outputs), self._points(outputs))

    def decode_above(self, outputs: Sequence[Tensor], threshold: float) -> list[Decoded]:
        """As `decode`, of each image only the boxes whose best class is above a threshold."""
        flat, points = flatten_points(outputs, outputs[0].dtype), self._points(outputs)
        best = flat[..., 4 * (self.reg_max + 1) :].amax(dim=-1).float().sigmoid()
        rows = [(one > threshold).nonzero().flatten() for one in best]
        return [self._decoded(flat[i, own].float(), points.at(own)) for i, own in enumerate(rows)]

    def _points(self, outputs: Sequence[Tensor]) -> Points:
        return make_points([(raw.shape[2], raw.shape[3]) for raw in outputs], self.strides, outputs[0].device)

    def _decoded(self, flat: Tensor, points: Points) -> Decoded:
        sides = 4 * (self.reg_max + 1)
        chances = flat[..., sides:].sigmoid()
        best = chances.amax(dim=-1)
        relative = chances / best.clamp(min=torch.finfo(chances.dtype).tiny)[..., None]
        return Decoded(decode_points(flat[..., :sides], points, self.reg_max), best, relative)
