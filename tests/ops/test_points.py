import math

import pytest
import torch

from lit_vision.ops.points import decode_points, distances, encode_points, flatten_points, make_points


def test_points_are_the_middles_of_cells_row_by_row() -> None:
    points = make_points([(1, 2), (2, 3)], (32, 16))
    assert points.places.tolist() == [[16, 16], [48, 16], [8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24]]
    assert points.strides.tolist() == [32, 32] + [16] * 6


def test_outputs_are_flattened_in_the_order_of_the_points() -> None:
    fine = torch.arange(2 * 3 * 2 * 3).view(2, 3, 2, 3)
    flat = flatten_points([torch.zeros(2, 3, 1, 2), fine])
    assert flat.shape == (2, 8, 3)
    assert flat.dtype == torch.float32
    assert flat[1, 2 + 1 * 3 + 2].tolist() == fine[1, :, 1, 2].tolist()


def test_distances_are_the_means_of_their_distributions() -> None:
    raw = torch.full((4, 5), -torch.inf)
    raw[0, 3] = 0.0  # 3 for certain
    raw[1, 1] = raw[1, 2] = 7.0  # 1 or 2
    raw[2] = 0.0  # anything from 0 to 4
    raw[3, 0], raw[3, 4] = math.log(3), 0.0  # 0 three times as likely as 4
    assert distances(raw.flatten(), 4).tolist() == pytest.approx([3.0, 1.5, 2.0, 1.0])
    assert distances(torch.tensor([0.0, math.log(2), -1e4, 1e4]), 0)[:3].tolist() == pytest.approx([1.0, 2.0, 0.0])
    assert distances(torch.full((4,), 1e4), 0).isfinite().all()


@pytest.mark.parametrize("reg_max", [0, 16])
def test_boxes_are_calculated_in_float32_whatever_autocast_says(reg_max: int) -> None:
    points = make_points([(4, 4)], (32,))
    raw = torch.randn(2, 16, 4 * (reg_max + 1), generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = decode_points(raw, points, reg_max)
    (slope,) = torch.autograd.grad(expected.square().sum(), raw)
    with torch.autocast("cpu", torch.bfloat16):
        found = decode_points(raw, points, reg_max)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), raw)[0], slope, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("reg_max", [0, 16])
def test_decoding_undoes_encoding(reg_max: int) -> None:
    points = make_points([(2, 2), (4, 4)], (32, 16))
    near, far = points.places - torch.rand(20, 2) * 60, points.places + torch.rand(20, 2) * 60
    boxes = torch.cat([near, far], dim=1)
    sides = encode_points(boxes, points)
    assert sides.min() > 0
    if reg_max == 0:
        raw = sides.log()
    else:  # all on the two whole distances beside the true one
        lower = sides.floor().long()
        chances = torch.zeros(20, 4, reg_max + 1)
        chances.scatter_(2, lower[..., None], (1 - sides + lower)[..., None])
        chances.scatter_add_(2, lower[..., None] + 1, (sides - lower)[..., None])
        raw = chances.log().flatten(1)
    torch.testing.assert_close(decode_points(raw, points, reg_max), boxes, atol=1e-3, rtol=0)


def test_points_can_be_chosen_in_any_shape() -> None:
    points = make_points([(2, 2)], (8,))
    chosen = points.at(torch.tensor([[3, 0]]))
    assert chosen.places.tolist() == [[[12, 12], [4, 4]]]
    box = decode_points(torch.zeros(1, 2, 4), chosen, 0)  # one cell to each side
    assert box.tolist() == [[[4, 4, 20, 20], [-4, -4, 12, 12]]]
