import math

import pytest
import torch

from lit_vision.ops.grid import decode, flatten_outputs, grid_of, make_grid


def test_grid_is_row_major_cells_then_anchors_then_scales() -> None:
    anchors = torch.tensor([[[10.0, 20.0], [30.0, 40.0]], [[1.0, 2.0], [3.0, 4.0]]])
    grid = make_grid([(1, 2), (2, 4)], anchors, (32, 16))
    assert grid.corners[:4].tolist() == [[0.0, 0.0], [0.0, 0.0], [32.0, 0.0], [32.0, 0.0]]
    assert grid.anchors[:2].tolist() == [[10.0, 20.0], [30.0, 40.0]]
    assert grid.corners[4 + 2 * 5].tolist() == [16.0, 16.0]  # second row, second column
    assert grid.strides.tolist() == [32.0] * 4 + [16.0] * 16


def test_channels_are_anchor_major() -> None:
    outputs = [torch.arange(2 * 7 * 2 * 3, dtype=torch.float32).view(1, 14, 2, 3)]
    flat = flatten_outputs(outputs, 2)
    assert flat.shape == (1, 12, 7)
    row, column, anchor = 1, 2, 1
    expected = outputs[0][0, 7 * anchor : 7 * anchor + 7, row, column]
    assert torch.equal(flat[0, (row * 3 + column) * 2 + anchor], expected)


def test_decode_by_hand() -> None:
    output = torch.zeros(1, 6, 4, 5)
    output[0, :4, 2, 3] = torch.tensor([math.log(3), -math.log(3), math.log(2), 0.0])  # sigmoid 0.75, 0.25
    anchors = torch.tensor([[[20.0, 10.0]]])
    boxes = decode(flatten_outputs([output], 1), grid_of([output], anchors, (8,)))
    x, y, w, h = (3 + 0.75) * 8, (2 + 0.25) * 8, 40.0, 10.0
    expected = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    assert boxes[0, 2 * 5 + 3].tolist() == pytest.approx(expected)


def test_wild_sizes_stay_finite() -> None:
    output = torch.full((1, 6, 1, 1), 1e4)
    boxes = decode(flatten_outputs([output], 1), grid_of([output], torch.full((1, 1, 2), 373.0), (32,)))
    assert bool(boxes.isfinite().all())
    assert bool((boxes[..., 2:] - boxes[..., :2]).prod(dim=-1).isfinite().all())


def test_scale_x_y_stretches_centres_about_the_middle_of_the_cell() -> None:
    """AlexeyAB's Darknet: x = column + s * sigmoid - (s - 1) / 2; each scale has its own s."""
    outputs = [torch.zeros(1, 6, 1, 1), torch.zeros(1, 6, 2, 2)]
    outputs[0][0, 0], outputs[1][0, 0] = math.log(3), math.log(3)  # sigmoid 0.75
    anchors = torch.full((2, 1, 2), 10.0)
    stretched = decode(flatten_outputs(outputs, 1), grid_of(outputs, anchors, (16, 8), (2.0, 1.2)))[0]
    centres = (stretched[:, :2] + stretched[:, 2:]) / 2
    assert centres[0].tolist() == pytest.approx([(2 * 0.75 - 0.5) * 16, 8.0])
    assert centres[4].tolist() == pytest.approx([8 + (1.2 * 0.75 - 0.1) * 8, 12.0])
    plain = decode(flatten_outputs(outputs, 1), grid_of(outputs, anchors, (16, 8)))
    ones = decode(flatten_outputs(outputs, 1), grid_of(outputs, anchors, (16, 8), (1.0, 1.0)))
    assert torch.equal(plain, ones)
    assert plain[0, 0, 0].item() == pytest.approx(0.75 * 16 - 5)


def test_places_choose_rows_with_all_their_values() -> None:
    grid = make_grid([(1, 1), (2, 2)], torch.ones(2, 1, 2), (16, 8), (1.5, 1.1))
    chosen = grid.at(torch.tensor([0, 3]))
    assert chosen.scale_x_y.tolist() == pytest.approx([1.5, 1.1])
    assert chosen.strides.tolist() == [16.0, 8.0]
