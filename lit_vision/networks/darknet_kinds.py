"""The layers of a Darknet .cfg as plain values.

Semantics follow https://github.com/pjreddie/darknet and https://github.com/AlexeyAB/darknet (public domain).
"""

from dataclasses import dataclass
from typing import TypeAlias

from lit_vision.networks.darknet_text import Section

ACTIVATIONS = ("linear", "leaky", "relu", "relu6", "mish", "swish", "logistic")


@dataclass(frozen=True)
class Convolution:
    """[convolutional]: `padding` pixels on every side; a bias only without batch normalisation."""

    filters: int
    size: int
    stride: int
    padding: int
    dilation: int
    groups: int
    batch_normalize: bool
    activation: str


@dataclass(frozen=True)
class MaxPool:
    """[maxpool]: `padding` rows and columns of -inf in all, half of them, rounded down, above and at the left."""

    size: int
    stride: int
    padding: int


@dataclass(frozen=True)
class Upsample:
    """[upsample]: each pixel becomes stride x stride."""

    stride: int


@dataclass(frozen=True)
class Route:
    """[route]: group `group_id` of `groups` of the channels of each input, one after the other."""

    groups: int
    group_id: int


@dataclass(frozen=True)
class Shortcut:
    """[shortcut]: the sum of the inputs, activated."""

    activation: str


@dataclass(frozen=True)
class Dropout:
    """[dropout]: in training, values become 0 with this probability and the others grow by 1 / (1 - probability)."""

    probability: float


@dataclass(frozen=True)
class Head:
    """[yolo]: `anchors` (width, height, pixels of the network input) are those that the mask names, in its order."""

    classes: int
    mask: tuple[int, ...]
    all_anchors: tuple[tuple[float, float], ...]
    scale_x_y: float
    ignore_threshold: float

    @property
    def anchors(self) -> list[tuple[float, float]]:
        """Those of this scale."""
        return [self.all_anchors[i] for i in self.mask]


Kind: TypeAlias = Convolution | MaxPool | Upsample | Route | Shortcut | Dropout | Head


@dataclass(frozen=True)
class Layer:
    """A layer in its place.

    Attributes:
        kind: what it does.
        inputs: numbers of the layers whose outputs it takes; -1 is the picture.
        in_channels: of the first input.
        channels: of its output.
        stride: pixels of the picture per cell of its output.
        section: where it stands in the .cfg.
    """

    kind: Kind
    inputs: tuple[int, ...]
    in_channels: int
    channels: int
    stride: int
    section: Section
