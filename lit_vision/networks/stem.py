"""The layer that sees the image, for another number of channels."""

from math import ceil

from torch import Tensor


def adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """A first convolution for another number of channels, with the response to a grey picture that it had.

    One channel gets the sum; more get the given ones in turn (R, G, B, R, ...), scaled. This is what timm's
    `adapt_input_conv` does, which before timm 1.0.31 takes weights of three channels only.

    Args:
        weight: (out, given, height, width).
        channels: of the picture.

    Returns:
        (out, channels, height, width), of the given type. Halves are summed and scaled as float32.
    """
    given, whole = weight.shape[1], weight.float()
    if channels == 1:
        return whole.sum(1, keepdim=True).to(weight.dtype)
    repeated = whole.repeat(1, ceil(channels / given), 1, 1)[:, :channels]
    return (repeated * (given / channels)).to(weight.dtype)
