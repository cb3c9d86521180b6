"""First convolutions for other numbers of channels: timm's numbers where every timm has them, and by hand."""

import pytest
import torch
from timm.models import adapt_input_conv

from lit_vision.networks.stem import adapt_stem


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_three_channels_are_adapted_as_timm_does(channels: int, kind: torch.dtype) -> None:
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).to(kind)
    adapted = adapt_stem(weight, channels)
    assert adapted.dtype is kind
    assert torch.equal(adapted, adapt_input_conv(channels, weight.clone()))


@pytest.mark.parametrize(
    ("given", "channels", "expected"),
    [
        ([3.0, 6.0], 1, [9.0]),
        ([3.0, 6.0], 3, [2.0, 4.0, 2.0]),  # repeated in turn, times 2/3
        ([6.0], 3, [2.0, 2.0, 2.0]),
        ([3.0, 6.0, 9.0, 12.0], 3, [4.0, 8.0, 12.0]),  # cut, times 4/3
        ([3.0, 6.0, 9.0, 12.0], 4, [3.0, 6.0, 9.0, 12.0]),
    ],
)
def test_weights_of_other_than_three_channels(given: list[float], channels: int, expected: list[float]) -> None:
    adapted = adapt_stem(torch.tensor(given).view(1, -1, 1, 1), channels)
    torch.testing.assert_close(adapted.flatten(), torch.tensor(expected))
