"""A YOLO network from what a user names: an architecture, or a backbone."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import nn

from lit_vision.errors import UserError
from lit_vision.networks.anchor_free import AnchorFreeYOLO
from lit_vision.networks.darknet import DarknetYOLO, create_darknet
from lit_vision.networks.darknet_cfg import BUILT_IN, find_config
from lit_vision.networks.darknet_file import is_darknet_file
from lit_vision.networks.darknet_weights import load_weights, plain_backbone_args
from lit_vision.networks.yolo import YOLO
from lit_vision.networks.yolo_build import yolo
from lit_vision.networks.yolo_network import HeadKind, Neck
from lit_vision.ops.anchors import PAPER_ANCHORS, TINY_ANCHORS, Anchors

AnchorChoice = list[list[float]] | Literal["paper", "auto"]
YOLONetwork: TypeAlias = YOLO | DarknetYOLO | AnchorFreeYOLO


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
    architecture: str | None = None,
    backbone: str | None = None,
    in_channels: int = 3,
    anchors: AnchorChoice | None = None,
    strides: Sequence[int] = (8, 16, 32),
    width: int | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    bn_eps: float | None = None,
    neck: Neck = "v3",
    head: HeadKind = "v3",
    head_args: Mapping[str, Any] | None = None,
) -> YOLONetwork:
    """The network of a `YOLODetector`; see there for the arguments.

    Raises:
        UserError: arguments that exclude each other, or that the architecture fixes.
    """
    _refuse_values(head, anchors, bn_eps)
    if backbone is None:
        name = architecture or "yolov3"
        _refuse_parts(name, pretrained, weights, backbone_args, width, strides, (neck, head, head_args))
        # A .cfg has its own anchors, and as many of them are clustered.
        given = None if anchors is None or isinstance(anchors, str) else choose_anchors(anchors, 1)
        network = create_darknet(name, num_classes, in_channels, bn_eps, given)
        if weights is not None:
            load_weights(network, weights)
        return network
    if architecture is not None:
        raise UserError(f"give `architecture: {_short(architecture)}` or `backbone: {backbone}`, not both")
    if pretrained and weights is not None:
        raise UserError(f"{backbone} was given both pretrained: true and weights: {weights}; give one of them")
    chosen = (
        PAPER_ANCHORS
        if head == "anchor_free"
        else choose_anchors("paper" if anchors is None else anchors, len(strides))
    )
    shape = (num_classes, in_channels, chosen, strides, width)
    args = plain_backbone_args(backbone_args, weights)
    net = yolo(backbone, *shape, pretrained, weights, args, neck, head, head_args)
    if bn_eps is not None:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = bn_eps
    return net


def plain_architecture(architecture: str | None, backbone: str | None) -> str | None:
    """What a checkpoint keeps: a built-in name, or the whole text of a .cfg, which need not stay where it was."""
    if architecture is None or architecture in BUILT_IN or backbone is not None:
        return architecture
    return find_config(architecture).text


def _refuse_values(head: HeadKind, anchors: AnchorChoice | None, bn_eps: float | None) -> None:
    if bn_eps is not None and not 0 < bn_eps < 1:
        raise UserError(f"bn_eps is {bn_eps}; give a small number above 0, such as 1e-5")
    if head == "anchor_free" and anchors is not None:
        raise UserError("`head: anchor_free` has no anchors: leave out `anchors`, or set `head: v3`")


def _refuse_parts(
    architecture: str,
    pretrained: bool,
    weights: str | None,
    backbone_args: Mapping[str, Any] | None,
    width: int | None,
    strides: Sequence[int],
    neck_and_head: tuple[Neck, HeadKind, Mapping[str, Any] | None],
) -> None:
    """What goes with a backbone and is fixed in an architecture."""
    name = _short(architecture)
    if neck_and_head[:2] != ("v3", "v3") or neck_and_head[2]:
        raise UserError(
            f"`neck`, `head` and `head_args` are fixed in {name}: they go with a `backbone`, such as darknet53 or csp_n"
        )
    if width is not None or tuple(strides) != (8, 16, 32):
        raise UserError(f"`width` and `strides` are fixed in {name}: they go with a `backbone`")
    if backbone_args:
        raise UserError(
            f"`backbone_args` {sorted(backbone_args)} go with a `backbone`; {name} has a backbone of its own"
        )
    if pretrained:
        raise UserError(
            f"{name} has a backbone of its own, which timm has no weights for: give `weights: <file>.weights`, or "
            "`backbone: darknet53` with `pretrained: true`"
        )
    if weights is not None and not is_darknet_file(weights):
        raise UserError(
            f"weights: {weights} is no .weights file of Darknet, which {name} takes; a checkpoint of ours goes into "
            "`start_from`, and files of timm's Darknet-53 go with `backbone: darknet53`"
        )


def _short(architecture: str) -> str:
    return "the checkpoint's cfg" if "\n" in architecture else architecture
