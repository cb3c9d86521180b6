"""A YOLO network from what a user names: an architecture, or a backbone."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lit_vision.errors import UserError
from lit_vision.networks.anchor_free import AnchorFreeYOLO
from lit_vision.networks.yolo import YOLO, yolov3, yolov3_tiny
from lit_vision.networks.yolo_build import HeadKind, Neck, yolo
from lit_vision.networks.yolo_layers import SLOPE
from lit_vision.ops.anchors import PAPER_ANCHORS, TINY_ANCHORS, Anchors

Architecture = Literal["yolov3", "yolov3-tiny"]
AnchorChoice = list[list[float]] | Literal["paper", "auto"]

PRETRAINED_SLOPE = 0.01  # timm's ImageNet weights of Darknet-53 were trained with it, not with Darknet's 0.1


def choose_anchors(anchors: AnchorChoice, num_scales: int) -> Anchors:
    """The anchors named: "paper" is v3's nine for three scales and tiny's six for two.

    "auto" gives three for each scale, to be replaced when the data are known.
    """
    if anchors == "paper" and num_scales not in (2, 3):
        raise UserError(f"`anchors: paper` serves 2 or 3 scales, not {num_scales}: use 'auto' or give a list")
    if isinstance(anchors, str):
        return {2: TINY_ANCHORS, 3: PAPER_ANCHORS}.get(num_scales, (PAPER_ANCHORS * 2)[: 3 * num_scales])
    if any(len(pair) != 2 for pair in anchors):
        raise UserError("`anchors` must be 'paper', 'auto' or a list of [width, height] in pixels of the network input")
    return [(pair[0], pair[1]) for pair in anchors]


def create_yolo(
    num_classes: int,
    architecture: Architecture | None = None,
    backbone: str | None = None,
    in_channels: int = 3,
    anchors: AnchorChoice | None = None,
    strides: Sequence[int] = (8, 16, 32),
    width: int | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    neck: Neck = "v3",
    head: HeadKind = "v3",
    head_args: Mapping[str, Any] | None = None,
) -> YOLO | AnchorFreeYOLO:
    """The network of a `YOLODetector`; see there for the arguments, and `lit_vision.networks.yolo` for the networks.

    Raises:
        UserError: arguments that exclude each other, or that the architecture fixes.
    """
    if head == "anchor_free" and anchors is not None:
        raise UserError("`head: anchor_free` has no anchors: leave out `anchors`, or set `head: v3`")
    anchors = anchors or "paper"
    if backbone is not None:
        if architecture is not None:
            raise UserError(f"give `architecture: {architecture}` or `backbone: {backbone}`, not both")
        chosen = PAPER_ANCHORS if head == "anchor_free" else choose_anchors(anchors, len(strides))
        shape = (num_classes, in_channels, chosen, strides, width)
        return yolo(backbone, *shape, pretrained, weights, backbone_args, neck, head, head_args)
    if (neck, head) != ("v3", "v3") or head_args:
        raise UserError(
            f"`neck`, `head` and `head_args` are fixed in {architecture or 'yolov3'}: they go with a `backbone`, such "
            "as darknet53 or csp_n"
        )
    if width is not None or tuple(strides) != (8, 16, 32):
        raise UserError(f"`width` and `strides` are fixed in {architecture or 'yolov3'}: they go with a `backbone`")
    if architecture == "yolov3-tiny":
        if pretrained or weights is not None or backbone_args:
            raise UserError("yolov3-tiny has a backbone of its own: leave out `pretrained`, `weights`, `backbone_args`")
        return yolov3_tiny(num_classes, in_channels, choose_anchors(anchors, 2))
    slope = darknet_slope(pretrained, backbone_args)
    return yolov3(num_classes, in_channels, choose_anchors(anchors, 3), pretrained, weights, slope)


def darknet_slope(pretrained: bool, backbone_args: Mapping[str, Any] | None) -> float:
    """The leaky slope of Darknet-53: as given, else that of its weights.

    Raises:
        UserError: `backbone_args` has anything else for yolov3.
    """
    given = dict(backbone_args or {})
    slope = float(given.pop("slope", PRETRAINED_SLOPE if pretrained else SLOPE))
    if given:
        raise UserError(f"yolov3 takes `backbone_args: {{slope: 0.1}}` only, not {sorted(given)}")
    return slope
