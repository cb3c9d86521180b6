"""Means over scaled and mirrored views, each brought back to the picture's own frame."""

import pytest
import torch
from torch import Tensor

from lit_vision.errors import UserError
from lit_vision.ops.averaging import check_views, mean_over_views


def test_one_view_is_the_network_itself() -> None:
    seen: list[Tensor] = []
    images = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4)
    assert mean_over_views(lambda x: seen.append(x) or x, images) is images  # type: ignore[func-returns-value]
    assert seen[0] is images


def test_mirrored_views_are_mirrored_back_and_averaged() -> None:
    images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    ramp = torch.tensor([[10.0, 20.0], [30.0, 40.0]])  # what the network adds depends on the place
    mean = mean_over_views(lambda x: x + ramp, images, flips=["horizontal", "vertical"])
    expected = images + (ramp + ramp.flip(-1) + ramp.flip(-2)) / 3
    assert torch.allclose(mean, expected)


def test_scaled_views_come_back_to_the_size_and_are_averaged() -> None:
    images = torch.full((2, 3, 20, 30), 7, dtype=torch.uint8)
    sizes = []

    def maps_of(views: Tensor) -> Tensor:
        sizes.append(tuple(views.shape[-2:]))
        return views[:, :1].float() * len(sizes)

    mean = mean_over_views(maps_of, images, [0.5, 1.0, 1.25])
    assert sizes == [(10, 15), (20, 30), (25, 38)]
    assert mean.shape == (2, 1, 20, 30)
    assert torch.allclose(mean, torch.full((2, 1, 20, 30), 7 * (1 + 2 + 3) / 3))


def test_what_is_between_the_pixels_of_a_smaller_view_is_seen() -> None:
    images = torch.zeros(1, 1, 8, 8)
    images[..., ::4] = 100.0  # two of a quarter's pixels would be taken from columns 1 and 2 of each four
    seen: list[Tensor] = []
    mean_over_views(lambda x: seen.append(x) or x, images, [0.25])  # type: ignore[func-returns-value]
    assert seen[0].mean().item() == pytest.approx(25.0, abs=5)


@pytest.mark.parametrize(
    ("scales", "flips", "sentence"),
    [
        ([], [], "tta_scales is"),
        ([1.0, 0.0], [], "tta_scales is"),
        ([1.0], ["diagonal"], "tta_flips is .'diagonal'.: give horizontal and vertical"),
        ([1.0], ["vertical", "vertical"], "at most once"),
    ],
)
def test_views_that_make_no_sense_are_refused(scales: list[float], flips: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_views(scales, flips)
