import json
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_vision.metrics.detection import MeanAveragePrecision
from lit_vision.metrics.operating_points import curves

NAMES = ["disc", "square", "star", "never"]
Image = dict[str, Any]


def random_images(count: int, seed: int, crowds: bool = True) -> list[Image]:
    """Images with 0 to 8 objects, predictions near them and elsewhere; some images have neither."""
    g = torch.Generator().manual_seed(seed)

    def boxes(n: int) -> Tensor:
        corners = torch.rand(n, 2, generator=g) * 200
        return torch.cat([corners, corners + 2 + torch.rand(n, 2, generator=g) ** 2 * 150], dim=1)

    images = []
    for index in range(count):
        n, wild = int(torch.randint(0, 9, (1,), generator=g)), int(torch.randint(0, 4, (1,), generator=g))
        truth, labels = boxes(n), torch.randint(0, 3, (n,), generator=g)
        near = truth + torch.randn(n, 4, generator=g) * 5
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        found = torch.rand(n, generator=g) < 0.8
        predicted = torch.cat([near[found], boxes(wild)])
        classes = torch.cat([labels[found], torch.randint(0, 3, (wild,), generator=g)])
        scores = (torch.rand(len(classes), generator=g) * 20).round() / 20  # with ties
        crowd = torch.rand(n, generator=g) < 0.15 if crowds else torch.zeros(n, dtype=torch.bool)
        images.append(
            {"index": index * 7, "boxes": truth, "labels": labels, "crowd": crowd, "p": (predicted, classes, scores)}
        )
    return images


def add(metric: MeanAveragePrecision, images: list[Image]) -> None:
    metric.update(
        torch.tensor([image["index"] for image in images]),
        [dict(zip(("boxes", "labels", "scores"), image["p"], strict=True)) for image in images],  # type: ignore[misc]
        *([image[key] for image in images] for key in ("boxes", "labels", "crowd")),
    )


def measured(images: list[Image], **settings: Any) -> dict[str, float]:
    metric = MeanAveragePrecision(NAMES, **settings)
    for start in range(0, len(images), 4):
        add(metric, images[start : start + 4])
    return {name: value.item() for name, value in metric.compute().items()}


def without_f1(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name != "f1"}


def evaluated(images: list[Image], max_detections: int = 100) -> Any:
    """pycocotools' evaluation of the same images."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    annotations, results = [], []
    for image in images:
        for box, label, crowd in zip(
            image["boxes"].tolist(), image["labels"].tolist(), image["crowd"].tolist(), strict=True
        ):
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
            row = {"id": len(annotations) + 1, "image_id": image["index"], "category_id": label}
            area = float(
                np.float32(np.float32(box[2]) - np.float32(box[0]))
                * np.float32(np.float32(box[3]) - np.float32(box[1]))
            )
            annotations.append({**row, "bbox": [x, y, w, h], "iscrowd": int(crowd), "area": area})
        for box, label, score in zip(*(part.tolist() for part in image["p"]), strict=True):
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": image["index"], "category_id": label, "bbox": xywh, "score": score})
    truth = coco.COCO()
    truth.dataset = {"info": {}, "images": [{"id": image["index"]} for image in images], "annotations": annotations}
    truth.dataset["categories"] = [{"id": k, "name": name} for k, name in enumerate(NAMES)]
    truth.createIndex()
    run = evaluation.COCOeval(truth, truth.loadRes(results), "bbox")
    run.params.maxDets = [max_detections]
    run.evaluate()
    run.accumulate()
    return run


def by_pycocotools(images: list[Image], max_detections: int = 100) -> dict[str, float]:
    run = evaluated(images, max_detections)
    precision = run.eval["precision"][..., 0]

    def mean(part: Any) -> float:
        return float(part[part > -1].mean()) if (part > -1).any() else -1.0

    values = {
        "map": mean(precision[..., 0]),
        "map_50": mean(precision[0, ..., 0]),
        "map_75": mean(precision[5, ..., 0]),
    }
    values |= {f"map_{size}": mean(precision[..., k]) for k, size in ((1, "small"), (2, "medium"), (3, "large"))}
    values |= {f"ap/{name}": mean(precision[:, :, k, 0]) for k, name in enumerate(NAMES)}
    return {name: value for name, value in values.items() if value > -1}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_pycocotools(seed: int) -> None:
    images = random_images(40, seed)
    ours, theirs = without_f1(measured(images)), by_pycocotools(images)
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert "ap/never" not in ours
    assert 0.05 < ours["map"] < ours["map_50"] < 0.95


def test_max_detections_count_by_image_and_class_as_in_coco() -> None:
    images = random_images(40, 5)
    ours = without_f1(measured(images, max_detections=2))
    assert ours == pytest.approx(by_pycocotools(images, 2), abs=1e-9)
    assert measured(images, max_detections=2)["map"] < measured(images)["map"]


def one(
    boxes: list[list[float]],
    labels: list[int],
    predicted: list[list[float]],
    classes: list[int],
    scores: list[float],
    index: int = 0,
) -> Image:
    p = (torch.tensor(predicted).view(-1, 4), torch.tensor(classes, dtype=torch.int64), torch.tensor(scores))
    labelled = torch.tensor(labels, dtype=torch.int64)
    return {"index": index, "boxes": torch.tensor(boxes).view(-1, 4), "labels": labelled, "crowd": labelled < 0, "p": p}


def test_by_hand() -> None:
    """Two objects; a false alarm comes between the two hits: precision 1 up to recall 0.5, then 2/3."""
    truth = [[0.0, 0.0, 50.0, 50.0], [100.0, 0.0, 150.0, 50.0]]
    images = [one(truth, [0, 0], [truth[0], [200.0, 200.0, 240.0, 240.0], truth[1]], [0, 0, 0], [0.9, 0.8, 0.7])]
    values = measured(images)
    expected = (51 * 1.0 + 50 * 2 / 3) / 101
    by_precision = dict.fromkeys(("map", "map_50", "map_75", "map_medium", "ap/disc"), expected)
    assert values == pytest.approx({**by_precision, "f1": 2 * 2 / (3 + 2)})  # all three: 4/5, the first alone: 2/3


def test_f1_and_confusion_by_hand() -> None:
    near, far = [0.0, 0.0, 50.0, 50.0], [100.0, 0.0, 150.0, 50.0]
    image = one([near, far], [0, 0], [near, far], [0, 0], [0.9, 0.5])
    assert measured([image])["f1"] == 1.0
    assert measured([image], max_detections=1)["f1"] == pytest.approx(2 / 3)  # one detection, two objects
    metric = MeanAveragePrecision(NAMES)
    metric.thresholds = [0.5] * len(NAMES)  # a score is to be above
    add(metric, [image])
    assert metric.compute()["f1"].item() == pytest.approx(2 / 3)
    assert metric.confusion is not None
    assert metric.confusion[0].tolist() == [1, 0, 0, 0, 1]


def test_images_with_nothing_on_either_side() -> None:
    box = [0.0, 0.0, 50.0, 50.0]
    assert measured([one([], [], [], [], [])]) == {"map": -1.0, "map_50": -1.0, "map_75": -1.0}
    assert measured([one([], [], [box], [0], [0.9])])["map"] == -1.0
    assert measured([one([box], [0], [], [], [])])["map"] == 0.0
    lone_false_alarm = [one([box], [0], [box], [0], [0.5]), one([], [], [box], [0], [0.9], index=1)]
    assert measured(lone_false_alarm)["map"] == pytest.approx(0.5)


def test_an_image_given_twice_counts_once() -> None:
    images = random_images(12, 3)
    twice = [*images, images[2], images[0]]
    assert measured(twice) == measured(images)


def test_order_and_batches_of_images_do_not_matter() -> None:
    images = random_images(20, 4)
    assert measured(images[::-1]) == measured(images)


def test_reset_forgets_and_sizes_come_from_given_areas() -> None:
    metric = MeanAveragePrecision(NAMES)
    add(metric, random_images(5, 0))
    metric.reset()
    box = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    label = torch.tensor([1])
    prediction: Any = [{"boxes": box, "labels": label, "scores": torch.tensor([0.9])}]
    metric.update(torch.tensor([0]), prediction, [box], [label], area=[torch.tensor([500.0])])
    values = {name: value.item() for name, value in metric.compute().items()}
    assert set(values) == {"map", "map_50", "map_75", "map_small", "ap/square", "f1"}  # 500 < 32 * 32
    assert values["map"] == pytest.approx(1.0)


def f1_of(images: list[Image], label: int, threshold: float) -> float:
    """F1 of a class at IoU 0.5 by pycocotools, which is given only the predictions above the threshold."""
    above = []
    for image in images:
        kept = image["p"][2] > threshold
        above.append({**image, "p": tuple(part[kept] for part in image["p"])})
    if not any(len(image["p"][2]) for image in above):
        return 0.0
    hits = predicted = objects = 0
    for one in evaluated(above).evalImgs:
        if one is not None and one["category_id"] == label and tuple(one["aRng"]) == (0, 1e10):
            counts = ~one["dtIgnore"][0].astype(bool)
            hits += int((one["dtMatches"][0] > 0)[counts].sum())
            predicted += int(counts.sum())
            objects += int((np.array(one["gtIgnore"]) == 0).sum())
    return 2 * hits / (predicted + objects)


@pytest.mark.parametrize("seed", [0, 3])
def test_thresholds_are_the_best_that_trying_all_finds(seed: int) -> None:
    images = random_images(25, seed)
    metric = MeanAveragePrecision(NAMES)
    add(metric, images)
    value = metric.compute()["f1"].item()
    assert metric.points is not None
    grid = [max(round(k / 20 - 0.01, 3), 0.0) for k in range(21)]  # scores are multiples of 0.05
    best, gains = [], []
    for label in range(3):
        tried = [f1_of(images, label, threshold) for threshold in grid]
        best.append(max(tried))
        assert metric.points.f1[label] == pytest.approx(max(tried), abs=1e-9)
        assert f1_of(images, label, float(metric.points.thresholds[label])) == pytest.approx(max(tried), abs=1e-9)
        gains.append(max(tried) - tried[0])
    assert max(gains) > 0.01  # there is something to be found
    assert value == pytest.approx(sum(best) / 3)
    assert np.isnan(metric.points.f1[3])  # no object of the last class

    metric.thresholds = [0.5, 0.3, 0.7, 0.5]  # f1 is measured there, instead
    expected = [f1_of(images, label, threshold) for label, threshold in enumerate(metric.thresholds[:3])]
    metric.reset()
    add(metric, images)
    assert metric.compute()["f1"].item() == pytest.approx(sum(expected) / 3)


def shares(images: list[Image]) -> list[list[list[Image]]]:
    """Ways to divide images between two processes: evenly, all to one, and with one image given to both."""
    return [[images[0::2], images[1::2]], [images, []], [[*images[:9], images[-1]], images[9:]]]


def evaluate_share(rank: int, port: int) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for share in shares(random_images(15, 9)):
        metric = MeanAveragePrecision(NAMES)
        if share[rank]:
            add(metric, share[rank])
        print(json.dumps({name: value.item() for name, value in metric.compute().items()}))
    torch.distributed.destroy_process_group()


@pytest.mark.slow  # starts two processes that import torch
def test_two_processes_agree_with_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = [[sys.executable, __file__, str(rank), str(port)] for rank in (0, 1)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    expected = measured(random_images(15, 9))
    for process in running:
        printed, _ = process.communicate(timeout=600)
        assert [json.loads(line) for line in printed.splitlines()] == [expected] * 3


if __name__ == "__main__":
    evaluate_share(int(sys.argv[1]), int(sys.argv[2]))


def test_few_tensors_stay_however_many_batches_come() -> None:
    """In the order of the batches; what lies between a network's large tensors would break its memory into pieces."""
    metric, generator = MeanAveragePrecision(["a", "b"]), torch.Generator().manual_seed(0)
    given: list[torch.Tensor] = []
    for k in range(200):
        count = int(torch.randint(0, 30, (1,), generator=generator)) * (k % 3 > 0)  # also batches without a prediction
        boxes = torch.rand(count, 4, generator=generator)
        given.append(boxes)
        none = torch.zeros(count, dtype=torch.long)
        metric.update(
            torch.tensor([k]),
            [{"boxes": boxes, "labels": none, "scores": torch.rand(count, generator=generator)}],
            [torch.tensor([[0.0, 0.0, 5.0, 5.0]])],
            [torch.tensor([1])],
        )
    assert torch.equal(torch.cat(metric.predicted_boxes), torch.cat(given))  # type: ignore[arg-type]
    assert torch.equal(torch.cat(metric.image), torch.arange(200))  # type: ignore[arg-type]
    assert len(metric.predicted_boxes) < 14  # type: ignore[arg-type]
    assert len(metric.image) < 10  # type: ignore[arg-type]


def test_the_curves_are_those_of_the_average_precision() -> None:
    """Scores without ties, whose order COCO leaves to chance."""
    images, generator = random_images(40, seed=9), torch.Generator().manual_seed(0)
    for image in images:
        boxes, classes, scores = image["p"]
        image["p"] = (boxes, classes, torch.rand(len(scores), generator=generator))
    metric = MeanAveragePrecision(NAMES)
    add(metric, images)
    values = metric.compute()
    assert metric.scored is not None
    found = [curve.average_precision for curve in curves(metric.scored) if curve is not None]
    assert len(found) == 3
    assert np.mean(found) == pytest.approx(float(values["map_50"]), abs=1e-9)


def test_sums_of_the_confusion_are_the_objects_and_the_detections() -> None:
    images, metric = random_images(60, seed=4, crowds=False), MeanAveragePrecision(NAMES)
    for image in images[::3]:
        boxes, classes, scores = image["p"]
        image["p"] = (boxes, (classes + 1) % 3, scores)
    assert metric.confusion is None
    add(metric, images)
    metric.compute()
    metric.reset()  # the picture is drawn after it
    assert metric.points is not None
    assert metric.confusion is not None
    thresholds = torch.from_numpy(metric.points.thresholds)
    above = torch.cat([image["p"][1][image["p"][2] > thresholds[image["p"][1]]] for image in images])
    objects = torch.cat([image["labels"] for image in images])
    counts = metric.confusion
    assert counts[:4].sum(1).tolist() == torch.bincount(objects, minlength=4).tolist()
    assert counts[:, :4].sum(0).tolist() == torch.bincount(above, minlength=4).tolist()
    assert counts[4, 4] == 0
    # Those on the diagonal are COCO's matches at 0.5, of which F1 is made.
    right = counts.diagonal()[:3].double()
    f1 = 2 * right / (counts[:3].sum(1) + counts[:, :3].sum(0))
    torch.testing.assert_close(f1, torch.from_numpy(metric.points.f1[:3]), rtol=0, atol=1e-12)
    assert (counts[:4, :4] - counts[:4, :4].diag().diag()).sum() > 0  # some are taken for others
