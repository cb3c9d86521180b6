"""What losses and tasks ask of a detector's network, whatever its head; and the pyramid that all of them begin with."""

import copy
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.ops.candidates import decode_above
from lit_vision.ops.grid import Decoded, Grid, decode, flatten_outputs, grid_of

Neck = Literal["v3", "pan"]
HeadKind = Literal["v3", "anchor_free"]


class DetectionNetwork(Protocol):
    """A detector: images to raw outputs, scale by scale, and those to boxes.

    Attributes:
        backbone: what a user's weights are for; it thaws stage by stage.
        strides: pixels of the input per cell of each output, coarsest first.
        coarsest: sides of pictures are multiples of it.
    """

    backbone: nn.Module
    strides: tuple[int, ...]
    coarsest: int

    def decode(self, outputs: Sequence[Tensor]) -> Decoded:
        """Raw outputs as boxes in pixels of the network input, with probabilities."""
        ...


class AnchorNetwork(DetectionNetwork, Protocol):
    """A detector whose boxes are measured against anchors.

    Attributes:
        anchors: (S, A, 2) widths and heights in pixels of the network input, in the order of the outputs.
        scale_x_y: of each output, see `ops.grid.decode`.
        ignore_thresholds: of each output, that the network was published with, for the loss.
        rivals: (S, M, 2) the anchors of which, for each output, an object takes the best under Darknet's law, the first
            of equal ones; None: those that have outputs.
    """

    anchors: Tensor
    scale_x_y: tuple[float, ...]
    ignore_thresholds: tuple[float, ...]

    @property
    def rivals(self) -> Tensor | None:
        """See above."""
        ...

    def grid(self, outputs: Sequence[Tensor]) -> Grid:
        """What the boxes of raw outputs are measured from."""
        ...


class AnchorDecoder(nn.Module):
    """How networks with anchors read their raw outputs; see `AnchorNetwork` for the attributes."""

    anchors: Tensor
    strides: tuple[int, ...]
    scale_x_y: tuple[float, ...]

    def grid(self, outputs: Sequence[Tensor]) -> Grid:
        """What the boxes of these raw outputs are measured from."""
        return grid_of(outputs, self.anchors, self.strides, self.scale_x_y)

    def decode(self, outputs: Sequence[Tensor]) -> Decoded:
        """Raw outputs as boxes in pixels of the network input, with probabilities; see `lit_vision.ops.grid`."""
        flat = flatten_outputs(outputs, self.anchors.shape[1])
        boxes = decode(flat, self.grid(outputs))
        return Decoded(boxes, flat[..., 4].sigmoid(), flat[..., 5:].sigmoid())

    def decode_above(self, outputs: Sequence[Tensor], threshold: float) -> list[Decoded]:
        """As `decode`, of each image only the boxes whose objectness is above a threshold."""
        return decode_above(outputs, self.grid(outputs), self.anchors.shape[1], threshold)


class PointNetwork(DetectionNetwork, Protocol):
    """A detector whose boxes are measured from the centres of the cells.

    Attributes:
        reg_max: see `lit_vision.ops.points.distances`.
    """

    reg_max: int


def pyramid(backbone: nn.Module, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
    """A backbone's features (B, C, H / stride, W / stride), coarsest first.

    Raises:
        UserError: the sides of the images are not multiples of the coarsest stride.
    """
    height, width = images.shape[-2:]
    if height % strides[0] or width % strides[0]:
        raise UserError(f"image_size {height} x {width} is not a multiple of {strides[0]}; choose one that is")
    # timm's Swin and its kin give (B, H, W, C).
    channels_first = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NCHW")
    features: list[Tensor] = backbone(images)
    return [feature if channels_first else feature.permute(0, 3, 1, 2) for feature in reversed(features)]


def refuse_unfit(network: nn.Module, name: str, channels: int, size: tuple[int, int]) -> None:
    """Raises UserError where a backbone does not take pictures of a size, before a training begins.

    It is tried without computing anything first, and for real where that is not possible.

    Args:
        network: with the backbone.
        name: of the backbone.
        channels: of the pictures.
        size: height, width.
    """
    try:
        copy.deepcopy(network).to("meta").eval()(torch.zeros(1, channels, *size, device="meta"))
        return
    except Exception:  # of a layer that has no form without numbers, or of the size: the next lines tell
        pass
    try:
        with torch.no_grad():
            copy.deepcopy(network).eval()(torch.zeros(1, channels, *size))
    except UserError:
        raise
    except Exception as error:  # timm's networks raise errors of every kind
        said = str(error).partition("\n")[0]
        raise UserError(
            f"model.backbone {name} does not take pictures of {size[0]} x {size[1]} ({said}): choose another "
            "backbone or data.image_size, or set what it needs in model.backbone_args, such as img_size"
        ) from error
