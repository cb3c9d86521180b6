"""The terms of the anchor-free loss against formulas written down apart, and on the hardest batches."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss

from lit_vision.losses.anchor_free import AnchorFreeLoss, distribution_loss
from lit_vision.losses.class_terms import sparse_class_term
from lit_vision.ops.points import decode_points, distances, flatten_points, make_points

STRIDES, SIDE, CLASSES = (16, 8), 64, 3


def outputs(reg_max: int = 4, batch: int = 1, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    channels = 4 * (reg_max + 1) + CLASSES
    shapes = [(batch, channels, SIDE // stride, SIDE // stride) for stride in STRIDES]
    return [(scale * torch.randn(shape, generator=generator)).requires_grad_() for shape in shapes]


def network(reg_max: int = 4) -> SimpleNamespace:
    return SimpleNamespace(strides=STRIDES, reg_max=reg_max)


def loss_of(raw: list[Tensor], boxes: list[list[float]], labels: list[int], reg_max: int = 4, **settings: object):  # type: ignore[no-untyped-def]
    crowd = torch.tensor(settings.pop("crowd", [False] * len(labels)), dtype=torch.bool)
    truth = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    loss = AnchorFreeLoss(**settings)  # type: ignore[arg-type]
    return loss(raw, network(reg_max), [truth], [torch.tensor(labels, dtype=torch.long)], [crowd])


def test_distribution_loss_by_hand() -> None:
    """Sides at 1.25, 2, 0 and beyond the last, 9, of distances 0 to 4."""
    torch.manual_seed(0)
    raw = torch.randn(1, 20, dtype=torch.float64)
    sides = raw.view(4, 5).softmax(dim=1).log()
    expected = -(0.75 * sides[0, 1] + 0.25 * sides[0, 2] + sides[1, 2] + sides[2, 0] + sides[3, 4]) / 4
    target = torch.tensor([[1.25, 2.0, -0.5, 9.0]], dtype=torch.float64)
    assert distribution_loss(raw, target, 4).item() == pytest.approx(expected.item())


def test_distribution_loss_is_least_where_the_mean_is_the_target() -> None:
    raw = torch.zeros(1, 20, requires_grad=True)
    for _ in range(400):
        loss = distribution_loss(raw, torch.tensor([[0.3, 1.0, 2.5, 3.9]]), 4).sum()
        (gradient,) = torch.autograd.grad(loss, raw)
        raw = (raw - 2 * gradient).detach().requires_grad_()
    assert distances(raw, 4)[0].tolist() == pytest.approx([0.3, 1.0, 2.5, 3.9], abs=0.02)


def dense_class_term(
    logits: Tensor, counted: Tensor, image: Tensor, place: Tensor, label: Tensor, quality: Tensor, gamma: float
) -> Tensor:
    """A table of targets and weights of all classes, as the papers write it."""
    target, weight = torch.zeros_like(logits), counted[..., None] * torch.ones_like(logits)
    if gamma:
        weight = weight * 0.75 * logits.detach().sigmoid() ** gamma
    target[image, place, label] = quality
    weight[image, place, label] = quality if gamma else 1.0
    return F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_class_term_is_that_of_dense_targets(gamma: float) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 30, 7, dtype=torch.float64) * 4).requires_grad_()
    counted = (torch.rand(2, 30) > 0.3).double()
    image, place, label = torch.tensor([0, 0, 1, 1]), torch.tensor([3, 9, 3, 29]), torch.tensor([6, 0, 1, 1])
    quality = torch.tensor([1.0, 0.3, 0.0, 0.8], dtype=torch.float64)
    # A pair that is not chosen, at a place that is.
    more = [torch.cat([x, x[:1]]) for x in (image, place, label)]
    padded = torch.cat([quality, torch.zeros(1, dtype=torch.float64)])
    chosen = torch.tensor([True] * 4 + [False])
    sparse = sparse_class_term(logits, counted, *more, padded, chosen, gamma)
    (found,) = torch.autograd.grad(3 * sparse, logits)
    dense = dense_class_term(logits, counted, image, place, label, quality, gamma)
    (expected,) = torch.autograd.grad(3 * dense, logits)
    assert sparse.item() == pytest.approx(dense.item(), rel=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_class_term_stays_exact_in_float32_over_millions_of_cells() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3549, 200) - 6
    none = torch.zeros(0, dtype=torch.long)
    found = sparse_class_term(logits, torch.ones(2, 3549), none, none, none, torch.zeros(0), none.bool())
    assert found.item() == pytest.approx(F.softplus(logits.double()).sum().item(), rel=1e-6)


def test_terms_of_one_object_by_formula() -> None:
    """The positives are known from the alignment; every term is written down again for them."""
    raw, box = outputs(seed=1), torch.tensor([10.0, 20.0, 34.0, 50.0])
    terms = loss_of(
        raw, [box.tolist()], [2], top_k=3, alpha=1.0, beta=2.0, box_gain=2.0, distribution_gain=3.0, class_gain=0.5
    )
    flat, points = flatten_points(raw).detach()[0].double(), make_points([(4, 4), (8, 8)], STRIDES)
    predicted = decode_points(flat[:, :20], points, 4)
    measures = []
    for p, (x, y) in enumerate(points.places.tolist()):
        stride = float(points.strides[p])
        near = abs(x // stride - 22 // stride) <= 2 and abs(y // stride - 35 // stride) <= 2
        shared = (predicted[p, 2:].minimum(box[2:]) - predicted[p, :2].maximum(box[:2])).clamp(min=0).prod()
        union = (predicted[p, 2:] - predicted[p, :2]).prod() + 24 * 30 - shared
        if near and 10 < x < 34 and 20 < y < 50:
            measures.append((float(flat[p, 22].sigmoid() * (shared / union) ** 2), float(shared / union), p))
    best = sorted(measures, reverse=True)[:3]
    quality = {p: m / best[0][0] * max(row[1] for row in best) for m, _, p in best}
    total = sum(quality.values())
    assert total > 1
    box_term = sum(q * complete_box_iou_loss(predicted[p], box.double()).item() for p, q in quality.items())
    spread = 0.0
    for p, q in quality.items():
        (x, y), stride = points.places[p].tolist(), float(points.strides[p])
        for k, side in enumerate((x - 10, y - 20, 34 - x, 50 - y)):
            log_chances, d = flat[p, 5 * k : 5 * k + 5].log_softmax(dim=0), min(side / stride, 4.0)
            low = min(int(d), 3)
            spread -= q / 4 * float((low + 1 - d) * log_chances[low] + (d - low) * log_chances[low + 1])
    target = torch.zeros(80, CLASSES, dtype=torch.float64)
    for p, q in quality.items():
        target[p, 2] = q
    classes = F.binary_cross_entropy_with_logits(flat[:, 20:], target, reduction="sum").item()
    assert terms.box.item() == pytest.approx(2 * box_term / total, rel=1e-4)
    assert terms.distribution.item() == pytest.approx(3 * spread / total, rel=1e-4)
    assert terms.classes.item() == pytest.approx(0.5 * classes / total, rel=1e-4)
    assert terms.total.item() == pytest.approx(sum(terms[1:]).item())  # type: ignore[union-attr]


def test_simota_counts_all_classes_that_a_point_sees_in_vain() -> None:
    """Two points find the box; the one that is a little sure of two other classes is worse than of one."""
    box, raw = [8.0, 8.0, 40.0, 40.0], [torch.full((1, 4 + CLASSES, side, side), -5.0) for side in (4, 8)]
    for cell, others in ((2, (1.0, 1.0)), (3, (1.5, -9.0))):
        near, far = (cell + 0.5) - 1, 5 - (cell + 0.5)  # cells of 8 pixels from 8 and to 40
        raw[1][0, :, cell, cell] = torch.tensor([math.log(near)] * 2 + [math.log(far)] * 2 + [0.0, *others])
    raw = [one.requires_grad_() for one in raw]
    loss_of(raw, [box], [0], reg_max=0, assignment="simota", top_k=1).total.backward()
    assert raw[1].grad is not None
    pushed_up = (raw[1].grad[0, 4] < 0).nonzero().tolist()
    assert pushed_up == [[3, 3]]


def test_without_objects_only_the_classes_are_trained_but_every_value_has_a_gradient() -> None:
    raw = outputs()
    terms = loss_of(raw, [], [])
    terms.total.backward()
    assert (terms.box, terms.distribution) == (0, 0)
    expected = sum(F.softplus(r[:, 20:]).sum().item() for r in raw)
    assert terms.classes.item() == pytest.approx(expected, rel=1e-5)
    for r in raw:
        assert r.grad is not None
        assert r.grad[:, :20].abs().max() == 0
        assert r.grad[:, 20:].min() > 0


def test_crowd_regions_are_neither_objects_nor_background() -> None:
    raw = outputs(scale=0.1)
    everywhere = loss_of(raw, [[-99.0, -99.0, 199.0, 199.0]], [0], crowd=[True])
    assert (everywhere.box, everywhere.classes) == (0, 0)
    half = loss_of(raw, [[-99.0, -99.0, 32.0, 199.0]], [0], crowd=[True])
    assert 0.2 < half.classes / loss_of(raw, [], []).classes < 0.8
    beside = loss_of(raw, [[-99.0, -99.0, 199.0, 199.0], [20.0, 20.0, 44.0, 40.0]], [0, 1], crowd=[True, False])
    alone = loss_of(raw, [[20.0, 20.0, 44.0, 40.0]], [1])
    assert beside.box == alone.box > 0
    assert beside.classes < 0.1 * alone.classes


HARD = {
    "under a pixel": [[10.2, 10.3, 10.5, 10.4], [63.7, 63.7, 63.9, 63.9]],
    "on the border": [[-20.0, -3.0, 30.0, 12.0], [50.0, 0.0, 64.0, 64.0], [0.0, 0.0, 64.0, 64.0]],
    "outside or empty": [[70.0, 70.0, 90.0, 90.0], [5.0, 5.0, 5.0, 9.0], [9.0, 9.0, 3.0, 3.0]],
    "the same": [[8.0, 8.0, 40.0, 40.0]] * 3,
    "500": [[x % 50, x // 10, x % 50 + 4.5, x // 10 + 7] for x in map(float, range(500))],
}


@pytest.mark.parametrize("reg_max", [0, 4])
@pytest.mark.parametrize("assignment", ["task_aligned", "simota"])
@pytest.mark.parametrize("case", list(HARD))
def test_gradients_are_finite(case: str, assignment: str, reg_max: int) -> None:
    for scale in (0.0, 1.0, 300.0):  # 300: certain of everything, and boxes without width
        raw = outputs(reg_max, scale=scale)
        terms = loss_of(raw, HARD[case], [k % 2 for k in range(len(HARD[case]))], reg_max, assignment=assignment)
        terms.total.backward()
        assert terms.total.isfinite()
        assert all(bool(r.grad.isfinite().all()) for r in raw if r.grad is not None)
        if case not in ("outside or empty",):
            assert terms.box > 0


def test_a_class_without_objects_is_only_pushed_down() -> None:
    raw = outputs()
    with torch.no_grad():  # as in training, where most points see nothing
        for r in raw:
            r[:, 20:] -= 6
    loss_of(raw, [[8.0, 8.0, 40.0, 40.0]], [0]).total.backward()
    gradients = torch.cat([r.grad[0, 20:].flatten(1) for r in raw if r.grad is not None], dim=1)
    assert gradients[1:].min() > 0
    assert gradients[0].min() < 0


@pytest.mark.parametrize("settings", [{"assignment": "simota"}, {"classification": "varifocal"}, {"box_loss": "giou"}])
def test_the_terms_do_not_depend_on_the_rest_of_the_batch(settings: dict[str, object]) -> None:
    """But for the sum of qualities that they are divided by."""
    boxes, labels = torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 60.0, 30.0]]), torch.tensor([0, 2])
    raw = outputs(batch=2)
    loss = AnchorFreeLoss(**settings)  # type: ignore[arg-type]
    both = loss(raw, network(), [boxes, boxes[:1]], [labels, labels[:1]])
    first = loss([r[:1] for r in raw], network(), [boxes], [labels])
    second = loss([r[1:] for r in raw], network(), [boxes[:1]], [labels[:1]])
    low, high = sorted([first.box.item(), second.box.item()])
    assert low < both.box.item() < high
    share = (both.box - second.box) / (first.box - second.box)
    mixed = share * first.classes + (1 - share) * second.classes
    assert both.classes.item() == pytest.approx(mixed.item(), rel=1e-3)


@pytest.mark.parametrize("assignment", ["task_aligned", "simota"])
def test_autocast_changes_nothing(assignment: str) -> None:
    boxes, labels = [[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 60.0, 30.0]], [0, 2]
    full = loss_of(outputs(), boxes, labels, assignment=assignment)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss_of(outputs(), boxes, labels, assignment=assignment)
    assert [term.item() for term in rounded] == pytest.approx([term.item() for term in full], rel=1e-5)


def test_half_precision_outputs_are_calculated_in_float32() -> None:
    raw = [r.detach().bfloat16() for r in outputs()]
    box, label = [8.0, 8.0, 40.0, 40.0], [1]
    half, full = loss_of(raw, [box], label), loss_of([r.float() for r in raw], [box], label)
    assert half.total.dtype == torch.float32
    assert half.total.item() == full.total.item()
    assert math.isfinite(half.total.item())
