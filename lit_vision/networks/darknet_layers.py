"""Modules for the layers of a Darknet .cfg, and a run of them that hands its outputs to later ones."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_vision.networks.darknet_kinds import Convolution, Dropout, Kind, Layer, MaxPool, Route, Shortcut, Upsample
from lit_vision.networks.yolo_layers import SLOPE


class ConvBlock(nn.Module):
    """[convolutional]: convolution, batch normalisation where wanted, activation."""

    def __init__(self, in_channels: int, kind: Convolution, bn_eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            kind.filters,
            kind.size,
            kind.stride,
            kind.padding,
            kind.dilation,
            kind.groups,
            bias=not kind.batch_normalize,
        )
        nn.init.kaiming_normal_(self.conv.weight, a=SLOPE)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.norm = nn.BatchNorm2d(kind.filters, eps=bn_eps) if kind.batch_normalize else None
        self.activation = activation(kind.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, filters, H / stride, W / stride)."""
        x = self.conv(x)
        x = x if self.norm is None else self.norm(x)
        result: Tensor = self.activation(x)
        return result


def activation(name: str) -> nn.Module:
    """Darknet's activation of this name; swish is x * sigmoid(x)."""
    made: dict[str, nn.Module] = {
        "linear": nn.Identity(),
        "leaky": nn.LeakyReLU(SLOPE, inplace=True),
        "relu": nn.ReLU(inplace=True),
        "relu6": nn.ReLU6(inplace=True),
        "mish": nn.Mish(),
        "swish": nn.SiLU(),
        "logistic": nn.Sigmoid(),
    }
    return made[name]


class DarknetPool(nn.Module):
    """[maxpool]: beyond the border lies -inf, half of the padding (rounded down) above and at the left."""

    def __init__(self, kind: MaxPool) -> None:
        super().__init__()
        self.size, self.stride, self.padding = kind.size, kind.stride, kind.padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / stride, W / stride)."""
        before = self.padding // 2
        if 2 * before == self.padding and 2 * before <= self.size:  # torch pads so itself, without a copy
            return F.max_pool2d(x, self.size, self.stride, before)
        below, right = (self._reach(side) for side in x.shape[-2:])
        if before or below > 0 or right > 0:
            x = F.pad(x, (before, max(right, 0), before, max(below, 0)), value=-torch.inf)
        return F.max_pool2d(x, self.size, self.stride)

    def _reach(self, side: int) -> int:
        """How far the last window looks beyond a side."""
        count = (side + self.padding - self.size) // self.stride + 1
        return (count - 1) * self.stride + self.size - self.padding // 2 - side


class DarknetUpsample(nn.Module):
    """[upsample]: nearest neighbour."""

    def __init__(self, kind: Upsample) -> None:
        super().__init__()
        self.factor = float(kind.stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H * stride, W * stride)."""
        return F.interpolate(x, scale_factor=self.factor, mode="nearest")


class DarknetRoute(nn.Module):
    """[route]: one group of the channels of each input, in the order of the .cfg."""

    def __init__(self, kind: Route) -> None:
        super().__init__()
        self.groups, self.group = kind.groups, kind.group_id

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs (B, C_i, H, W) to (B, sum of C_i / groups, H, W)."""
        parts = [x.chunk(self.groups, dim=1)[self.group] if self.groups > 1 else x for x in inputs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class DarknetShortcut(nn.Module):
    """[shortcut]: the sum of the inputs, then the activation."""

    def __init__(self, kind: Shortcut) -> None:
        super().__init__()
        self.activation = activation(kind.activation)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs (B, C, H, W) to (B, C, H, W)."""
        total = inputs[0]
        for x in inputs[1:]:
            total = total + x
        result: Tensor = self.activation(total)
        return result


def make_layer(layer: Layer, bn_eps: float) -> nn.Module:
    """The module of a layer that is no head."""
    kind: Kind = layer.kind
    if isinstance(kind, Convolution):
        return ConvBlock(layer.in_channels, kind, bn_eps)
    if isinstance(kind, MaxPool):
        return DarknetPool(kind)
    if isinstance(kind, Upsample):
        return DarknetUpsample(kind)
    if isinstance(kind, Route):
        return DarknetRoute(kind)
    if isinstance(kind, Shortcut):
        return DarknetShortcut(kind)
    assert isinstance(kind, Dropout)
    return nn.Dropout(kind.probability)  # nothing in evaluation; in training as Darknet's own


class LayerRun(nn.Module):
    """Layers that follow each other, each taking the outputs of any before it.

    Args:
        layers: number -> module.
        inputs: number -> numbers of the layers it takes.
        given: numbers of the layers whose outputs come from outside; -1 is the picture.
        wanted: numbers of the layers whose outputs are the result.
    """

    def __init__(
        self,
        layers: Mapping[int, nn.Module],
        inputs: Mapping[int, Sequence[int]],
        given: Sequence[int],
        wanted: Sequence[int],
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(number): module for number, module in layers.items()})
        self.inputs = {number: tuple(inputs[number]) for number in layers}
        self.given, self.wanted = tuple(given), tuple(wanted)
        last = {source: number for number, sources in self.inputs.items() for source in sources}
        self.done_after = {
            number: [source for source in sources if last[source] == number and source not in self.wanted]
            for number, sources in self.inputs.items()
        }

    def forward(self, *given: Tensor) -> list[Tensor]:
        """Outputs of the layers wanted; what no later layer takes is let go at once."""
        outputs = dict(zip(self.given, given, strict=True))
        for (number, sources), layer in zip(self.inputs.items(), self.layers.values(), strict=True):
            outputs[number] = layer(*(outputs[source] for source in sources))
            for source in self.done_after[number]:
                outputs.pop(source, None)
        return [outputs[number] for number in self.wanted]
