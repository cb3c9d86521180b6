import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, nms

from lit_vision.ops.boxes import (
    area,
    classwise_nms,
    covered,
    cxcywh_to_xyxy,
    elementwise_iou,
    iou,
    select_detections,
    size_iou,
    xyxy_to_cxcywh,
)

SQUARE = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


def test_forms_of_a_box_are_inverse() -> None:
    boxes = torch.tensor([[2.0, 4.0, 10.0, 20.0], [0.0, 0.0, 1.0, 1.0]])
    assert xyxy_to_cxcywh(boxes).tolist() == [[6.0, 12.0, 8.0, 16.0], [0.5, 0.5, 1.0, 1.0]]
    assert torch.equal(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0.0, 0.0, 10.0, 10.0], 1.0),
        ([5.0, 0.0, 15.0, 10.0], 50 / 150),
        ([5.0, 5.0, 15.0, 15.0], 25 / 175),
        ([2.0, 2.0, 4.0, 4.0], 4 / 100),
        ([10.0, 0.0, 20.0, 10.0], 0.0),  # they share an edge, no area
        ([30.0, 30.0, 40.0, 40.0], 0.0),
    ],
)
def test_iou_of_hand_computed_pairs(other: list[float], expected: float) -> None:
    assert iou(SQUARE, torch.tensor([other])).item() == pytest.approx(expected)
    assert elementwise_iou(SQUARE, torch.tensor([other])).item() == pytest.approx(expected)


def test_iou_equals_a_recount_of_pixels() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 20, (12, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 15, (12, 2))], axis=1)
    y, x = np.mgrid[:40, :40]
    masks = [(x >= x1) & (x < x2) & (y >= y1) & (y < y2) for x1, y1, x2, y2 in boxes]
    expected = [[(a & b).sum() / (a | b).sum() for b in masks] for a in masks]
    tensor = torch.from_numpy(boxes).float()
    np.testing.assert_allclose(iou(tensor, tensor).numpy(), expected, rtol=1e-6)
    assert area(tensor).tolist() == [float(mask.sum()) for mask in masks]


def test_empty_boxes_and_no_boxes_overlap_nothing() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert iou(point, point).item() == 0.0
    assert area(torch.tensor([5.0, 5.0, 1.0, 1.0])).item() == 0.0
    assert iou(SQUARE, torch.zeros(0, 4)).shape == (1, 0)


def test_overlap_with_a_crowd_is_the_fraction_inside() -> None:
    crowd = torch.tensor([[0.0, 0.0, 100.0, 5.0]])
    assert covered(SQUARE, crowd).item() == pytest.approx(0.5)
    assert iou(SQUARE, crowd).item() == pytest.approx(50 / 550)


def test_size_iou_ignores_the_place() -> None:
    sizes = torch.tensor([[10.0, 10.0], [5.0, 20.0]])
    assert size_iou(sizes, torch.tensor([[10.0, 10.0]])).flatten().tolist() == pytest.approx([1.0, 50 / 150])


def select(boxes: list[list[float]], objectness: list[float], classes: list[list[float]], **kwargs: float):  # type: ignore[no-untyped-def]
    return select_detections(torch.tensor(boxes), torch.tensor(objectness), torch.tensor(classes), **kwargs)


def test_thresholds_are_strict() -> None:
    boxes = [[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0], [80.0, 80.0, 90.0, 90.0]]
    found = select(boxes, [0.5, 0.75, 1.0], [[1.0], [1.0], [0.5]], objectness_threshold=0.5, score_threshold=0.5)
    assert found["scores"].tolist() == [0.75]  # 0.5 is not above 0.5, neither as objectness nor as score
    assert found["boxes"].tolist() == [boxes[1]]
    found = select(boxes, [0.5, 0.75, 1.0], [[1.0]] * 3, objectness_threshold=0.5, score_threshold=0.25)
    assert found["scores"].tolist() == [1.0, 0.75]


def test_nms_works_class_by_class_and_is_strict() -> None:
    boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 9.0]]
    classes = [[0.9, 0.0], [0.8, 0.0], [0.7, 0.0], [0.0, 0.6]]
    found = select(boxes, [1.0] * 4, classes, score_threshold=0.1, nms_threshold=0.5)
    # IoU with the best: exactly 0.5 stays, 0.9 goes, 0.9 of another class stays.
    assert found["scores"].tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert found["labels"].tolist() == [0, 0, 1]


def test_every_class_above_the_threshold_yields_a_box() -> None:
    found = select([[0.0, 0.0, 9.0, 9.0]], [0.9], [[0.9, 0.1, 0.8]], score_threshold=0.5)
    assert found["labels"].tolist() == [0, 2]
    assert found["scores"].tolist() == pytest.approx([0.81, 0.72])


def test_caps_keep_the_best() -> None:
    boxes = [[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(10)]
    chances = [0.5 + 0.04 * ((7 * i) % 10) for i in range(10)]
    for cap in ({"max_detections": 3}, {"max_candidates": 3}):
        found = select(boxes, chances, [[1.0]] * 10, score_threshold=0.1, objectness_threshold=0.1, **cap)
        assert found["scores"].tolist() == pytest.approx(sorted(chances, reverse=True)[:3])


def test_nothing_found_has_the_usual_shapes() -> None:
    found = select([[0.0, 0.0, 9.0, 9.0]], [0.1], [[0.9]])
    assert [tuple(found[key].shape) for key in ("boxes", "labels", "scores")] == [(0, 4), (0,), (0,)]  # type: ignore[literal-required]
    assert found["labels"].dtype == torch.int64


def test_nms_equals_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 10 + torch.rand(300, 2, generator=generator) * 40], dim=1)
    classes = torch.rand(300, 3, generator=generator)
    best = classes.argmax(dim=1)
    single = classes * torch.nn.functional.one_hot(best, 3)  # OpenCV takes one class per box
    found = select_detections(boxes, torch.ones(300), single, 0.5, 0.3, 0.45, max_detections=300)
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    kept = cv2.dnn.NMSBoxesBatched(xywh, single.amax(dim=1).tolist(), best.tolist(), 0.3, 0.45)
    expected = sorted(single.amax(dim=1)[list(kept)].tolist(), reverse=True)
    assert found["scores"].tolist() == pytest.approx(expected)
    assert 0 < len(expected) < 300


def crowded(count: int, classes: int, reach: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes of about 30 pixels, many of them near others, somewhere within `reach`; scores with ties."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(count // 100, 2, generator=generator) * reach
    centres = places[torch.randint(0, len(places), (count,), generator=generator)]
    corners = centres + torch.randn(count, 2, generator=generator) * 5
    boxes = torch.cat([corners, corners + 20 + torch.rand(count, 2, generator=generator) * 20], dim=1)
    labels = 80 - classes + torch.randint(0, classes, (count,), generator=generator)
    return boxes, labels, (torch.rand(count, generator=generator) * 500).round() / 500


def class_by_class(boxes: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    """torchvision's NMS, a call for each class, in float64."""
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero().flatten()
        kept[own[nms(boxes[own].double(), scores[own].double(), threshold)]] = True
    places = kept.nonzero().flatten()
    return places[scores[places].argsort(descending=True, stable=True)].tolist()


@pytest.mark.parametrize("reach", [100.0, 20_000.0, 200_000.0])
@pytest.mark.parametrize("few", [0, 5000])  # class by class, and all at once
def test_classes_do_not_disturb_each_other_however_far_the_boxes_lie(
    few: int, reach: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_vision.ops.boxes.FEW", few)
    boxes, labels, scores = crowded(3000, 10, reach)
    found = classwise_nms(boxes, labels, scores, 0.45).tolist()
    assert found == class_by_class(boxes, labels, scores, 0.45)
    assert 100 < len(found) < 3000 or reach == 100.0
    assert sorted(found) == sorted(batched_nms(boxes, scores, labels, 0.45).tolist())  # by class, above 1000 boxes
    if reach == 200_000.0:  # the negative control: offsets in float32 move the corners
        moved = boxes + labels[:, None] * (boxes.max() + 1)
        assert sorted(nms(moved, scores, 0.45).tolist()) != sorted(found)


@pytest.mark.parametrize("limit", [1, 7, 60, 5000])
def test_candidates_that_enter_in_portions_give_what_all_at_once_give(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, labels, scores = crowded(2000, 2, 300.0, seed=1)
    whole = classwise_nms(boxes, labels, scores, 0.45).tolist()
    monkeypatch.setattr("lit_vision.ops.boxes.PORTION", 1)  # so that the first portion is never enough
    assert classwise_nms(boxes, labels, scores, 0.45, limit).tolist() == whole[:limit]
    assert len(whole) < 1000  # most went


def test_each_class_can_have_a_threshold_of_its_own() -> None:
    boxes, chances = [[0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 29.0, 9.0]], [[0.6, 0.3], [0.2, 0.31]]
    found = select_detections(torch.tensor(boxes), torch.ones(2), torch.tensor(chances), 0.1, torch.tensor([0.6, 0.3]))
    assert found["labels"].tolist() == [1]  # of class 0, 0.6 is not above 0.6; of class 1, 0.3 is not above 0.3
    assert found["boxes"].tolist() == [boxes[1]]
