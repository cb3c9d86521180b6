import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from darknet_files import three_and_one
from torch import Tensor

from lit_vision.errors import UserError
from lit_vision.losses.yolo import YOLOLoss
from lit_vision.networks.darknet import create_darknet
from lit_vision.networks.darknet_cfg import FOLDER
from lit_vision.ops.anchors import TINY_ANCHORS, arrange_anchors
from lit_vision.ops.boxes import cxcywh_to_xyxy, iou
from lit_vision.ops.grid import grid_of

ANCHORS, STRIDES, CLASSES = arrange_anchors(TINY_ANCHORS, 2), (32, 16), 3
SIDE = 128


def network_with(scale_x_y: tuple[float, float] | None = None) -> SimpleNamespace:
    grid = partial(grid_of, anchors=ANCHORS, strides=STRIDES, scale_x_y=scale_x_y)
    return SimpleNamespace(anchors=ANCHORS, strides=STRIDES, grid=grid, ignore_thresholds=(0.7, 0.7), rivals=None)


NETWORK = network_with()


def outputs(seed: int = 0, batch: int = 1, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, 3 * (5 + CLASSES), SIDE // stride, SIDE // stride) for stride in STRIDES]
    return [(torch.randn(shape, generator=generator) * scale).double().requires_grad_() for shape in shapes]


def loss_of(raw: list[Tensor], boxes: list[list[float]], labels: list[int], **settings: object):  # type: ignore[no-untyped-def]
    truth = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    crowd = settings.pop("crowd", [False] * len(labels))
    loss = YOLOLoss(**{"law": "darknet", **settings})  # type: ignore[arg-type]
    return loss(
        raw,
        NETWORK,  # type: ignore[arg-type]
        [truth],
        [torch.tensor(labels, dtype=torch.int64)],
        [torch.tensor(crowd, dtype=torch.bool)],
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def darknet_deltas(raw: list[Tensor], truths: list[tuple[float, float, float, float, int]]) -> list[np.ndarray]:
    """An independent, object by object writing-down of yolo_layer.c: deltas = target - output on the raw values."""
    flat_anchors = [tuple(pair) for pair in ANCHORS.reshape(-1, 2).tolist()]
    result = []
    for s, stride in enumerate(STRIDES):
        values = raw[s][0].detach().numpy().reshape(3, 5 + CLASSES, SIDE // stride, SIDE // stride)
        delta = np.zeros_like(values)
        for a, row, col in np.ndindex(3, SIDE // stride, SIDE // stride):
            t = values[a, :, row, col]
            aw, ah = ANCHORS[s, a].tolist()
            box = (
                (col + sigmoid(t[0])) * stride,
                (row + sigmoid(t[1])) * stride,
                math.exp(t[2]) * aw,
                math.exp(t[3]) * ah,
            )
            best = max((overlap(box, truth[:4]) for truth in truths), default=0.0)
            delta[a, 4, row, col] = 0.0 if best > 0.7 else -sigmoid(t[4])
        for x, y, w, h, label in truths:
            ious = [min(w, aw) * min(h, ah) / (w * h + aw * ah - min(w, aw) * min(h, ah)) for aw, ah in flat_anchors]
            best_anchor = ious.index(max(ious))
            if best_anchor // 3 != s:
                continue
            a, row, col = best_anchor % 3, int(y // stride), int(x // stride)
            t, (aw, ah) = values[a, :, row, col], flat_anchors[best_anchor]
            scale = 2 - w * h / SIDE**2
            delta[a, 0, row, col] = scale * (x / stride - col - sigmoid(t[0]))
            delta[a, 1, row, col] = scale * (y / stride - row - sigmoid(t[1]))
            delta[a, 2, row, col] = scale * (math.log(w / aw) - t[2])
            delta[a, 3, row, col] = scale * (math.log(h / ah) - t[3])
            delta[a, 4, row, col] = 1 - sigmoid(t[4])
            if delta[a, 5, row, col] == 0:
                for k in range(CLASSES):
                    delta[a, 5 + k, row, col] = (k == label) - sigmoid(t[5 + k])
            else:
                delta[a, 5 + label, row, col] = 1 - sigmoid(t[5 + label])
        result.append(delta.reshape(raw[s][0].shape))
    return result


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    w = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    h = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    shared = max(w, 0.0) * max(h, 0.0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def test_gradients_are_minus_darknets_deltas() -> None:
    raw = outputs(seed=3, scale=0.5)
    truths = [
        (20.0, 30.0, 25.0, 30.0, 0),
        (100.0, 90.0, 80.0, 60.0, 1),
        (101.0, 91.0, 84.0, 64.0, 2),
        (60.0, 60.0, 11.0, 13.0, 2),
        (70.0, 20.0, 90.0, 35.0, 1),
    ]
    with torch.no_grad():  # one prediction that lies on a truth at a slot that is not its own: ignored
        raw[1][0, 2 * 8 : 2 * 8 + 5, 5, 6] = torch.tensor(
            [-1.1, 0.5, math.log(80 / 37), math.log(60 / 58), 1.0], dtype=torch.float64
        )
    boxes = cxcywh_to_xyxy(torch.tensor([truth[:4] for truth in truths])).tolist()
    loss_of(raw, boxes, [truth[4] for truth in truths]).total.backward()
    deltas = darknet_deltas(raw, truths)
    assert deltas[1][2 * 8 + 4, 5, 6] == 0.0  # the ignored one
    for own, delta in zip(raw, deltas, strict=True):
        assert own.grad is not None
        np.testing.assert_allclose(own.grad[0].numpy(), -delta, atol=2e-6)


def test_shared_slot_last_box_wins_and_classes_add_up() -> None:
    raw = outputs()
    first, last = [50.0, 30.0, 130.0, 110.0], [54.0, 34.0, 134.0, 114.0]  # both: cell (2, 2), anchor 81 x 82
    terms = loss_of(raw, [first, last], [0, 2])
    terms.total.backward()
    slot, gradient = raw[0][0, :8, 2, 2].detach(), raw[0].grad[0, :8, 2, 2]  # type: ignore[index]
    chances = slot.sigmoid()
    assert (chances[5:] - gradient[5:]).tolist() == pytest.approx([1.0, 0.0, 1.0], abs=1e-6)
    weight = 2 - 80 * 80 / SIDE**2
    place = (last[0] + last[2]) / 2 / 32 - 2
    assert gradient[0].item() == pytest.approx(weight * (chances[0].item() - place), abs=1e-5)


def test_images_without_objects_train_only_objectness() -> None:
    raw = outputs()
    terms = loss_of(raw, [], [])
    terms.total.backward()
    assert terms.box == 0
    assert terms.classes == 0
    expected = sum(torch.nn.functional.softplus(r.view(3, 8, -1)[:, 4]).sum().item() for r in raw)
    assert terms.objectness.item() == pytest.approx(expected, rel=1e-5)
    assert raw[0].grad.view(3, 8, -1)[:, :4].abs().max() == 0  # type: ignore[union-attr]


def test_loss_is_the_mean_over_images() -> None:
    raw = outputs(batch=2)
    boxes, labels = torch.tensor([[10.0, 10.0, 40.0, 50.0]]), torch.tensor([1])
    loss = YOLOLoss()
    both = loss(raw, NETWORK, [boxes, boxes[:0]], [labels, labels[:0]]).total
    first = loss([r[:1] for r in raw], NETWORK, [boxes], [labels]).total
    second = loss([r[1:] for r in raw], NETWORK, [boxes[:0]], [labels[:0]]).total
    assert both.item() == pytest.approx((first + second).item() / 2, rel=1e-6)


def test_threshold_assignment_trains_more_anchors_than_the_best() -> None:
    raw = outputs()
    box = [20.0, 20.0, 75.0, 85.0]  # 55 x 65: IoU with 37 x 58 is 0.60, with 81 x 82 is 0.54
    best = loss_of(raw, [box], [1], reduction="positives", class_gain=1.0).classes
    two = loss_of(raw, [box], [1], assignment="threshold", assignment_threshold=0.5, reduction="positives").classes
    three = loss_of(raw, [box], [1], assignment="threshold", assignment_threshold=0.99, reduction="positives").classes
    column, row = 47 // 16, 52 // 16
    fine = raw[1][0, 2 * 8 + 5 : 3 * 8, row, column]
    coarse = raw[0][0, 5:8, row // 2, column // 2]
    target = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = [bce(slot, target, reduction="sum").item() for slot in (fine, coarse)]
    assert best.item() == pytest.approx(expected[0], rel=1e-5)
    assert two.item() == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert three.item() == pytest.approx(expected[0], rel=1e-5)  # the best is taken, however bad


def test_crowd_regions_are_neither_objects_nor_background() -> None:
    raw = outputs(scale=0.1)
    with_crowd = loss_of(raw, [[0.0, 0.0, 128.0, 128.0]], [0], crowd=[True])
    nothing = loss_of(raw, [], [])
    assert with_crowd.box == 0
    assert with_crowd.classes == 0
    assert 0 < with_crowd.objectness < 0.8 * nothing.objectness


@pytest.mark.parametrize("box_loss", ["mse", "giou", "ciou"])
def test_perfect_boxes_have_no_box_loss(box_loss: str) -> None:
    raw = outputs()
    with torch.no_grad():  # 37 x 58 at the centre of cell (2, 3) of stride 16
        raw[1][0, 2 * 8 : 2 * 8 + 4, 3, 2] = 0.0
    box = cxcywh_to_xyxy(torch.tensor([40.0, 56.0, 37.0, 58.0])).tolist()
    term = loss_of(raw, [box], [0], box_loss=box_loss).box.item()
    floor = 2 * math.log(2) * (2 - 37 * 58 / SIDE**2) if box_loss == "mse" else 0.0  # cross-entropy of 0.5 to 0.5
    assert term == pytest.approx(floor, abs=1e-5)


def test_objects_with_their_centre_outside_or_without_area_are_not_trained() -> None:
    raw = outputs()
    inside, others = (
        [100.0, 100.0, 150.0, 150.0],
        [[120.0, 120.0, 140.0, 140.0], [-10.0, 3.0, 2.0, 9.0], [5.0, 5.0, 5.0, 9.0]],
    )
    one = loss_of(raw, [inside], [1], law="dense")
    all_four = loss_of(raw, [inside, *others], [1, 0, 1, 2], law="dense")
    assert all_four.box == one.box
    assert all_four.classes == one.classes
    assert one.box > 0


def test_gains_scale_their_terms() -> None:
    raw, box = outputs(), [[10.0, 10.0, 60.0, 80.0]]
    one = loss_of(raw, box, [1], box_gain=1.0)
    scaled = loss_of(raw, box, [1], box_gain=2.0, objectness_gain=3.0, class_gain=0.5)
    ratios = [(b / a).item() for a, b in zip(one[1:], scaled[1:], strict=True)]
    assert ratios == pytest.approx([2.0, 3.0, 0.5])
    assert scaled.total.item() == pytest.approx(sum(scaled[1:]).item())  # type: ignore[union-attr]


def gradients(scale_x_y: tuple[float, float] | None, **settings: object) -> list[Tensor]:
    raw = outputs(seed=5)
    truth = torch.tensor([[50.0, 30.0, 130.0, 110.0], [20.0, 20.0, 31.0, 33.0]])
    loss = YOLOLoss(law="darknet", **settings)  # type: ignore[arg-type]
    one = [torch.tensor([0, 1])]
    loss(raw, network_with(scale_x_y), [truth], one).total.backward()  # type: ignore[arg-type]
    return [own.grad for own in raw]  # type: ignore[misc]


def test_scale_x_y_gives_darknets_delta_of_the_place() -> None:
    """delta = (2 - w h) * (place - (s * sigmoid - (s - 1) / 2)), without the chain rule's factor s."""
    found, raw = gradients((1.1, 1.05)), outputs(seed=5)
    weight = 2 - 80 * 80 / SIDE**2
    slot = raw[0][0, :4, 2, 2].detach()  # centre 90, 70; anchor 81 x 82
    for axis, place in ((0, 90 / 32 - 2), (1, 70 / 32 - 2)):
        now = 1.1 * slot[axis].sigmoid().item() - 0.05
        assert found[0][0, axis, 2, 2].item() == pytest.approx(-weight * (place - now), abs=1e-5)
    assert found[0][0, 2, 2, 2].item() == pytest.approx(-weight * (math.log(80 / 81) - slot[2].item()), abs=1e-5)
    fine = raw[1][0, :8, 1, 1].detach()  # centre 25.5, 26.5; anchor 10 x 14
    weight = 2 - 11 * 13 / SIDE**2
    now = 1.05 * fine[0].sigmoid().item() - 0.025
    assert found[1][0, 0, 1, 1].item() == pytest.approx(-weight * (25.5 / 16 - 1 - now), abs=1e-5)


def test_scale_x_y_of_one_changes_nothing() -> None:
    for plain, ones in zip(gradients(None), gradients((1.0, 1.0)), strict=True):
        assert torch.equal(plain, ones)


def test_scale_x_y_reaches_the_box_losses_too() -> None:
    """Where centres are stretched, the box that is compared with the truth is another one."""
    plain, stretched = gradients(None, box_loss="ciou"), gradients((1.5, 1.5), box_loss="ciou")
    assert not torch.allclose(plain[0][0, :2, 2, 2], stretched[0][0, :2, 2, 2])


def test_only_the_best_anchor_of_all_scales_trains_and_good_boxes_are_ignored_not_background() -> None:
    """By hand, for one object: its slot's box has gradients, boxes that overlap it none, all others are background."""
    raw = outputs(scale=0.0)  # all 0: boxes are the anchors at the middle of their cells
    box = cxcywh_to_xyxy(torch.tensor([48.0, 48.0, 81.0, 82.0])).tolist()
    loss_of(raw, [box], [1]).total.backward()
    coarse, fine = (own.grad[0].view(3, 8, *own.shape[2:]) for own in raw)  # type: ignore[index]
    anchors = ANCHORS[0].tolist()
    own = anchors.index([81.0, 82.0])
    assert coarse[own, 4, 1, 1].item() == pytest.approx(-0.5)  # an object: 0.5 - 1
    assert coarse[own, 0, 1, 1].item() == pytest.approx(0.0)  # already at the middle of the cell
    assert coarse[own, 2:4, 1, 1].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert coarse[own, 5:, 1, 1].tolist() == pytest.approx([0.5, -0.5, 0.5])
    # IoU of the next cell's box of this anchor: (81 - 32) * 82 / (2 * 81 * 82 - 49 * 82) = 0.43: background.
    assert coarse[own, 4, 1, 2].item() == pytest.approx(0.5)
    assert coarse[own, :4, 1, 2].abs().max() == 0
    assert all(coarse[other, :4].abs().max() == 0 for other in range(3) if other != own)
    assert fine[:, :4].abs().max() == 0
    near = outputs(scale=0.0)
    with torch.no_grad():
        near[0][0, own * 8, 1, 2] = -50.0  # its centre at the left edge: 16 pixels away, IoU 0.67
        near[0][0, own * 8, 1, 0] = 4.0  # 15.4 pixels away: IoU 0.68
    loss_of(near, [box], [1], ignore_threshold=0.66).total.backward()
    found = near[0].grad[0].view(3, 8, 4, 4)  # type: ignore[index]
    assert found[own, :, 1, [0, 2]].abs().max() == 0  # ignored: neither object nor background


@pytest.mark.parametrize("law", ["darknet", "dense"])
def test_a_cfgs_ignore_threshold_serves_every_law_that_sets_none(law: str) -> None:
    def gradient(published: float, **settings: float) -> Tensor:
        raw = outputs(seed=2, scale=0.5)
        network = SimpleNamespace(**{**vars(NETWORK), "ignore_thresholds": (published, published)})
        none = [torch.zeros(1, dtype=torch.bool)]
        box = [torch.tensor([[24.0, 24.0, 104.0, 104.0]])]
        YOLOLoss(law=law, **settings)(raw, network, box, [torch.tensor([1])], none).total.backward()  # type: ignore[arg-type]
        return torch.cat([own.grad.flatten() for own in raw])  # type: ignore[union-attr]

    assert torch.equal(gradient(0.2), gradient(0.7, ignore_threshold=0.2))
    assert not torch.equal(gradient(0.2), gradient(0.7))
    assert torch.equal(gradient(0.2, ignore_threshold=0.7), gradient(0.7))


def test_modern_objectness_is_the_overlap_of_the_predicted_box() -> None:
    """One object, whose slots are known; the term is written down again, focal weights included."""
    raw = outputs(scale=0.5)
    box = cxcywh_to_xyxy(torch.tensor([41.0, 57.0, 40.0, 60.0])).tolist()  # leans right and down, of cell (2, 3)
    settings = {"law": "modern", "max_ratio": 1.2, "ignore_threshold": 1.0, "focal_gamma": 2.0}
    terms = loss_of(raw, [box], [1], label_smoothing=0.2, **settings)
    expected, classes = 0.0, 0.0
    for s, stride in enumerate(STRIDES):
        for a, row, column in np.ndindex(3, SIDE // stride, SIDE // stride):
            t = raw[s].detach()[0].view(3, 5 + CLASSES, SIDE // stride, SIDE // stride)[a, :, row, column].tolist()
            target = 0.0
            if s == 1 and a == 2 and (column, row) in ((2, 3), (3, 3), (2, 4)):  # 37 x 58 of stride 16
                own = (
                    (column + sigmoid(t[0])) * 16,
                    (row + sigmoid(t[1])) * 16,
                    math.exp(t[2]) * 37,
                    math.exp(t[3]) * 58,
                )
                target = overlap(own, (41.0, 57.0, 40.0, 60.0))
                wanted = [0.1, 0.9, 0.1]
                chances = [sigmoid(x) for x in t[5:]]
                classes -= sum(
                    w * math.log(p) + (1 - w) * math.log(1 - p) for w, p in zip(wanted, chances, strict=True)
                )
            chance = sigmoid(t[4])
            bce = -target * math.log(chance) - (1 - target) * math.log(1 - chance)
            expected += (target - chance) ** 2 * bce
    assert terms.objectness.item() == pytest.approx(expected, rel=1e-5)
    assert terms.classes.item() == pytest.approx(classes, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"law": "darknet", "assignment_threshold": 0.3}, "assignment_threshold is of assignment: threshold"),
        ({"law": "modern", "assignment_threshold": 0.3}, "but the assignment is ratio"),
        ({"law": "dense", "max_ratio": 3.0}, "max_ratio is of assignment: ratio"),
    ],
)
def test_settings_of_another_assignment_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        YOLOLoss(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scale_x_y", "fits"), [((1.0,), False), ((2.0,), True), ((2.0, 1.05), False), ((2.0, 2.5), True)]
)
def test_neighbouring_cells_need_boxes_that_reach_the_centre(scale_x_y: tuple[float, ...], fits: bool) -> None:
    YOLOLoss().check(SimpleNamespace(scale_x_y=scale_x_y))
    if fits:
        YOLOLoss(law="modern").check(SimpleNamespace(scale_x_y=scale_x_y))
    else:
        with pytest.raises(UserError, match=r"do not reach the centre .*: set model.head_args: \{scale_x_y: 2.0\}, or"):
            YOLOLoss(law="modern").check(SimpleNamespace(scale_x_y=scale_x_y))


def test_the_reach_of_an_architecture_is_set_in_its_cfg() -> None:
    with pytest.raises(UserError, match=r"set scale_x_y=2.0 in the \[yolo\] sections of the .cfg .*, or neighbours: f"):
        YOLOLoss(law="modern").check(create_darknet("yolov3-tiny"))
    text = (FOLDER / "yolov3-tiny.cfg").read_text().replace("[yolo]", "[yolo]\nscale_x_y=2.0")
    YOLOLoss(law="modern").check(create_darknet(text))


@pytest.mark.parametrize("box_loss", ["ciou", "giou"])
@pytest.mark.parametrize("log_sizes", [(-16.0, -16.0), (60.0, -16.0), (-16.0, 60.0), (-1e4, -1e4)])
def test_boxes_that_have_collapsed_are_trained_too(log_sizes: tuple[float, float], box_loss: str) -> None:
    raw = outputs()
    with torch.no_grad():
        for r in raw:
            r.view(1, 3, 5 + CLASSES, *r.shape[2:])[:, :, 2:4] = torch.tensor(log_sizes)[:, None, None]
    for law in ("dense", "modern"):
        terms = loss_of(raw, [[20.0, 30.0, 57.0, 88.0]], [1], law=law, box_loss=box_loss)
        assert terms.box.isfinite()
        assert terms.box > 0
        assert all(bool(gradient.isfinite().all()) for gradient in torch.autograd.grad(terms.total, raw))


def test_the_least_side_of_boxes_changes_no_other_ones() -> None:
    """The box term and its gradient are those of the boxes as they are."""
    raw, box = outputs(seed=2), [20.0, 30.0, 57.0, 88.0]
    settings: dict[str, object] = {"law": "dense", "class_gain": 0.0, "objectness_gain": 0.0}
    terms = loss_of(raw, [box], [1], **settings)
    found = torch.autograd.grad(terms.total, raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_vision.losses.yolo.with_sides", lambda boxes: boxes)
        plain = loss_of(raw, [box], [1], **settings)
        expected = torch.autograd.grad(plain.total, raw)
    assert terms.total.item() == plain.total.item() > 0
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# --- a .cfg whose heads share anchors, leave some out, or ignore differently --------------------------------------
def tiny_cfg(first: str, second: str, ignore: float = 0.7) -> Any:
    text = (FOLDER / "yolov3-tiny.cfg").read_text()
    text = text.replace("mask = 3,4,5", f"mask = {first}").replace("mask = 0,1,2", f"mask = {second}")
    last = text.rindex("ignore_thresh = .7")
    return create_darknet(f"{text[:last]}ignore_thresh = {ignore}{text[last + len('ignore_thresh = .7') :]}", 2)


def trained(network: Any, box: list[float], law: str = "darknet") -> list[int]:
    """Slots of each head, coarsest first, whose objectness is to rise."""
    raw = [torch.zeros(1, 21, side, side, requires_grad=True) for side in (4, 8)]
    loss = YOLOLoss(law=law)  # type: ignore[arg-type]
    loss(raw, network, [torch.tensor([box])], [torch.tensor([0])]).total.backward()
    return [int((own.grad.view(3, 7, -1)[:, 4] < 0).sum()) for own in raw]  # type: ignore[union-attr]


def test_anchors_of_two_heads_train_both_and_those_of_none_nothing_as_in_darknet() -> None:
    """yolo_layer.c: each layer takes the best of all anchors, and trains if its own mask names it."""
    small, shared, large = [60.0, 60.0, 70.0, 74.0], [20.0, 20.0, 101.0, 102.0], [0.0, 0.0, 126.0, 126.0]
    usual, other = tiny_cfg("3,4,5", "0,1,2"), tiny_cfg("3,4,5", "1,2,3")
    assert [trained(usual, box) for box in (small, shared, large)] == [[0, 1], [1, 0], [1, 0]]
    assert [trained(other, box) for box in (small, shared, large)] == [[0, 0], [1, 1], [1, 0]]
    assert trained(other, small, law="dense") == [0, 1]  # which takes the best of those with outputs
    own = tiny_cfg("3,4,5", "1,2,3")
    own.anchors.mul_(1.01)  # as clustered ones: the .cfg's say nothing of them
    assert trained(own, small) == [0, 1]


def test_heads_with_anchor_lists_of_their_own_each_train_their_best_as_in_darknet() -> None:
    """yolo_layer.c: `l.biases` are those of the layer's own section, of which it takes the best."""
    text = (FOLDER / "yolov3-tiny.cfg").read_text()
    usual = "anchors = 10,14,  23,27,  37,58,  81,82,  135,169,  344,319"
    first, rest = text.replace("num=6\n", "").split(usual, 1)
    alone = first + "anchors = 81,82, 135,169, 344,319" + rest.replace(usual, "anchors = 10,14, 23,27, 37,58")
    small, large = [60.0, 60.0, 70.0, 74.0], [0.0, 0.0, 126.0, 126.0]
    network = create_darknet(alone.replace("mask = 3,4,5", "mask = 0,1,2"), 2)
    assert [trained(network, box) for box in (small, large)] == [[1, 1], [1, 1]]
    more = first + "anchors = 10,14, 81,82, 135,169, 344,319"  # of which 10 x 14 has no output
    network = create_darknet(
        more.replace("mask = 3,4,5", "mask = 1,2,3") + rest.replace(usual, "anchors = 10,14, 23,27, 37,58"), 2
    )
    assert [trained(network, box) for box in (small, large)] == [[0, 1], [1, 1]]
    assert trained(network, small, law="dense") == [0, 1]


@pytest.mark.parametrize("law", ["darknet", "dense", "modern"])
def test_a_head_with_fewer_anchors_trains_those_alone(law: str) -> None:
    """What it lacks has no object, no cost and no gradient."""
    network = create_darknet(three_and_one((FOLDER / "yolov3-tiny.cfg").read_text()), 2)
    raw = [torch.zeros(1, 21, 4, 4, requires_grad=True), torch.zeros(1, 7, 8, 8, requires_grad=True)]
    outputs = [raw[0], network._filled(raw[1], 21)]
    # Of the second anchor, the fifth, and the first, which no mask names.
    boxes = torch.tensor([[60.0, 60.0, 83.0, 87.0], [0.0, 0.0, 126.0, 126.0], [20.0, 100.0, 30.0, 114.0]])
    terms = YOLOLoss(law=law, box_loss="ciou")(outputs, network, [boxes], [torch.tensor([0, 1, 1])])  # type: ignore[arg-type]
    terms.total.backward()
    gradients = [own.grad.view(-1, 7, own.shape[2] ** 2) for own in raw]  # type: ignore[union-attr]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert float(terms.objectness) == pytest.approx(math.log(2) * (3 * 16 + 64))
    trained = [(gradient[:, 4] < 0).any(dim=1).tolist() for gradient in gradients]
    assert trained[1] == [True]
    assert int((gradients[1][:, 4] < 0).sum()) == {"darknet": 1, "dense": 2, "modern": 1}[law]
    assert trained[0] == [law == "dense", True, False]  # which trains the fourth, too, at an IoU of 0.42


def test_each_head_ignores_by_its_own_threshold() -> None:
    network = tiny_cfg("3,4,5", "0,1,2", ignore=0.2)
    assert network.ignore_thresholds == (0.7, 0.2)
    raw = [torch.zeros(1, 21, side, side, requires_grad=True) for side in (4, 8)]
    box = torch.tensor([[20.0, 20.0, 101.0, 102.0]])
    YOLOLoss(law="darknet")(raw, network, [box], [torch.tensor([0])]).total.backward()
    coarse, fine = (own.grad.view(3, 7, -1)[:, 4] for own in raw)  # type: ignore[union-attr]
    decoded = network.decode([own.detach() for own in raw]).boxes[0]
    overlap = iou(decoded, box)[:, 0]
    assert (coarse != 0).all()  # none lies above 0.7
    assert int((overlap[: 3 * 16] > 0.2).sum()) > 1
    assert int((fine == 0).sum()) == int((overlap[3 * 16 :] > 0.2).sum()) > 0
