"""From two masks to instances, and metrics of instances: milliseconds beside named peers, and how they grow.

The ways take turns in one run; medians of the CPU time of one thread, which other work on the machine disturbs least.
Against scikit-image (the usual pipeline: label, distance transform, watershed; and expand_labels), torchmetrics'
PanopticQuality, and StarDist's `matching` where --peers names the site-packages of an environment that has it
(python -m venv /tmp/peers; /tmp/peers/bin/pip install stardist tensorflow-cpu; of the same Python as this one).

    python benchmarks/instances.py [--rounds 15] [--peers /tmp/peers/lib/python3.11/site-packages]
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from scipy import ndimage
from skimage import measure, segmentation
from torchmetrics.detection import PanopticQuality

from lit_vision.metrics.instances import InstanceMetrics
from lit_vision.ops.borders import gap_weights, object_radii, touching_border
from lit_vision.ops.instances import areas_of, relabel, split_instances
from lit_vision.ops.matching import match
from lit_vision.ops.separation import Maps, Separation
from lit_vision.types import Int32Array

MIN_AREA = 20


def scene(size: int, objects: int, seed: int = 0) -> Int32Array:
    """Label map of ellipses at random places, most of which touch others; later ones lie under earlier ones."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    radius = 0.42 * size / np.sqrt(objects)
    for k in range(1, objects + 1):
        x, y = rng.integers(0, size, 2).tolist()
        axes = [max(int(radius * share), 2) for share in rng.uniform(0.7, 1.2, 2)]
        x1, y1 = max(x - max(axes) - 1, 0), max(y - max(axes) - 1, 0)
        part = labels[y1 : y + max(axes) + 2, x1 : x + max(axes) + 2]
        drawn = np.zeros(part.shape, np.uint8)
        cv2.ellipse(drawn, (x - x1, y - y1), axes, float(rng.integers(180)), 0, 360, 1, -1)
        part[(drawn > 0) & (part == 0)] = k
    return relabel(labels)[0]


def damaged(truth: Int32Array, seed: int = 0) -> Int32Array:
    """A prediction: the truth shifted, with specks missing and some objects gone."""
    rng = np.random.default_rng(seed)
    predicted = np.roll(truth, (1, 1), (0, 1))
    predicted[rng.random(truth.shape) < 0.02] = 0
    predicted[np.isin(predicted, rng.integers(1, truth.max() + 1, max(truth.max() // 20, 1)))] = 0
    return relabel(predicted)[0]


def medians(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU milliseconds of each way, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if turn >= 2:  # the first two warm up
                seconds[name].append(time.process_time() - start)
    return {name: 1000 * float(np.median(values)) for name, values in seconds.items()}


def show(title: str, times: dict[str, float], ours: str) -> None:
    print(f"\n{title:58}{'ms':>9}{'ours is':>10}")
    for name, ms in times.items():
        print(f"{name:58}{ms:9.2f}{ms / times[ours]:9.1f}x")


# --- instances ------------------------------------------------------------------------------------------------------
def by_watershed(pixels: Any) -> Any:
    """One mask: peaks of the distance transform, watershed."""
    distance = ndimage.distance_transform_edt(pixels)
    seeds = measure.label((ndimage.maximum_filter(distance, 11) == distance) & pixels)
    return segmentation.watershed(-distance, seeds, mask=pixels)


def two_masks_by_watershed(pixels: Any, border: Any) -> Any:
    """Two masks with scikit-image: seeds, small ones out, watershed of the distance inside mask one."""
    seeds = measure.label(pixels & ~border, connectivity=1)
    seeds *= np.bincount(seeds.ravel())[seeds] >= MIN_AREA
    return segmentation.watershed(-ndimage.distance_transform_edt(pixels), seeds, mask=pixels)


def two_masks_by_expansion(pixels: Any, border: Any) -> Any:
    """Two masks with scikit-image: seeds, small ones out, expand_labels inside mask one."""
    seeds = measure.label(pixels & ~border, connectivity=1)
    seeds *= np.bincount(seeds.ravel())[seeds] >= MIN_AREA
    return segmentation.expand_labels(seeds, 10) * pixels


def time_instances(rounds: int) -> None:
    truth = scene(1024, 500)
    pixels, border = truth > 0, touching_border(truth, 2)
    levels = [np.asarray(mask * 230, np.uint8) for mask in (pixels, border)]
    maps = Maps(levels[0], levels[1], np.ones(truth.shape, np.uint8))
    ways = {
        "lit_vision: split_instances": lambda: split_instances(pixels, border, MIN_AREA),
        "lit_vision: with thresholds, classes, scores": lambda: Separation(min_area=MIN_AREA).objects(maps),
        "lit_vision: regrow by watershed": lambda: split_instances(
            pixels, border, MIN_AREA, "watershed", foreground=levels[0]
        ),
        "scikit-image: label + watershed of two masks": lambda: two_masks_by_watershed(pixels, border),
        "scikit-image: label + expand_labels of two masks": lambda: two_masks_by_expansion(pixels, border),
        "scikit-image: distance watershed of one mask": lambda: by_watershed(pixels),
    }
    show(f"1024 x 1024, {truth.max()} objects", medians(ways, rounds), "lit_vision: split_instances")
    for name in list(ways)[:1] + list(ways)[2:]:
        print(f"  F1@.75 {f1_of(truth, ways[name]()):.3f}  {name}")
    targets = {
        "touching_border, radius 2": lambda: touching_border(truth, 2),
        "touching_border, radius by size": lambda: touching_border(truth, object_radii(areas_of(truth, truth.max()))),
        "gap_weights": lambda: gap_weights(truth),
    }
    show("training targets of the same picture", medians(targets, max(rounds // 3, 3)), "touching_border, radius 2")


def f1_of(truth: Int32Array, found: Any) -> float:
    predicted = relabel(np.asarray(found, np.int32))[0]
    labels = [np.zeros(int(one.max()), np.int64) for one in (truth, predicted)]
    matches = match(truth, labels[0], predicted, labels[1], labels[1].astype(np.float32))
    return float(2 * (matches.outcomes[:, 5] == 1).sum() / (len(labels[0]) + len(labels[1])))


# --- metrics --------------------------------------------------------------------------------------------------------
def ours(pictures: list[tuple[Int32Array, Int32Array]]) -> dict[str, float]:
    metric = InstanceMetrics(1)
    for i, (truth, predicted) in enumerate(pictures):
        there = (torch.from_numpy(truth), torch.zeros(int(truth.max()), dtype=torch.int64))
        count = int(predicted.max())
        given = (torch.from_numpy(predicted), torch.zeros(count, dtype=torch.int64), torch.ones(count))
        metric.update(i, *given, *there)
    return {name: float(value) for name, value in metric.compute().items()}


def by_torchmetrics(pictures: list[tuple[Int32Array, Int32Array]]) -> dict[str, float]:
    metric = PanopticQuality(things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
    for truth, predicted in pictures:
        metric.update(
            *(torch.from_numpy(np.stack([one > 0, one], -1).astype(np.int64))[None] for one in (predicted, truth))
        )
    return dict(zip(("pq", "sq", "rq"), metric.compute()[0].tolist(), strict=True))


def by_stardist(matching: Any, pictures: list[tuple[Int32Array, Int32Array]]) -> dict[str, float]:
    truths, predictions = zip(*pictures, strict=True)
    results = matching.matching_dataset(truths, predictions, thresh=(0.5, 0.75, 0.9), show_progress=False)
    return {f"f1_{round(100 * one.thresh)}": one.f1 for one in results}


def time_metrics(rounds: int, matching: Any) -> None:
    count = 50
    pictures = [(truth := scene(512, 100, seed), damaged(truth, seed)) for seed in range(count)]
    few = pictures[:3]
    values, theirs = ours(pictures), ours(few)
    ways: dict[str, Callable[[], object]] = {"lit_vision: all metrics, 50 pictures": lambda: ours(pictures)}
    ways["torchmetrics: PanopticQuality, 3 pictures"] = lambda: by_torchmetrics(few)
    if matching is not None:
        ways["stardist: matching at 3 IoUs, 50 pictures"] = lambda: by_stardist(matching, pictures)
    times = medians(ways, max(rounds // 3, 3))
    each = {name: ms / (3 if "3 pictures" in name else count) for name, ms in times.items()}
    show("512 x 512, 100 objects, for each picture", each, "lit_vision: all metrics, 50 pictures")
    for name, value in by_torchmetrics(few).items():
        print(f"  {name}: {theirs[name]:.6f}, torchmetrics {value:.6f}")
    for name, value in by_stardist(matching, pictures).items() if matching is not None else []:
        print(f"  {name}: {values[name]:.6f}, stardist {value:.6f}")


# --- growth ---------------------------------------------------------------------------------------------------------
def time_growth(rounds: int) -> None:
    print(f"\n{'growth':30}{'split ms':>10}{'ns/pixel':>10}{'metrics ms':>12}{'ns/pixel':>10}")
    cases = [(size, max(size * size // 2000, 5)) for size in (256, 512, 1024, 2048, 4096)]
    cases += [(2048, objects) for objects in (10, 100, 1000, 5000)]
    for size, objects in cases:
        truth = scene(size, objects)
        pixels, border, predicted = truth > 0, touching_border(truth, 2), damaged(truth)
        ways: dict[str, Callable[[], object]] = {
            "split": lambda p=pixels, b=border: split_instances(p, b, MIN_AREA),  # type: ignore[misc]
            "metrics": lambda t=truth, p=predicted: ours([(t, p)]),  # type: ignore[misc]
        }
        ms = medians(ways, max(rounds // 3, 3))
        each = [1e6 * value / truth.size for value in ms.values()]
        row = f"{ms['split']:10.2f}{each[0]:10.1f}{ms['metrics']:12.2f}{each[1]:10.1f}"
        print(f"{f'{size} px, {truth.max()} objects':30}{row}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers", help="site-packages of an environment with stardist")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    matching = None
    if options.peers:
        sys.path.append(options.peers)
        from stardist import matching
    time_instances(options.rounds)
    time_metrics(options.rounds, matching)
    time_growth(options.rounds)


if __name__ == "__main__":
    main()
