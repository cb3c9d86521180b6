"""The neck and heads of YOLO v3 (Redmon and Farhadi 2018, arXiv:1804.02767) over any backbone.

The networks of Darknet's own configurations are in `lit_vision.networks.darknet`.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.backbones import create_features
from lit_vision.networks.yolo_layers import Scale, paper_scales
from lit_vision.ops.anchors import PAPER_ANCHORS, arrange_anchors
from lit_vision.ops.grid import Decoded, decode, flatten_outputs, grid_of

MAX_WIDTH = 512  # of the paper's neck; backbones with more channels than Darknet-53 need no wider one


class YOLO(nn.Module):
    """A backbone and one `Scale` per feature.

    Args:
        backbone: maps images (B, C, H, W) to S features, finest first.
        scales: S scales, coarsest first.
        strides: of the scales, coarsest first.
        anchors: (S, A, 2) widths and heights in pixels of the network input, in the order of the scales.

    Attributes:
        anchors: a buffer, so that it travels in the checkpoint.
    """

    anchors: Tensor
    scale_x_y: tuple[float, ...] | None = None  # as in YOLO v3: 1 for every scale
    ignore_threshold = 0.7

    def __init__(self, backbone: nn.Module, scales: Sequence[Scale], strides: Sequence[int], anchors: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.scales = nn.ModuleList(scales)
        self.strides = tuple(strides)
        self.coarsest = self.strides[0]
        # timm's Swin and its kin give (B, H, W, C).
        self.channels_first = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NCHW")
        self.register_buffer("anchors", anchors)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) to S raw outputs (B, A * (5 + classes), H / stride, W / stride).

        Coarsest first: 13 x 13, 26 x 26 and 52 x 52 for YOLO v3 at 416. Channels are anchor-major, each anchor's
        being tx, ty, tw, th, objectness, classes. H and W are multiples of the coarsest stride.
        """
        height, width = images.shape[-2:]
        if height % self.strides[0] or width % self.strides[0]:
            raise UserError(f"image_size {height} x {width} is not a multiple of {self.strides[0]}; choose one that is")
        outputs, route = [], None
        for feature, scale in zip(reversed(self.backbone(images)), self.scales, strict=True):
            feature = feature if self.channels_first else feature.permute(0, 3, 1, 2)
            logits, route = scale(feature, route)
            outputs.append(logits)
        return outputs

    def decode(self, outputs: Sequence[Tensor]) -> Decoded:
        """Raw outputs as boxes in pixels of the network input, with probabilities; see `lit_vision.ops.grid`."""
        flat = flatten_outputs(outputs, self.anchors.shape[1])
        boxes = decode(flat, grid_of(outputs, self.anchors, self.strides))
        return Decoded(boxes, flat[..., 4].sigmoid(), flat[..., 5:].sigmoid())


def yolo(
    backbone: str,
    num_classes: int,
    in_channels: int = 3,
    anchors: Sequence[Sequence[float]] = PAPER_ANCHORS,
    strides: Sequence[int] = (8, 16, 32),
    width: int | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    backbone_args: Mapping[str, Any] | None = None,
) -> YOLO:
    """The neck and heads of YOLO v3 over any timm backbone that gives features at the strides wanted.

    Args:
        backbone: a timm name, such as "resnet18".
        num_classes: C.
        in_channels: of the images.
        anchors: as many for each stride.
        strides: neighbours out of 4, 8, 16, 32: without 32, the backbone's last stage is left out.
        width: channels of the coarsest scale of the neck, halved at each finer one; None: half of the backbone's
            channels there, 512 at most.
        pretrained: timm's weights.
        weights: a local file instead.
        backbone_args: given to timm.
    """
    coarsest_first = sorted(strides, reverse=True)
    out_indices = _out_indices(coarsest_first)
    features = create_features(backbone, in_channels, pretrained, weights, out_indices, **dict(backbone_args or {}))
    info = cast(Any, features).feature_info
    channels, found = info.channels()[::-1], info.reduction()[::-1]
    if list(found) != coarsest_first:
        raise UserError(
            f"backbone {backbone} gives features at strides {sorted(found)}, not {sorted(strides)}; choose another "
            "backbone (one with a pyramid, such as resnet18) or other `strides`"
        )
    arranged = arrange_anchors(anchors, len(channels))
    own_width = width or min(channels[0] // 2, MAX_WIDTH)
    scales = paper_scales(channels, own_width, arranged.shape[1], num_classes)
    return YOLO(features, scales, coarsest_first, arranged)


def _out_indices(coarsest_first: Sequence[int]) -> tuple[int, ...]:
    """Positions from the end of a backbone whose last feature has stride 32, finest first."""
    places = {stride: place for place, stride in enumerate((32, 16, 8, 4, 2), start=1)}
    doubled = all(a == 2 * b for a, b in pairwise(coarsest_first))
    if not coarsest_first or not doubled or any(stride not in places for stride in coarsest_first):
        raise UserError(f"`strides` {sorted(coarsest_first)} must be neighbours out of 4, 8, 16, 32")
    return tuple(-places[stride] for stride in reversed(coarsest_first))
