"""A detector over any backbone: its neck and its head, chosen by plain arguments."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.anchor_free import AnchorFreeYOLO
from lit_vision.networks.backbones import create_features
from lit_vision.networks.yolo import YOLO
from lit_vision.networks.yolo_layers import ConvBlock, Head, Scale, paper_scales
from lit_vision.networks.yolo_necks import PAN, TopDown
from lit_vision.networks.yolo_network import HeadKind, Neck
from lit_vision.ops.anchors import PAPER_ANCHORS, arrange_anchors

MAX_WIDTH = 512  # of the paper's neck; backbones with more channels than Darknet-53 need no wider one
HEAD_ARGS: dict[str, dict[str, str]] = {
    "v3": {"scale_x_y": "a number"},
    "anchor_free": {
        "reg_max": "a whole number",
        "depth": "a whole number",
        "depthwise": "true or false",
        "width": "a whole number or null",
    },
}
KINDS: dict[str, tuple[type, ...]] = {
    "a number": (int, float),
    "a whole number": (int,),
    "a whole number or null": (int, type(None)),
    "true or false": (bool,),
}


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
    neck: Neck = "v3",
    head: HeadKind = "v3",
    head_args: Mapping[str, Any] | None = None,
) -> YOLO | AnchorFreeYOLO:
    """A neck and heads over any timm backbone that gives features at the strides wanted.

    Args:
        backbone: a timm name, such as "resnet18", or csp_n, csp_s, csp_m, which are for training from scratch.
        num_classes: C.
        in_channels: of the images.
        anchors: as many for each stride; of head "v3".
        strides: neighbours out of 4, 8, 16, 32: without 32, the backbone's last stage is left out.
        width: channels of the coarsest scale of the neck, halved at each finer one; None: half of the backbone's
            channels there, 512 at most.
        pretrained: timm's weights.
        weights: a local file instead.
        backbone_args: given to timm.
        neck: "v3" brings coarse features to finer scales, "pan" also fine ones back to coarser scales.
        head: "v3" has anchors and objectness, "anchor_free" neither.
        head_args: of the head, see `YOLO` (scale_x_y) and `AnchorFreeYOLO` (reg_max, depth, depthwise, width).
    """
    args = _checked(head, head_args)
    if width is not None and width < 1:
        raise UserError(f"width is {width}; give the channels of the neck's coarsest scale, at least 1, or null")
    coarsest_first = sorted(strides, reverse=True)
    out_indices = _out_indices(coarsest_first)
    features = create_features(backbone, in_channels, pretrained, weights, out_indices, **dict(backbone_args or {}))
    channels = _channels(features, backbone, coarsest_first)
    own_width = width or min(channels[0] // 2, MAX_WIDTH)
    if head == "anchor_free":
        return AnchorFreeYOLO(features, _neck(neck, channels, own_width), coarsest_first, num_classes, **args)
    arranged = arrange_anchors(anchors, len(channels))
    if neck == "v3":
        scales = paper_scales(channels, own_width, arranged.shape[1], num_classes)
        return YOLO(features, scales, coarsest_first, arranged, **args)
    pan = PAN(channels, own_width)
    scales = [_alone(own, arranged.shape[1], num_classes) for own in pan.channels]
    return YOLO(features, scales, coarsest_first, arranged, pan, **args)


def _channels(features: nn.Module, backbone: str, strides: Sequence[int]) -> list[int]:
    """Of the features, coarsest first."""
    info = cast(Any, features).feature_info
    found: list[int] = info.reduction()[::-1]
    if found != list(strides):
        raise UserError(
            f"backbone {backbone} gives features at strides {sorted(found)}, not {sorted(strides)}; choose another "
            "backbone (one with a pyramid, such as resnet18) or other `strides`"
        )
    channels: list[int] = info.channels()[::-1]
    return channels


def _neck(neck: Neck, channels: Sequence[int], width: int) -> nn.Module:
    if neck == "pan":
        return PAN(channels, width)
    scales = paper_scales(channels, width, 1, 1)
    widths = [scale.head.in_channels for scale in scales if isinstance(scale.head, Head)]
    for scale in scales:
        scale.head = nn.Identity()
    return TopDown(scales, widths)


def _alone(channels: int, num_anchors: int, num_classes: int) -> Scale:
    """A scale that only predicts: the neck has joined the features."""
    output = ConvBlock(channels, 2 * channels, 3)
    return Scale(None, nn.Identity(), output, Head(2 * channels, num_anchors, num_classes))


def _checked(head: HeadKind, head_args: Mapping[str, Any] | None) -> dict[str, Any]:
    known, given = HEAD_ARGS[head], dict(head_args or {})
    if unknown := sorted(given.keys() - known.keys()):
        raise UserError(f"head_args: {', '.join(unknown)} is not of head {head}, which has {', '.join(known)}")
    for name, value in given.items():
        kinds = KINDS[known[name]]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise UserError(f"head_args: {name} is {value!r}; give {known[name]}")
    return given


def _out_indices(coarsest_first: Sequence[int]) -> tuple[int, ...]:
    """Positions from the end of a backbone whose last feature has stride 32, finest first."""
    places = {stride: place for place, stride in enumerate((32, 16, 8, 4, 2), start=1)}
    doubled = all(a == 2 * b for a, b in pairwise(coarsest_first))
    if not coarsest_first or not doubled or any(stride not in places for stride in coarsest_first):
        raise UserError(f"`strides` {sorted(coarsest_first)} must be neighbours out of 4, 8, 16, 32")
    return tuple(-places[stride] for stride in reversed(coarsest_first))
