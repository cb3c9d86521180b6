"""Ways to make objects of the maps of two networks, and what they are worth on pictures they were not tuned on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from skimage import measure, segmentation

from lit_vision.data.instances import InstanceDataModule
from lit_vision.metrics.instances import InstanceMetrics
from lit_vision.metrics.thresholds import AREA, PIXEL, ThresholdSearch, grid
from lit_vision.ops.instances import relabel
from lit_vision.ops.matching import MATCHED, match
from lit_vision.ops.parts import connected_parts
from lit_vision.ops.separation import LEVELS, Maps, Separation, mean_scores
from lit_vision.tasks.instance_maps import visible_maps
from lit_vision.tasks.instances import InstanceSegmenter
from lit_vision.types import Int32Array

Way = Callable[[Maps], Int32Array]
Choice = Callable[[Sequence[Way], "Sequence[Picture]"], Way]


# --- pictures -------------------------------------------------------------------------------------------------------
class Picture:
    """Maps of one validation picture, and its objects."""

    def __init__(self, maps: Maps, truth: Int32Array, file: str) -> None:
        self.maps, self.truth, self.file = maps, truth, file


def pictures_of(task: InstanceSegmenter, data: InstanceDataModule) -> list[Picture]:
    found = []
    loader: Iterable[Any] = data.val_dataloader()
    with torch.inference_mode():
        for batch in loader:
            for i, maps in enumerate(task._probabilities(batch["image"]).numpy()):
                height, width = batch["size"][i].tolist()
                shown = visible_maps(maps, batch, i)
                cut = Maps(*(one[:height, :width] for one in shown))  # without the padding
                truth = batch["instances"][i].numpy()[:height, :width]
                found.append(Picture(cut, truth, data.index.files.text(int(batch["index"][i]))))
    return found


# --- ways -----------------------------------------------------------------------------------------------------------
def components(pixel: float, area: int, maps: Maps) -> Int32Array:
    return connected_parts(maps.foreground > pixel * LEVELS, area)


def distance_watershed(pixel: float, apart: int, area: int, maps: Maps) -> Int32Array:
    """Peaks of the distance transform at least `apart` pixels apart are seeds."""
    pixels = maps.foreground > pixel * LEVELS
    distance = ndimage.distance_transform_edt(pixels)
    peaks = (ndimage.maximum_filter(distance, 2 * apart + 1) == distance) & pixels
    parts = segmentation.watershed(-distance, measure.label(peaks), mask=pixels)
    parts *= np.bincount(parts.ravel())[parts] >= area
    return relabel(parts.astype(np.int32))[0]


def separated(separation: Separation, maps: Maps) -> Int32Array:
    return separation.instances(maps)


SURE = "two networks, given back, as the task seeks"


def ways_of(train: str) -> dict[str, list[Way]]:
    """Name -> the way with each of its settings; the first is in force where no picture has objects."""
    start = Separation(0.5, 0.3, 20)
    lost = replace(start, regrow="none")
    areas = [int(20 * factor) for factor in AREA]
    ways: dict[str, list[Way]] = {
        "one network + components": [partial(components, p, a) for p, a in product(PIXEL, areas)],
        "one network + distance watershed": [
            partial(distance_watershed, p, d, a) for p, d, a in product(PIXEL, (3, 5, 7, 9), areas)
        ],
    }
    if train == "pixels":
        return {f"{name}, trained alone": way for name, way in ways.items()}
    ways["two networks, subtracted"] = [partial(separated, one) for one in grid(lost)]
    ways["two networks, given back, .5/.3/20"] = [partial(separated, start)]
    ways["two networks, given back"] = [partial(separated, one) for one in grid(start)]
    ways[SURE] = ways["two networks, given back"]
    return ways


# --- measures -------------------------------------------------------------------------------------------------------
def halves(pictures: Sequence[Picture]) -> Iterator[tuple[Sequence[Picture], Sequence[Picture]]]:
    """What settings are chosen on and what they are reported on, both ways round."""
    yield pictures[::2], pictures[1::2]
    yield pictures[1::2], pictures[::2]


def score_of(way: Way, pictures: Sequence[Picture]) -> float:
    """Mean over IoU .5:.05:.95 of TP / (TP + FP + FN)."""
    hits, both = np.zeros(10), 0
    for picture in pictures:
        predicted = way(picture.maps)
        labels = [np.zeros(int(one.max(initial=0)), np.int64) for one in (picture.truth, predicted)]
        found = match(picture.truth, labels[0], predicted, labels[1], labels[1].astype(np.float32))
        hits += (found.outcomes == MATCHED).sum(0)
        both += len(labels[0]) + len(labels[1])
    return float((hits / np.maximum(both - hits, 1)).mean())


def best_of(settings: Sequence[Way], pictures: Sequence[Picture]) -> Way:
    return max(settings, key=lambda way: score_of(way, pictures)) if len(settings) > 1 else settings[0]


def surest_of(settings: Sequence[Way], pictures: Sequence[Picture]) -> Way:
    """What the task takes of separations: the first one, unless another is better by more than its error."""
    search = ThresholdSearch([way.args[0] for way in settings if isinstance(way, partial)])
    for i, picture in enumerate(pictures):
        search.update(i, picture.maps, picture.truth)
    return settings[int(search.compute())]


def measured(found: Iterable[tuple[Picture, Int32Array]]) -> dict[str, float]:
    metric = InstanceMetrics(1)
    for i, (picture, predicted) in enumerate(found):
        scores = torch.from_numpy(mean_scores(predicted, picture.maps.foreground))
        given = (torch.from_numpy(predicted), torch.zeros(len(scores), dtype=torch.int64), scores)
        there = (torch.from_numpy(picture.truth), torch.zeros(int(picture.truth.max(initial=0)), dtype=torch.int64))
        metric.update(i, *given, *there)
    return {name: float(value) for name, value in metric.compute().items()}


def reported(settings: Sequence[Way], pictures: Sequence[Picture], choose: Choice = best_of) -> dict[str, float]:
    found: list[tuple[Picture, Int32Array]] = []
    for chosen_on, reported_on in halves(pictures):
        best = choose(settings, chosen_on)
        found += [(picture, best(picture.maps)) for picture in reported_on]
    return measured(found)
