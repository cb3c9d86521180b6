"""YOLO v3 (Redmon and Farhadi 2018, arXiv:1804.02767), yolov3-tiny, and v3's neck and heads over any backbone.

Written from the paper and the published Darknet configurations (public domain, https://github.com/pjreddie/darknet).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.backbones import create_features
from lit_vision.networks.yolo_layers import SLOPE, Scale, TinyBackbone, paper_scales, tiny_scales
from lit_vision.networks.yolo_network import pyramid
from lit_vision.ops.anchors import PAPER_ANCHORS, TINY_ANCHORS, arrange_anchors
from lit_vision.ops.grid import Decoded, Grid, decode, flatten_outputs, grid_of

Architecture = Literal["yolov3", "yolov3-tiny"]


class YOLO(nn.Module):
    """A backbone and one `Scale` per feature.

    Args:
        backbone: maps images (B, C, H, W) to S features, finest first.
        scales: S scales, coarsest first.
        strides: of the scales, coarsest first.
        anchors: (S, A, 2) widths and heights in pixels of the network input, in the order of the scales.
        neck: maps S features, coarsest first, to S others before the scales see them; None: the scales are the neck.
        scale_x_y: factor on the places in a cell about its middle (YOLOv4's grid sensitivity): above 1, a box's centre
            can lie on the border of its cell, at 2 as far as half a cell outside.

    Attributes:
        anchors: a buffer, so that it travels in the checkpoint.
    """

    anchors: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        scales: Sequence[Scale],
        strides: Sequence[int],
        anchors: Tensor,
        neck: nn.Module | None = None,
        scale_x_y: float = 1.0,
    ) -> None:
        super().__init__()
        if scale_x_y < 1:
            raise UserError(f"head_args: scale_x_y is {scale_x_y}: 1, or more to reach beyond a cell")
        self.backbone, self.neck = backbone, neck
        self.scales = nn.ModuleList(scales)
        self.strides, self.scale_x_y = tuple(strides), scale_x_y
        self.register_buffer("anchors", anchors)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) to S raw outputs (B, A * (5 + classes), H / stride, W / stride).

        Coarsest first: 13 x 13, 26 x 26 and 52 x 52 for YOLO v3 at 416. Channels are anchor-major, each anchor's
        being tx, ty, tw, th, objectness, classes. H and W are multiples of the coarsest stride.
        """
        features = pyramid(self.backbone, images, self.strides)
        outputs, route = [], None
        for feature, scale in zip(self.neck(features) if self.neck else features, self.scales, strict=True):
            logits, route = scale(feature, route)
            outputs.append(logits)
        return outputs

    def grid(self, outputs: Sequence[Tensor]) -> Grid:
        """What the boxes of these raw outputs are measured from."""
        return stretched(grid_of(outputs, self.anchors, self.strides), self.scale_x_y)

    def decode(self, outputs: Sequence[Tensor]) -> Decoded:
        """Raw outputs as boxes in pixels of the network input, with probabilities; see `lit_vision.ops.grid`."""
        flat = flatten_outputs(outputs, self.anchors.shape[1])
        boxes = decode(flat, self.grid(outputs))
        return Decoded(boxes, flat[..., 4].sigmoid(), flat[..., 5:].sigmoid())


def stretched(grid: Grid, scale_x_y: float) -> Grid:
    """The grid in which a place in a cell, 0 to 1, reaches `scale_x_y` cells, about the cell's middle."""
    if scale_x_y == 1:
        return grid
    margin = (scale_x_y - 1) / 2 * grid.strides[:, None]
    return Grid(grid.corners - margin, grid.anchors, grid.strides * scale_x_y)


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
