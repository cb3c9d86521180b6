"""Metrics of weighted pictures against the tasks' own metrics, given the same multisets picture by picture."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from lit_vision.errors import UserError
from lit_vision.metrics.classification import ClassificationMetrics, MultiLabelMetrics
from lit_vision.metrics.detection import MeanAveragePrecision
from lit_vision.metrics.instances import InstanceMetrics
from lit_vision.metrics.per_image import Arrays, chosen, joined, pictures
from lit_vision.metrics.segmentation import SegmentationMetrics
from lit_vision.metrics.weighted import METRICS, weighted
from lit_vision.ops.instances import relabel

NAMES = ["a", "b", "c", "d", "e", "f", "g"]
COUNT = 12
Update = Callable[[Any, int, int], None]  # metric, number of the picture, index to give it


def generator(i: int) -> torch.Generator:
    return torch.Generator().manual_seed(i)


def classified(metric: Any, i: int, index: int) -> None:
    g = generator(i)
    metric.update(torch.rand(1, 7, generator=g), torch.randint(0, 6, (1,), generator=g))


def labelled(metric: Any, i: int, index: int) -> None:
    g = generator(i)
    targets = torch.randint(0, 2, (1, 7), generator=g) * torch.tensor([1, 1, 1, 1, 1, 0, int(i == 3)])
    metric.update(torch.rand(1, 7, generator=g), targets)


def segmented(metric: Any, i: int, index: int) -> None:
    g = generator(i)
    truth = torch.randint(0, 3 + i % 4, (1, 12, 9 + i), generator=g)
    guess = torch.where(torch.rand(truth.shape, generator=g) < 0.6, truth, truth.flip(1))
    truth[:, :2] = 255
    metric.update(guess, truth, torch.rand(truth.shape, generator=g))


def boxes_found(metric: Any, i: int, index: int) -> None:
    g = generator(i)
    count, wild = i % 6, (i * 7) % 5
    corners = torch.rand(count + wild, 2, generator=g) * 100
    scale = 8 + 200 * torch.rand(count + wild, 1, generator=g) ** 2  # some of each of COCO's sizes
    boxes = torch.cat([corners, corners + scale * (0.7 + 0.6 * torch.rand(count + wild, 2, generator=g))], 1)
    labels = torch.randint(0, 3, (count + wild,), generator=g)
    given = boxes + torch.randn(boxes.shape, generator=g) * 3
    given[:, 2:] = torch.maximum(given[:, 2:], given[:, :2] + 1)
    scores = torch.rand(count + wild, generator=g)
    crowd = torch.rand(count, generator=g) < 0.2
    metric.update(
        torch.tensor([index]),
        [{"boxes": given, "labels": labels, "scores": scores}],
        [boxes[:count]],
        [labels[:count]],
        [crowd],
        [0.8 * (boxes[:count, 2:] - boxes[:count, :2]).prod(1)],  # objects are smaller than their boxes
    )


def objects_found(metric: Any, i: int, index: int) -> None:
    rng = np.random.default_rng(i)
    truth = np.zeros((48, 48), np.int32)
    for k in range(1, 2 + i % 5):
        y, x = rng.integers(0, 36, 2)
        truth[y : y + rng.integers(6, 14), x : x + rng.integers(6, 14)] = k
    truth, _ = relabel(truth)
    labels = rng.integers(0, 3, truth.max())
    guess = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
    guess[:9, :9] = guess.max() + 1
    if i % 4 == 0:
        truth[30:, 30:] = -1
        truth, old = relabel(truth)
        labels = labels[old - 1]
    guess, old = relabel(guess)
    kinds = np.append(labels, [0] * 9)[old - 1]
    given: list[Tensor] = [torch.from_numpy(guess), torch.from_numpy(kinds), torch.from_numpy(rng.random(len(kinds)))]
    metric.update(index, *given, torch.from_numpy(truth), torch.from_numpy(labels))


KINDS: dict[str, tuple[Callable[[], Metric], Update, float]] = {
    "classification": (lambda: ClassificationMetrics(NAMES), classified, 1e-7),  # the metric itself is a float32
    "multi_label": (lambda: MultiLabelMetrics(NAMES, 0.4), labelled, 1e-6),
    "segmentation": (lambda: SegmentationMetrics(NAMES, boundaries=True), segmented, 1e-12),
    "detection": (lambda: MeanAveragePrecision(NAMES, 4), boxes_found, 1e-12),
    "instances": (lambda: InstanceMetrics(len(NAMES), NAMES), objects_found, 1e-12),
}


def given(kind: str, order: list[int]) -> Any:
    """The metric after these pictures, each of its own index."""
    make, update, _ = KINDS[kind]
    metric: Any = make()
    metric.keeps_images = True
    for place, i in enumerate(order):
        update(metric, i, place)
    return metric


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def names_of(kind: str) -> list[str]:
    common, by_class = METRICS[kind]
    return [*common, *(f"{one}/{name}" for one in by_class for name in NAMES)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weights_are_repetitions(kind: str, seed: int) -> None:
    weights = np.random.default_rng(seed).multinomial(COUNT, [1 / COUNT] * COUNT)
    arrays = given(kind, list(range(COUNT))).per_image()
    repeated = given(kind, np.repeat(np.arange(COUNT), weights).tolist())
    expected = {name: float(value) for name, value in repeated.compute().items()}
    block = np.stack([np.ones(COUNT), weights.astype(float)])  # several multisets at a time
    found = {name: float(weighted(kind, name, arrays, NAMES)(block)[1]) for name in names_of(kind)}
    common = [name for name in found if name in expected]
    assert {name: found[name] for name in common} == pytest.approx(
        {name: expected[name] for name in common}, abs=KINDS[kind][2]
    )
    assert {*METRICS[kind][0]} <= {*common}
    # What the task leaves out, a class that does not occur, is NaN here.
    assert all(np.isnan(found[name]) for name in set(found) - set(common))
    single = weighted(kind, names_of(kind)[0], arrays, NAMES)(np.ones((1, COUNT)))[0]
    assert found[names_of(kind)[0]] != pytest.approx(single, abs=1e-6)  # the weights matter


def test_one_picture_more_than_another_is_no_other_multiset_of_them_all(kind: str) -> None:
    """Doubling every weight changes no metric: it is a mean, not a sum."""
    arrays = given(kind, list(range(COUNT))).per_image()
    for name in names_of(kind):
        once, twice = weighted(kind, name, arrays, NAMES)(np.stack([np.ones(COUNT), np.full(COUNT, 2.0)]))
        assert once == pytest.approx(twice, abs=1e-12, nan_ok=True)


def test_nothing_to_measure_is_nan_or_what_the_task_says(kind: str) -> None:
    arrays = given(kind, list(range(COUNT))).per_image()
    nothing = np.zeros((1, COUNT))
    empty = {name: float(weighted(kind, name, arrays, NAMES)(nothing)[0]) for name in METRICS[kind][0]}
    assert all(np.isnan(value) or value == 0 for value in empty.values())


def test_parts_are_joined_and_chosen(kind: str) -> None:
    whole = given(kind, list(range(COUNT))).per_image()
    parts = [given(kind, list(range(5))).per_image(), given(kind, list(range(5, COUNT))).per_image()]
    order = np.random.default_rng(0).permutation(COUNT)
    back = chosen(chosen(joined(parts), order), np.argsort(order))
    assert pictures(back) == COUNT
    assert equal(back, whole)
    few = chosen(whole, np.array([7, 2]))
    direct = given(kind, [7, 2]).per_image()
    assert equal(few, direct)
    assert not equal(few, given(kind, [2, 7]).per_image())


def test_an_object_of_32_x_32_is_small_and_medium_as_coco_has_it() -> None:
    metric, box = MeanAveragePrecision(NAMES), torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    found: Any = {"boxes": box, "labels": torch.zeros(1), "scores": torch.ones(1)}
    metric.update(torch.tensor([0]), [found], [box], [torch.zeros(1, dtype=torch.int64)])
    arrays, values = metric.per_image(), metric.compute()
    for size, expected in (("small", 1.0), ("medium", 1.0), ("large", np.nan)):
        own = weighted("detection", f"map_{size}", arrays, NAMES)(np.ones((1, 1)))
        assert own.tolist() == pytest.approx([expected], nan_ok=True)
        assert float(values.get(f"map_{size}", np.nan)) == pytest.approx(expected, nan_ok=True)


def equal(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one if name != "index")


@pytest.mark.parametrize(("objects", "predictions", "expected"), [(3, 0, 0.0), (0, 2, np.nan), (0, 0, np.nan)])
def test_pictures_without_predictions_or_objects(objects: int, predictions: int, expected: float) -> None:
    metric = MeanAveragePrecision(NAMES)
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(3, 1)
    found: Any = {"boxes": boxes[:predictions], "labels": torch.zeros(predictions), "scores": torch.ones(predictions)}
    metric.update(torch.tensor([5]), [found], [boxes[:objects]], [torch.zeros(objects, dtype=torch.int64)])
    arrays = metric.per_image()
    assert pictures(arrays) == 1
    assert weighted("detection", "map", arrays, NAMES)(np.ones((2, 1))).tolist() == pytest.approx(
        [expected] * 2, nan_ok=True
    )
    instances = InstanceMetrics(len(NAMES))
    maps = [torch.zeros(8, 8, dtype=torch.int32) for _ in range(2)]
    for number, count in enumerate((predictions, objects)):
        maps[number].view(-1)[:count] = torch.arange(1, count + 1, dtype=torch.int32)
    kinds = [torch.zeros(count, dtype=torch.int64) for count in (predictions, objects)]
    instances.update(5, maps[0], kinds[0], torch.ones(predictions), maps[1], kinds[1])
    whole = weighted("instances", "ap", instances.per_image(), NAMES)(np.ones((1, 1)))
    assert whole.tolist() == [0.0] == [float(instances.compute()["ap"])]


def test_a_process_without_pictures_has_nothing_to_add(kind: str) -> None:
    """As rank 1 may be: its part is empty, and joins."""
    whole, nothing = given(kind, [1, 2, 3]).per_image(), given(kind, []).per_image()
    assert pictures(nothing) == 0
    assert equal(joined([whole, nothing]), whole)
    assert {name: values.dtype for name, values in nothing.items()} == {n: v.dtype for n, v in whole.items()}


def test_metrics_start_anew_and_keep_nothing_unasked() -> None:
    for make, update in (
        (lambda: ClassificationMetrics(NAMES), classified),
        (lambda: SegmentationMetrics(NAMES), segmented),
    ):
        metric: Any = make()
        update(metric, 0, 0)
        assert pictures(metric.per_image()) == 0
        metric.keeps_images = True
        update(metric, 1, 1)
        assert pictures(metric.per_image()) == 1
        metric.reset()
        assert pictures(metric.per_image()) == 0


@pytest.mark.parametrize("name", ["loss", "f1", "ap/zebra", "accuracy"])
def test_other_metrics_are_refused_by_name(name: str) -> None:
    arrays = given("detection", [1, 2]).per_image()
    sentence = f"--metric {name} cannot be compared picture by picture; it can be map, map_50, map_75, map_small, "
    with pytest.raises(UserError, match=sentence):
        weighted("detection", name, arrays, NAMES)


def test_what_is_not_in_the_evidence_is_said_so() -> None:
    metric: Any = SegmentationMetrics(NAMES)
    metric.keeps_images = True
    segmented(metric, 1, 1)
    with pytest.raises(UserError, match=r"no outlines were kept; test once more with model\.boundary_metrics: always"):
        weighted("segmentation", "boundary_f1", metric.per_image(), NAMES)
    earlier = {name: values for name, values in metric.per_image().items() if name != "calibration"}
    with pytest.raises(UserError, match="ece: the evidence was written before there was such a metric"):
        weighted("segmentation", "ece", earlier, NAMES)
    both = joined([earlier, given("segmentation", [2]).per_image()])  # an earlier run beside a new one
    assert 0 < weighted("segmentation", "miou", both, NAMES)(np.ones((1, 2)))[0] < 1
