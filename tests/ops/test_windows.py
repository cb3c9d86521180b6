"""Windows by hand: their shapes, where they lie, what they vote for."""

import numpy as np
import pytest
import torch

from lit_vision.ops.windows import pixels_of, vote_boxes, whole_steps, window_grid, window_shapes, without_margin


def test_shapes_are_pixels_or_shares_of_the_shorter_side() -> None:
    # 0.5 of 60 is 30; with ratio 4 that is 60 wide and 15 high, the same area
    assert window_shapes([0.5, 32], [1, 4], (60, 100)) == [(30, 30), (15, 60), (32, 32), (16, 64)]
    assert window_shapes([1], [1], (60, 100)) == [(60, 60)]  # 1 is the whole of the shorter side, not a pixel
    assert pixels_of(1.5, 60) == 1.5


def test_no_window_is_larger_than_the_picture_and_none_is_there_twice() -> None:
    assert window_shapes([80, 90, 0.5], [1, 0.25], (60, 85)) == [
        (60, 80),
        (60, 40),
        (60, 85),
        (60, 45),
        (30, 30),
        (60, 15),
    ]
    assert window_shapes([500, 700], [1], (20, 30)) == [(20, 30)]


def test_a_grid_covers_the_picture_and_sticks_out_evenly() -> None:
    grid = window_grid((10, 14), (4, 4), (2.0, 3.0))
    assert (grid.count, grid.origin, len(grid)) == ((4, 5), (0, -1), 20)  # 5 * 3 + 1 = 16 wide: 1 left, 1 right
    boxes = grid.boxes.tolist()
    assert boxes[:3] == [[-1, 0, 3, 4], [2, 0, 6, 4], [5, 0, 9, 4]]
    assert boxes[-1] == [11, 6, 15, 10]
    assert boxes[5] == [-1, 2, 3, 6]


def test_a_step_between_whole_pixels_gives_windows_on_whole_pixels() -> None:
    grid = window_grid((8, 12), (8, 5), (1.0, 2.5))
    assert grid.boxes[:, 0].tolist() == [-0.0, 2.0, 5.0, 8.0]  # 0, 2.5, 5 and 7.5, the .5 to even
    assert (grid.boxes[:, 2] - grid.boxes[:, 0]).tolist() == [5.0] * 4


@pytest.mark.parametrize("picture", [(7, 7), (16, 31), (50, 23)])
@pytest.mark.parametrize("step", [(1.0, 1.0), (2.5, 4.0), (3.0, 7.0)])
def test_every_pixel_is_in_a_window_and_no_row_could_be_spared(
    picture: tuple[int, int], step: tuple[float, float]
) -> None:
    grid = window_grid(picture, (7, 7), step)
    seen = np.zeros(picture, bool)
    for x1, y1, x2, y2 in grid.boxes.int().tolist():
        seen[max(y1, 0) : y2, max(x1, 0) : x2] = True
    assert seen.all()
    for count, distance, extent in zip(grid.count, step, picture, strict=True):
        assert count == 1 or (count - 2) * distance + 7 < extent


def test_what_rounding_adds_to_a_quotient_is_no_window_more() -> None:
    step = 26 / 3
    assert 130 / step > 15
    grid = window_grid((20, 150), (20, 20), (20.0, step))
    assert (grid.count, grid.origin) == ((1, 16), (0, 0))


def test_a_picture_smaller_than_the_step_has_one_window() -> None:
    grid = window_grid((5, 6), (5, 6), (100.0, 100.0))
    assert grid.boxes.tolist() == [[0, 0, 6, 5]]


def test_steps_are_whole_units() -> None:
    assert [whole_steps(step, 8.0) for step in (1, 11, 13, 24)] == [1, 1, 2, 3]


def test_windows_vote_for_a_box_by_their_scores() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [40, 0, 50, 10], [1, 0, 11, 10]])
    probabilities = torch.tensor([[0.75, 0.1], [0.25, 0.1], [0.9, 0.0], [0.0, 0.8]])
    chosen = {"boxes": boxes[[0]], "labels": torch.tensor([0]), "scores": torch.tensor([0.75])}
    moved = vote_boxes(chosen, boxes, probabilities, 0.5)  # type: ignore[arg-type]
    assert moved["boxes"].tolist() == [[0.5, 0, 10.5, 10]]  # 0 and 2 weighted 3 : 1; the others are far, or 0
    assert moved["scores"].tolist() == [0.75]
    alone = vote_boxes(chosen, boxes, probabilities, 0.7)  # type: ignore[arg-type]  # their IoU is 2 / 3
    assert alone["boxes"].tolist() == [[0, 0, 10, 10]]
    none = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert vote_boxes(none, boxes, probabilities, 0.5)["boxes"].shape == (0, 4)  # type: ignore[arg-type]


def test_votes_are_counted_in_float32_whatever_autocast_says() -> None:
    boxes = torch.tensor([[400.3, 300.7, 451.9, 420.1], [401.9, 299.2, 455.3, 421.7]])
    probabilities = torch.tensor([[0.7], [0.4]])
    chosen = {"boxes": boxes[[0]], "labels": torch.tensor([0]), "scores": torch.tensor([0.7])}
    expected = (0.7 * boxes[0] + 0.4 * boxes[1]) / 1.1
    with torch.autocast("cpu", torch.bfloat16):
        moved = vote_boxes(chosen, boxes, probabilities, 0.5)["boxes"][0]  # type: ignore[arg-type]
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=0)


def test_a_margin_is_taken_off_again() -> None:
    boxes = torch.tensor([[5.0, 10, 35, 70]])  # of 10, 20, 30, 60 with a quarter on each side
    assert without_margin(boxes, 0.25).tolist() == [[10, 20, 30, 60]]
    assert without_margin(boxes, 0).tolist() == boxes.tolist()
