"""Images at other sizes and mirrored, and boxes brought back."""

import pytest
import torch

from lit_vision.errors import UserError
from lit_vision.ops.box_views import View, show, unshow, views


def test_each_scale_is_shown_as_it_is_and_mirrored() -> None:
    assert views([1.0, 0.5, 1.0], ["horizontal"]) == [
        View(),
        View(1.0, "horizontal"),
        View(0.5),
        View(0.5, "horizontal"),
    ]
    assert views([1.0], []) == [View()]


@pytest.mark.parametrize(
    ("scales", "flips"), [([], []), ([1.0, 0.0], []), ([1.0], ["left"]), ([1.0], ["vertical"] * 2)]
)
def test_views_that_make_no_sense_are_refused(scales: list[float], flips: list[str]) -> None:
    with pytest.raises(UserError, match=r"model\.tta_"):
        views(scales, flips)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
@pytest.mark.parametrize("flip", [None, "horizontal", "vertical"])
def test_a_box_round_what_is_shown_comes_back_to_where_it_was(scale: float, flip: str | None) -> None:
    image = torch.zeros(1, 3, 96, 160, dtype=torch.uint8)
    image[..., 24:56, 32:104] = 255
    view = View(scale, flip)
    shown = show(image, view, 32)
    assert shown.shape[-2] % 32 == shown.shape[-1] % 32 == 0
    rows, columns = (shown[0, 0].float() > 127).any(1).nonzero(), (shown[0, 0].float() > 127).any(0).nonzero()
    box = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]).float()
    found = unshow(box, view, (shown.shape[-2], shown.shape[-1]), (96, 160))
    torch.testing.assert_close(found, torch.tensor([[32.0, 24.0, 104.0, 56.0]]), rtol=0, atol=1.5)
    if scale == 1.0:
        assert shown.dtype == torch.uint8
        assert found.tolist() == [[32.0, 24.0, 104.0, 56.0]]


def test_sides_are_rounded_to_what_the_network_takes() -> None:
    assert show(torch.zeros(1, 3, 96, 160), View(1.25), 32).shape == (1, 3, 128, 192)
    assert show(torch.zeros(1, 3, 32, 32), View(0.1), 32).shape == (1, 3, 32, 32)
