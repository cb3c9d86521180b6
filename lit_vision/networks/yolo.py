"""YOLO v3 (Redmon and Farhadi 2018, arXiv:1804.02767), yolov3-tiny, and v3's neck and heads over any backbone.

Written from the paper and the published Darknet configurations (public domain, https://github.com/pjreddie/darknet).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.backbones import create_features
from lit_vision.networks.yolo_layers import SLOPE, Scale, TinyBackbone, paper_scales, tiny_scales
from lit_vision.ops.anchors import PAPER_ANCHORS, TINY_ANCHORS, arrange_anchors
from lit_vision.ops.candidates import decode_above
from lit_vision.ops.grid import Decoded, decode, flatten_outputs, grid_of

Architecture = Literal["yolov3", "yolov3-tiny"]

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

    def __init__(self, backbone: nn.Module, scales: Sequence[Scale], strides: Sequence[int], anchors: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.scales = nn.ModuleList(scales)
        self.strides = tuple(strides)
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

    def decode_above(self, outputs: Sequence[Tensor], threshold: float) -> list[Decoded]:
        """As `decode`, of each image only the boxes whose objectness is above a threshold."""
        return decode_above(outputs, grid_of(outputs, self.anchors, self.strides), self.anchors.shape[1], threshold)


def yolov3(
    num_classes: int,
    in_channels: int = 3,
    anchors: Sequence[Sequence[float]] = PAPER_ANCHORS,
    pretrained: bool = False,
    weights: str | None = None,
    slope: float = SLOPE,
    norm_eps: float = 1e-5,
) -> YOLO:
    """YOLO v3 as in the paper: Darknet-53, three scales; 61.9 million parameters with 80 classes.

    Args:
        num_classes: C.
        in_channels: of the images.
        anchors: nine (or three, or six) widths and heights.
        pretrained: timm's ImageNet weights for the backbone, which were trained with a slope of 0.01.
        weights: a local file for the backbone instead.
        slope: of the backbone's leaky ReLU: 0.1 in Darknet.
        norm_eps: of the batch normalisation: 1e-5 as in most of Darknet; 1e-6 as in its CPU code and OpenCV.
    """
    arguments: dict[str, Any] = {"act_layer": partial(nn.LeakyReLU, negative_slope=slope)}
    if norm_eps != 1e-5:
        arguments["norm_layer"] = partial(nn.BatchNorm2d, eps=norm_eps)
    backbone = create_features("darknet53", in_channels, pretrained, weights, (3, 4, 5), **arguments)
    arranged = arrange_anchors(anchors, 3)
    scales = paper_scales((1024, 512, 256), 512, arranged.shape[1], num_classes, norm_eps)
    return YOLO(backbone, scales, (32, 16, 8), arranged)


def yolov3_tiny(
    num_classes: int,
    in_channels: int = 3,
    anchors: Sequence[Sequence[float]] = TINY_ANCHORS,
    norm_eps: float = 1e-5,
) -> YOLO:
    """yolov3-tiny: seven convolutions, two scales (strides 32 and 16); 8.8 million parameters with 80 classes."""
    arranged = arrange_anchors(anchors, 2)
    scales = tiny_scales(arranged.shape[1], num_classes, norm_eps)
    return YOLO(TinyBackbone(in_channels, norm_eps), scales, (32, 16), arranged)


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
