"""Slots of anchor-based heads beyond Darknet's law, and the boxes that are left out of the background."""

import pytest
import torch

from lit_vision.losses.assignment import Matching, Slots, Truths, assign, gather_truths, ignored_boxes
from lit_vision.ops.boxes import covered, iou

ANCHORS = torch.tensor([[[40.0, 40.0], [80.0, 20.0]], [[10.0, 10.0], [20.0, 20.0]]])
STRIDES, SIZES = (16, 8), [(4, 4), (8, 8)]  # 64 x 64; 32 boxes of stride 16, then 128 of stride 8


def slots(boxes: list[list[float]], labels: list[int], matching: Matching) -> Slots:
    truths = Truths(torch.tensor(boxes), torch.tensor(labels), torch.zeros(len(labels), dtype=torch.long))
    return assign(truths, 3, ANCHORS, STRIDES, SIZES, matching)


def coarse(column: int, row: int, anchor: int) -> int:
    return (row * 4 + column) * 2 + anchor


def fine(column: int, row: int, anchor: int) -> int:
    return 32 + (row * 8 + column) * 2 + anchor


def test_ratio_takes_every_anchor_within_a_factor() -> None:
    box = [10.0, 10.0, 30.0, 50.0]  # 20 x 40 at (20, 30): ratios 2, 4, 4, 2
    found = slots([box], [1], Matching(ratio=2.0))
    assert found.place.tolist() == [coarse(1, 1, 0), fine(2, 3, 1)]
    assert slots([box], [1], Matching(ratio=4.0)).place.tolist() == [
        coarse(1, 1, 0), coarse(1, 1, 1), fine(2, 3, 0), fine(2, 3, 1)
    ]  # fmt: skip
    assert slots([box], [1], Matching(ratio=1.5)).place.tolist() == [coarse(1, 1, 0)]  # the best, however bad


def test_neighbours_are_the_cells_toward_which_the_centre_lies() -> None:
    box = [17.0, 9.0, 29.0, 21.0]  # 12 x 12 at (23, 15): the right and lower part of cell (2, 1) of stride 8
    found = slots([box], [1], Matching(neighbours=True))
    assert found.place.tolist() == [fine(2, 1, 0), fine(3, 1, 0), fine(2, 2, 0)]
    assert found.boxes.tolist() == [box] * 3
    at_the_corner = slots([[0.0, 0.0, 6.0, 5.0]], [2], Matching(neighbours=True))  # left and above there is nothing
    assert at_the_corner.place.tolist() == [fine(0, 0, 0)]
    assert at_the_corner.classes.tolist() == [[0.0, 0.0, 1.0]]


def test_an_objects_own_cell_comes_before_anothers_neighbour() -> None:
    """Centres (22, 13) and (26, 13) lie in columns 2 and 3, each in the half toward the other."""
    left, right = [16.0, 7.0, 28.0, 19.0], [20.0, 7.0, 32.0, 19.0]
    for order in ([left, right], [right, left]):
        labels = [0, 1] if order[0] == left else [1, 0]
        found = slots(order, labels, Matching(neighbours=True))
        own = dict(zip(found.place.tolist(), found.classes.argmax(dim=1).tolist(), strict=True))
        assert own == {fine(2, 1, 0): 0, fine(2, 2, 0): 0, fine(3, 1, 0): 1, fine(3, 2, 0): 1}
        assert found.boxes.tolist() == [left if label == 0 else right for label in own.values()]
        assert found.classes.sum(dim=1).tolist() == [1.0] * 4  # never two classes


def test_objects_are_those_whose_centre_lies_in_the_picture() -> None:
    """Of 64 x 32 pixels; on its last edge a centre is in no cell."""
    centres = [(50.0, 16.0), (16.0, 40.0), (64.0, 16.0), (16.0, 32.0), (63.9, 31.9), (0.0, 0.0), (-0.1, 3.0)]
    boxes = torch.tensor([[x - 4, y - 4, x + 4, y + 4] for x, y in centres])
    labels, crowd = torch.zeros(7, dtype=torch.long), torch.zeros(7, dtype=torch.bool)
    _, valid = gather_truths([boxes], [labels], [crowd], height=32, width=64)
    assert valid.tolist() == [True, False, False, False, True, True, False]


def test_without_objects_there_are_no_slots() -> None:
    empty = Truths(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    found = assign(empty, 3, ANCHORS, STRIDES, SIZES, Matching(ratio=4.0, neighbours=True))
    assert [len(rows) for rows in found] == [0, 0, 0, 0]


def test_gathering_marks_what_cannot_be_trained() -> None:
    boxes = [
        torch.tensor([[1.0, 1, 5, 5], [3, 3, 3, 9]]),
        torch.zeros(0, 4),
        torch.tensor([[60.0, 60, 80, 80], [0, 0, 9, 9]]),
    ]
    labels = [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.long), torch.tensor([1, 1])]
    crowd = [torch.tensor([False, False]), torch.zeros(0, dtype=torch.bool), torch.tensor([False, True])]
    truths, valid = gather_truths(boxes, labels, crowd, 64, 64)
    assert valid.tolist() == [True, False, False, False]  # no area; centred outside; a crowd
    assert truths.image.tolist() == [0, 0, 2, 2]
    assert truths.labels.tolist() == [2, 0, 1, 1]
    assert truths.boxes[1:].tolist() == [[0, 0, 1, 1]] * 3


@pytest.mark.parametrize("objects", [1, 63, 64, 200])
def test_ignored_boxes_are_those_of_the_whole_table(objects: int) -> None:
    torch.manual_seed(objects)
    near = torch.rand(2, 900, 2) * 60
    predicted = torch.cat([near, near + torch.rand(2, 900, 2) * 30 - 1], dim=-1)  # a few with swapped corners
    own = [
        torch.cat([corner := torch.rand(objects, 2) * 60, corner + torch.rand(objects, 2) * 30], dim=1) for _ in "ab"
    ]
    crowd = [torch.rand(objects) < 0.2, torch.zeros(objects, dtype=torch.bool)]
    found = ignored_boxes(predicted, own, crowd, 0.5)
    for i in range(2):
        table = torch.where(crowd[i], covered(predicted[i], own[i]), iou(predicted[i], own[i]))
        assert torch.equal(found[i], table.amax(dim=1) > 0.5)
    assert 0 < found.float().mean() < 1
