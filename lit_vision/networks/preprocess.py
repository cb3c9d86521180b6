"""The first layer of every network: pixels as they are decoded become what the backbone was trained on."""

from collections.abc import Sequence

import cv2
import torch
from torch import Tensor, nn

from lit_vision.errors import UserError


class Preprocess(nn.Module):
    """Scales pixels from 0..255 to 0..1 and normalises each channel: (x / 255 - mean) / std.

    It lies inside the network, so that images travel to the device as bytes and an exported network is complete.
    The result is float32 also under autocast, and keeps the images' memory format.

    Args:
        mean: per channel, of pixels scaled to 0..1.
        std: per channel, likewise, above 0.

    Shape:
        images: (B, C, H, W) uint8, or floats from 0 to 255. Result: (B, C, H, W) float32.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise UserError(f"mean has {len(mean)} values and std {len(std)}; give one of each per channel.")
        if min(std) <= 0:
            raise UserError(f"std must be above 0 in every channel, not {list(std)}.")
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        scale = torch.tensor([1 / (255 * value) for value in std], dtype=torch.float32)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32)
        # Not persistent: the statistics come from the task's arguments, and a checkpoint of weights stays timm's own.
        self.register_buffer("scale", scale.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalises a batch; one multiplication and one addition per pixel."""
        if images.shape[-3] != len(self.mean):
            raise UserError(
                f"the network takes images of {len(self.mean)} channels but got {images.shape[-3]}; "
                "in_channels of the model and of the data must agree."
            )
        # bfloat16 holds whole numbers to 256 only, and 16-bit scales would lose a pixel's last bits: stay in float32.
        shift, scale = self.shift.float(), self.scale.float()
        if images.device.type == "cpu" and _interleaved(images) and not torch.compiler.is_compiling():
            return _by_rows(images.float(), scale, shift)
        return torch.addcmul(shift, images.float(), scale)

    def extra_repr(self) -> str:
        """Shows the statistics when the network is printed."""
        return f"mean={self.mean}, std={self.std}"


def interleave(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in channels_last order."""
    if images.device.type != "cpu" or images.dtype != torch.uint8 or not images.is_contiguous():
        return images.contiguous(memory_format=torch.channels_last)
    batch, channels, rows, columns = images.shape
    result = torch.empty(batch, rows, columns, channels, dtype=torch.uint8)
    for planes, pixels in zip(images.numpy(), result.numpy(), strict=True):
        cv2.merge(list(planes), pixels)  # twenty times faster than torch's copy
    return result.permute(0, 3, 1, 2)


def _interleaved(images: Tensor) -> bool:
    """Whether the channels of a pixel lie side by side."""
    return images.ndim == 4 and images.shape[1] > 1 and images.is_contiguous(memory_format=torch.channels_last)


def _by_rows(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The same with factors as long as a row: torch's loops over three channels are eight times slower on CPUs."""
    batch, channels, rows, columns = images.shape
    wide = [values.view(channels).repeat(columns) for values in (shift, scale)]
    pixels = images.permute(0, 2, 3, 1)
    result = torch.addcmul(wide[0], pixels.reshape(batch * rows, columns * channels), wide[1])
    return result.view(pixels.shape).permute(0, 3, 1, 2)
