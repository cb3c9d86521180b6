"""Instance metrics against pycocotools, an independent panoptic quality, and hand counts."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_vision.errors import UserError
from lit_vision.metrics.instances import InstanceMetrics
from lit_vision.ops.instances import relabel
from lit_vision.ops.parts import connected_parts

CLASSES = 3
NAMES = ("ap", "ap_50", "ap_75", "pq", "sq", "rq", "f1_50", "f1_75", "f1_90", "count_error", "aji", "merged", "split")
Picture = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def picture(seed: int, crowd: bool = False, ignored: bool = False) -> Picture:
    """Truth and a damaged copy: objects shifted, merged, dropped, invented, of another class."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((64, 64), np.int32)
    for k in range(1, rng.integers(3, 9)):
        y, x = rng.integers(0, 52, 2)
        truth[y : y + rng.integers(6, 14), x : x + rng.integers(6, 14)] = k
    truth, _ = relabel(truth)
    labels = rng.integers(0, CLASSES, truth.max())
    predicted = np.roll(truth, rng.integers(-1, 2, 2), (0, 1))
    predicted[rng.random(predicted.shape) < 0.03] = 0
    predicted[predicted == 1] = 0
    y, x = rng.integers(0, 50, 2)
    predicted[y : y + 9, x : x + 9] = truth.max() + 1
    predicted, old = relabel(predicted)
    kinds = np.append(labels, rng.integers(0, CLASSES))[old - 1]
    kinds = np.where(rng.random(len(kinds)) < 0.1, rng.integers(0, CLASSES, len(kinds)), kinds)
    if crowd:
        y, x = rng.integers(0, 40, 2)
        truth[y : y + 24, x : x + 20][truth[y : y + 24, x : x + 20] == 0] = -1
        truth[40:, :9] = -1
        truth, old = relabel(truth)
        labels = labels[old - 1]
    void = np.zeros(truth.shape, bool)
    if ignored:
        void[:, 50:] = True
    scores = rng.choice(np.arange(0.1, 1, 0.1), len(kinds)).astype(np.float32)  # many ties
    return truth, labels.astype(np.int64), predicted, kinds.astype(np.int64), scores, void


def measure(pictures: list[Picture], indices: list[int] | None = None) -> dict[str, float]:
    metric = InstanceMetrics(CLASSES)
    for i, (truth, labels, predicted, kinds, scores, void) in enumerate(pictures):
        there = (torch.from_numpy(truth), torch.from_numpy(labels), torch.from_numpy(void))
        given = (torch.from_numpy(predicted), torch.from_numpy(kinds), torch.from_numpy(scores))
        metric.update(i if indices is None else indices[i], *given, *there)
    return {key: float(value) for key, value in metric.compute().items()}


def coco(pictures: list[Picture]) -> np.ndarray:
    """AP at the ten thresholds, each the mean over classes, by pycocotools from masks."""
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is the oracle")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def encode(region: np.ndarray) -> dict[str, Any]:
        return mask.encode(np.asfortranarray(region.astype(np.uint8)))

    truths: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, (truth, labels, predicted, kinds, scores, void) in enumerate(pictures):
        for k, label in enumerate(labels, 1):
            region = truth == k
            truths.append({"image_id": i, "category_id": int(label), "iscrowd": 0, "area": int(region.sum())})
            truths[-1] |= {"segmentation": encode(region), "bbox": [0, 0, 1, 1]}
        crowd = (truth < 0) | (void & (truth == 0))
        for label in range(CLASSES if crowd.any() else 0):
            truths.append({"image_id": i, "category_id": label, "iscrowd": 1, "area": int(crowd.sum())})
            truths[-1] |= {"segmentation": encode(crowd), "bbox": [0, 0, 1, 1]}
        for k, (kind, score) in enumerate(zip(kinds, scores, strict=True), 1):
            found = {"image_id": i, "category_id": int(kind), "score": float(score)}
            results.append(found | {"segmentation": encode(predicted == k)})
    data = COCO()
    data.dataset = {
        "info": {},
        "images": [{"id": i, "width": 64, "height": 64} for i in range(len(pictures))],
        "categories": [{"id": c} for c in range(CLASSES)],
        "annotations": [{"id": k, **row} for k, row in enumerate(truths, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(results), "segm")
        evaluation.params.maxDets = [1, 10, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (10, 101, K)
    return np.array([row[row > -1].mean() for row in precision])


@pytest.mark.parametrize(("crowd", "ignored"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("seed", [0, 100, 200])
def test_average_precision_equals_pycocotools(seed: int, crowd: bool, ignored: bool) -> None:
    pictures = [picture(seed + i, crowd, ignored) for i in range(12)]
    ours, theirs = measure(pictures), coco(pictures)
    assert 0.05 < theirs.mean() < 0.95
    assert ours["ap"] == pytest.approx(theirs.mean(), abs=1e-9)
    assert ours["ap_50"] == pytest.approx(theirs[0], abs=1e-9)
    assert ours["ap_75"] == pytest.approx(theirs[5], abs=1e-9)


def panoptic(pictures: list[Picture]) -> tuple[float, float, float]:
    """By sets of pixels, object by object."""
    rows = np.zeros((CLASSES, 4))  # sum of IoU, hits, false, missed
    for truth, labels, predicted, kinds, _, void in pictures:
        unknown = set(np.flatnonzero((truth < 0) | (void & (truth == 0))))
        objects = [set(np.flatnonzero(truth == k)) for k in range(1, len(labels) + 1)]
        taken = set()
        for k, kind in enumerate(kinds, 1):
            region = set(np.flatnonzero(predicted == k))
            partners = [(len(region & o) / len((region - unknown) | o), i) for i, o in enumerate(objects)]
            best, i = max([(iou, i) for iou, i in partners if labels[i] == kind], default=(0.0, -1))
            if best > 0.5:
                rows[kind, :2] += best, 1
                taken.add(i)
            elif len(region & unknown) <= 0.5 * len(region):
                rows[kind, 2] += 1
        for i, label in enumerate(labels):
            rows[label, 3] += i not in taken
    rows = rows[rows[:, 1:].sum(1) > 0]
    size = rows[:, 1] + rows[:, 2] / 2 + rows[:, 3] / 2
    segmentation = rows[:, 0] / np.maximum(rows[:, 1], 1)
    return float((rows[:, 0] / size).mean()), float(segmentation.mean()), float((rows[:, 1] / size).mean())


@pytest.mark.parametrize(("crowd", "ignored"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("seed", [0, 100])
def test_panoptic_quality_equals_sets_of_pixels(seed: int, crowd: bool, ignored: bool) -> None:
    pictures = [picture(seed + i, crowd, ignored) for i in range(10)]
    values = measure(pictures)
    assert (values["pq"], values["sq"], values["rq"]) == pytest.approx(panoptic(pictures), abs=1e-12)
    assert 0.1 < values["pq"] < 0.95


def one_row(*objects: tuple[int, int]) -> np.ndarray:
    labels = np.zeros((1, 40), np.int32)
    for k, (start, stop) in enumerate(objects, 1):
        labels[0, start:stop] = k
    return labels


def single(truth: np.ndarray, predicted: np.ndarray, scores: list[float]) -> Picture:
    kinds = (np.zeros(truth.max(initial=0), np.int64), np.zeros(predicted.max(initial=0), np.int64))
    return truth, kinds[0], predicted, kinds[1], np.array(scores, np.float32), np.zeros(truth.shape, bool)


def test_by_hand() -> None:
    # Objects of 10 and 10 pixels; predicted: 8 of the first (IoU .8), none of the second, and one in the air.
    values = measure([single(one_row((0, 10), (20, 30)), one_row((0, 8), (32, 38)), [0.9, 0.8])])
    recall_half = 51 / 101  # of the 101 recalls, 0 .. 0.5 are reached at precision 1
    assert values["ap_50"] == pytest.approx(recall_half)
    assert values["ap_75"] == pytest.approx(recall_half)
    assert values["ap"] == pytest.approx(recall_half * 7 / 10)  # reached at .5 .. .8
    assert (values["pq"], values["sq"], values["rq"]) == pytest.approx((0.8 / 2, 0.8, 0.5))
    assert values["count_error"] == 0.0


def test_exact_halves_match_once_at_the_lowest_threshold() -> None:
    values = measure([single(one_row((0, 10)), one_row((0, 5), (5, 10)), [0.3, 0.9])])
    assert values["ap_50"] == 1.0  # the one with the higher score; the other comes after full recall
    assert values["pq"] == 0.0  # panoptic quality wants more than half
    assert values["count_error"] == 1.0
    merged = measure([single(one_row((0, 5), (5, 10)), one_row((0, 10)), [0.9])])
    assert merged["ap_50"] == pytest.approx(51 / 101)


def test_perfect_and_empty() -> None:
    truth = one_row((0, 10), (20, 30))
    perfect = measure([single(truth, truth, [0.9, 0.8]), single(one_row(), one_row(), [])])
    assert perfect == {name: float(name not in ("count_error", "merged", "split")) for name in NAMES}
    nothing = measure([single(one_row(), one_row(), [])])
    assert set(nothing.values()) == {0.0}
    invented = measure([single(one_row(), truth, [0.5, 0.6])])
    assert (invented["ap"], invented["pq"], invented["count_error"]) == (0.0, 0.0, 2.0)


def test_predictions_in_void_are_no_error_of_the_count() -> None:
    truth, labels, predicted, kinds, scores, void = single(one_row((0, 10)), one_row((0, 10), (20, 30)), [0.9, 0.8])
    assert measure([(truth, labels, predicted, kinds, scores, void)])["count_error"] == 1.0
    void[0, 24:] = True  # six pixels of ten
    assert measure([(truth, labels, predicted, kinds, scores, void)])["count_error"] == 0.0


def test_an_image_that_comes_twice_counts_once() -> None:
    pictures = [picture(i) for i in range(5)]
    repeated = measure([*pictures, pictures[1], pictures[0]], [0, 1, 2, 3, 4, 1, 0])
    assert repeated == measure(pictures)
    assert repeated != measure([*pictures, pictures[1], pictures[0]])  # negative control


def test_order_of_the_images_does_not_matter() -> None:
    pictures = [picture(i) for i in range(6)]
    assert measure(pictures[::-1], [5, 4, 3, 2, 1, 0]) == measure(pictures)


def test_ranks_add_up_exactly() -> None:
    pictures = [picture(i) for i in range(5)]
    ranks = [InstanceMetrics(CLASSES), InstanceMetrics(CLASSES)]
    for i, (truth, labels, predicted, kinds, scores, void) in enumerate([*pictures, pictures[0]]):
        arrays = (predicted, kinds, scores, truth, labels, void)
        ranks[i % 2].update(i % 5, *(torch.from_numpy(array) for array in arrays))
    for state in ("images", "predictions", "scores", "truths"):  # what dist_reduce_fx="cat" does
        setattr(ranks[0], state, [torch.cat(getattr(rank, state)) for rank in ranks])
    assert {key: float(value) for key, value in ranks[0].compute().items()} == measure(pictures)


def test_score_decides_which_prediction_comes_first() -> None:
    truth, predicted = one_row((0, 10)), one_row((0, 10), (20, 30))
    assert measure([single(truth, predicted, [0.9, 0.1])])["ap_50"] == 1.0
    assert measure([single(truth, predicted, [0.1, 0.9])])["ap_50"] == pytest.approx(0.5)


def test_components_of_noise_are_measured_without_a_limit_on_their_number() -> None:
    truth = connected_parts(np.random.default_rng(0).random((64, 64)) < 0.3)
    values = measure([single(truth, truth, [0.5] * truth.max())])
    assert truth.max() > 300
    assert (values["ap"], values["pq"]) == (1.0, 1.0)


@pytest.mark.parametrize(("crowd", "ignored"), [(False, False), (True, False), (True, True)])
def test_f1_aji_merges_and_splits_equal_naive_loops(crowd: bool, ignored: bool) -> None:
    pictures = [picture(i, crowd, ignored) for i in range(12)]
    values = measure(pictures)
    for name, value in naive(pictures).items():
        assert values[name] == pytest.approx(value, abs=1e-12), name
    assert min(values["f1_75"], values["aji"]) > 0.1


def test_merges_and_splits_are_counted() -> None:
    truth = one_row((0, 10), (10, 20), (24, 34), (35, 40))
    predicted = one_row((0, 20), (24, 28), (29, 33), (35, 40))  # two glued, one cut in two, one whole
    values = measure([single(truth, predicted, [0.5] * 4)])
    assert (values["merged"], values["split"]) == (0.5, 0.25)
    # Both glued objects choose the first prediction: 10 of 20 twice; 4 of 10 and 5 of 5; the other half is unused.
    assert values["aji"] == pytest.approx((10 + 10 + 4 + 5) / (20 + 20 + 10 + 5 + 4))


def test_f1_equals_stardists_formula_and_torchmetrics_panoptic_quality() -> None:
    quality = pytest.importorskip("torchmetrics.detection").PanopticQuality
    pictures = [(t, labels * 0, p, kinds * 0, s, v) for t, labels, p, kinds, s, v in map(picture, range(8))]
    theirs = quality(things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
    for truth, _, predicted, _, _, _ in pictures:
        maps = [torch.from_numpy(np.stack([(array > 0).astype(int), array], -1))[None] for array in (predicted, truth)]
        theirs.update(*maps)
    values = measure(pictures)
    pq, sq, rq = theirs.compute()[0].tolist()
    assert (values["pq"], values["sq"], values["rq"]) == pytest.approx((pq, sq, rq), abs=1e-6)


def test_labels_that_do_not_fit_the_numbers_are_named() -> None:
    truth, labels, *rest = single(one_row((0, 4), (6, 9)), one_row((0, 4)), [0.5])
    with pytest.raises(UserError, match="the true label map goes up to object 2, but there are 1 labels"):
        measure([(truth, labels[:1], *rest)])


def naive(pictures: list[Picture]) -> dict[str, float]:
    """By sets of pixels, an object at a time."""
    hits, sizes = np.zeros((3, CLASSES)), np.zeros((3, CLASSES))
    aji, glued, cut, objects = [], 0, 0, 0
    for truth, labels, predicted, kinds, _, void in pictures:
        nowhere = pixels_in((truth < 0) | (void & (truth <= 0)))
        true = [pixels_in(truth == k + 1) for k in range(len(labels))]
        found = [pixels_in(predicted == k + 1) for k in range(len(kinds))]
        objects += len(true)
        for level, threshold in enumerate((0.5, 0.75, 0.9)):
            for c in range(CLASSES):
                mine = [one for one, kind in zip(found, kinds, strict=True) if kind == c]
                theirs = [one for one, label in zip(true, labels, strict=True) if label == c]
                matched = [one for one in mine if any(len(one & o) / len(one | o) >= threshold for o in theirs)]
                free = [one for one in mine if one not in matched and len(one & nowhere) / len(one) < threshold]
                hits[level, c] += 2 * len(matched)
                sizes[level, c] += len(matched) + len(free) + len(theirs)
        shared = joined = 0
        chosen = set()
        for one in true:
            ious = [len(one & other) / len(one | (other - nowhere)) for other in found]
            best = int(np.argmax(ious)) if ious and max(ious) > 0 else None
            shared += 0 if best is None else len(one & found[best])
            joined += len(one) if best is None else len(one | (found[best] - nowhere))
            chosen.add(best)
        joined += sum(len(other - nowhere) for k, other in enumerate(found) if k not in chosen)
        aji += [shared / joined] if joined else []
        held = [sum(len(one & other) > len(one) / 2 for one in true) for other in found]
        glued += sum(count for count in held if count > 1)
        cut += sum(sum(len(one & other) > len(other) / 2 for other in found) > 1 for one in true)
    f1 = [float(np.mean(hit[size > 0] / size[size > 0])) for hit, size in zip(hits, sizes, strict=True)]
    named = dict(zip(("f1_50", "f1_75", "f1_90"), f1, strict=True))
    return {**named, "aji": float(np.mean(aji)), "merged": glued / objects, "split": cut / objects}


def pixels_in(mask: np.ndarray) -> set[int]:
    return set(np.flatnonzero(mask).tolist())


SHARES = [[[0, 2, 4], [1, 3, 0]], [[0, 1], []]]  # one image comes twice; nothing for the second process


def as_a_process(rank: int, address: str) -> None:
    """Prints the numbers that this process of two gets for each division of the images."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    results = []
    for shares in SHARES:
        metric = InstanceMetrics(CLASSES)
        for i in shares[rank]:
            truth, labels, predicted, kinds, scores, void = (torch.from_numpy(array) for array in picture(i))
            metric.update(i, predicted, kinds, scores, truth, labels, void)
        results.append({key: float(value) for key, value in metric.compute().items()})
    print(json.dumps(results))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    # This file run as a program: a forked process hangs on torch's threads, a spawned one cannot import a test.
    command = [sys.executable, __file__, f"file://{tmp_path / 'meeting'}"]
    processes = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    try:
        outputs = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
    expected = [measure([picture(i) for i in sorted({*first, *second})]) for first, second in SHARES]
    assert outputs == [expected, expected]


if __name__ == "__main__":
    as_a_process(int(sys.argv[2]), sys.argv[1])
