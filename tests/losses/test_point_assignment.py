"""Which points of an anchor-free head are trained to be which objects, by hand and against a dense writing-down."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from lit_vision.losses.assignment import Truths
from lit_vision.losses.point_assignment import MIN_IOU, Law, PointTargets, assign_points, candidates
from lit_vision.ops.boxes import iou
from lit_vision.ops.points import make_points

STRIDES, SIZES = (16, 8), [(4, 4), (8, 8)]  # 64 x 64: 16 points, then 64
POINTS = make_points(SIZES, STRIDES)
N = 80


def truths(boxes: list[list[float]], labels: list[int], image: list[int] | None = None) -> Truths:
    return Truths(
        torch.tensor(boxes).view(-1, 4),
        torch.tensor(labels, dtype=torch.long),
        torch.tensor(image or [0] * len(labels)),
    )


def chosen(targets: PointTargets) -> dict[tuple[int, int], tuple[int, float]]:
    """(image, place) -> (object, quality) of the chosen pairs."""
    rows = zip(
        *(x[targets.chosen].tolist() for x in targets[:3]), targets.quality[targets.chosen].tolist(), strict=True
    )
    pairs = [((image, place), (truth, quality)) for image, place, truth, quality in rows]
    assert len(dict(pairs)) == len(pairs)  # a point is chosen once
    assert (targets.quality[~targets.chosen] == 0).all()
    return dict(pairs)


def fine(column: int, row: int) -> int:
    return 16 + row * 8 + column


def run(objects: Truths, predicted: Tensor, logits: Tensor, **law: object) -> dict[tuple[int, int], tuple[int, float]]:
    negative = torch.nn.functional.softplus(logits).sum(dim=-1)
    valid = torch.ones(len(objects.boxes), dtype=torch.bool)
    return chosen(assign_points(objects, valid, predicted, logits, negative, STRIDES, SIZES, Law(**law)))  # type: ignore[arg-type]


def test_candidates_are_the_cells_about_the_centre() -> None:
    found = candidates(
        torch.tensor([[2.0, 18.0, 14.0, 34.0]]), STRIDES, SIZES, 3
    )  # centre (8, 26): cells (0, 1), (1, 3)
    places = {
        (int(place), bool(inside))
        for place, inside, exists in zip(*(table[0] for table in found), strict=True)
        if exists
    }
    coarse = {(column + 4 * row, (column, row) == (0, 1)) for column, row in product((0, 1), (0, 1, 2))}
    # Middles at x 4, 12, 20 and y 20, 28, 36 of the fine scale; the box holds 4 and 12, 20 and 28.
    detailed = {(fine(c, r), c in (0, 1) and r in (2, 3)) for c, r in product((0, 1, 2), (2, 3, 4))}
    assert places == coarse | detailed


def test_an_object_under_a_pixel_has_the_cells_that_hold_it() -> None:
    found = candidates(torch.tensor([[17.1, 9.2, 17.4, 9.4]]), STRIDES, SIZES, 5)
    inside = found.place[found.inside & found.exists]
    assert inside.tolist() == [1, fine(2, 1)]


def test_task_alignment_by_hand() -> None:
    """A box of 16 x 16 holds four fine points and one coarse; two of them predict it, with unequal scores."""
    box = [16.0, 16.0, 32.0, 32.0]
    predicted = torch.zeros(1, N, 4)
    half = [16.0, 16.0, 32.0, 24.0]  # IoU 0.5
    for place, what in ((fine(2, 2), box), (fine(3, 2), half), (fine(2, 3), half)):
        predicted[0, place] = torch.tensor(what)
    logits = torch.full((1, N, 2), -3.0)
    for place, chance in ((fine(2, 2), 0.2), (fine(3, 2), 0.8), (fine(2, 3), 0.1)):
        logits[0, place, 1] = math.log(chance / (1 - chance))
    found = run(truths([box], [1]), predicted, logits, top_k=2, alpha=1.0, beta=2.0)
    # Alignment: 0.2 * 1, 0.8 * 0.25, 0.1 * 0.25: the first two are equal; scaled so that the best IoU, 1, is the top.
    assert found == {
        (0, fine(2, 2)): (0, pytest.approx(1.0)),
        (0, fine(3, 2)): (0, pytest.approx(1.0)),
    }
    found = run(truths([box], [1]), predicted, logits, top_k=2, alpha=1.0, beta=1.0)  # 0.2, 0.4, 0.05
    assert found == {
        (0, fine(2, 2)): (0, pytest.approx(0.5)),
        (0, fine(3, 2)): (0, pytest.approx(1.0)),
    }


def test_objects_that_no_box_overlaps_are_trained_all_the_same() -> None:
    found = run(truths([[16.0, 16.0, 32.0, 32.0]], [0]), torch.zeros(1, N, 4), torch.zeros(1, N, 2), top_k=3)
    assert [quality for _, quality in found.values()] == [pytest.approx(MIN_IOU)] * 3
    assert set(found) <= {(0, place) for place in (5, fine(2, 2), fine(3, 2), fine(2, 3), fine(3, 3))}


def test_a_shared_point_goes_to_the_greater_overlap() -> None:
    wide, narrow = [16.0, 16.0, 32.0, 32.0], [16.0, 16.0, 32.0, 28.0]
    predicted = torch.zeros(1, N, 4)
    predicted[0, fine(2, 2)] = torch.tensor(narrow)
    for order, winner in (([wide, narrow], 1), ([narrow, wide], 0), ([narrow, narrow], 0)):
        found = run(truths(order, [0, 1]), predicted, torch.zeros(1, N, 2), top_k=1)
        assert found == {(0, fine(2, 2)): (winner, pytest.approx(1.0))}


def test_simota_takes_as_many_points_as_the_overlaps_add_up_to() -> None:
    box = [16.0, 16.0, 32.0, 32.0]
    predicted = torch.zeros(1, N, 4)
    most = [16.0, 16.0, 32.0, 28.0]  # IoU 0.75
    for place, what in ((fine(2, 2), box), (fine(3, 2), most), (fine(2, 3), most)):
        predicted[0, place] = torch.tensor(what)
    logits = torch.zeros(1, N, 2)
    logits[0, fine(3, 2)] = torch.tensor([-2.0, 2.0])  # knows the class better
    found = run(truths([box], [1]), predicted, logits, kind="simota", top_k=10)
    # 1 + 0.75 + 0.75 = 2.5: two points. Costs: 2 ln 2 = 1.386; 2 ln(1 + e^-2) + 3 ln(4 / 3) = 1.117; 2.249.
    assert found == {(0, fine(2, 2)): (0, pytest.approx(1.0)), (0, fine(3, 2)): (0, pytest.approx(0.75))}


def test_invalid_objects_choose_nothing() -> None:
    objects = truths([[16.0, 16.0, 32.0, 32.0]], [0])
    for kind in ("task_aligned", "simota"):
        zeros = torch.zeros(1, N, 2)
        targets = assign_points(
            objects,
            torch.tensor([False]),
            torch.zeros(1, N, 4),
            zeros,
            zeros[..., 0],
            STRIDES,
            SIZES,
            Law(kind),  # type: ignore[arg-type]
        )
        assert not targets.chosen.any()
        assert targets.quality.sum() == 0


def dense(objects: Truths, predicted: Tensor, logits: Tensor, law: Law) -> dict[tuple[int, int], tuple[int, float]]:
    """Object by object over all points of its image."""
    wanted: dict[tuple[int, int], list[tuple[float, int, float]]] = {}
    for t, (box, label, image) in enumerate(zip(*objects, strict=True)):
        centre, places = (box[:2] + box[2:]) / 2, POINTS.places
        side = POINTS.strides[:, None]
        own_cell = ((centre / side).floor() == (places / side).floor()).all(dim=1)
        near = ((centre / side).floor() - (places / side).floor()).abs().amax(dim=1) <= law.window // 2
        inside = ((places > box[:2]) & (places < box[2:])).all(dim=1) | own_cell
        overlap = iou(predicted[image], box[None])[:, 0]
        floored = overlap.clamp(min=MIN_IOU)
        chance = logits[image, :, label].sigmoid()
        if law.kind == "task_aligned":
            measure = (chance**law.alpha * floored**law.beta).masked_fill(~(near & inside), -1)
            best = [p for p in measure.argsort(descending=True).tolist()[: law.top_k] if measure[p] >= 0]
            for p in best:
                wanted.setdefault((int(image), p), []).append((-float(overlap[p]), t, float(measure[p])))
        else:
            target = torch.nn.functional.one_hot(label, logits.shape[-1]).float().expand(N, -1)
            bce = torch.nn.functional.binary_cross_entropy_with_logits(logits[image], target, reduction="none")
            cost = bce.sum(dim=1) - 3 * floored.log() + 1e5 * ~inside
            count = max(int(overlap[near].sort(descending=True).values[: law.top_k].sum()), 1)
            for p in cost.masked_fill(~near, torch.inf).argsort().tolist()[:count]:
                wanted.setdefault((int(image), p), []).append((float(cost[p]), t, float(floored[p])))
    result = {place: (min(rows)[1], min(rows)[2]) for place, rows in wanted.items()}
    if law.kind == "simota":
        return result
    for t, box in enumerate(objects.boxes):
        own = {key: measure for key, (truth, measure) in result.items() if truth == t}
        if own:
            best_iou = max(float(iou(predicted[i, p][None], box[None]).clamp(min=MIN_IOU)) for i, p in own)
            result |= {key: (t, measure / max(own.values()) * best_iou) for key, measure in own.items()}
    return result


@pytest.mark.parametrize("kind", ["task_aligned", "simota"])
@pytest.mark.parametrize("seed", range(4))
def test_as_the_dense_reference(kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    count = 24
    corner, size = torch.rand(count, 2) * 50, torch.rand(count, 2) ** 2 * 40 + 0.5
    objects = Truths(
        torch.cat([corner, corner + size], dim=1).clamp(0, 63.9), torch.arange(count) % 5, torch.arange(count) % 3
    )
    reach = torch.rand(3, N, 4) * 20
    predicted = torch.cat([POINTS.places - reach[..., :2], POINTS.places + reach[..., 2:]], dim=-1)
    logits = torch.randn(3, N, 5)
    law = Law(kind, top_k=6, alpha=0.5, beta=3.0, window=5)  # type: ignore[arg-type]
    found = run(objects, predicted, logits, kind=kind, top_k=6, alpha=0.5, beta=3.0, window=5)
    expected = dense(objects, predicted, logits, law)
    assert {key: truth for key, (truth, _) in found.items()} == {key: truth for key, (truth, _) in expected.items()}
    for key, (_, quality) in found.items():
        assert quality == pytest.approx(expected[key][1], rel=1e-4)
    assert len(found) > count // 2
