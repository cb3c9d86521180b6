"""The neck and heads of YOLO v3 (Redmon and Farhadi 2018, arXiv:1804.02767) over any backbone.

The networks of Darknet's own configurations are in `lit_vision.networks.darknet`.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.networks.yolo_layers import Scale
from lit_vision.networks.yolo_network import AnchorDecoder, pyramid

IGNORE_THRESHOLD = 0.7  # of the paper's training, for the loss


class YOLO(AnchorDecoder):
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

    rivals = None

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
        self.strides, self.scale_x_y = tuple(strides), (scale_x_y,) * len(strides)
        self.coarsest = self.strides[0]
        self.ignore_thresholds = (IGNORE_THRESHOLD,) * len(strides)
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
