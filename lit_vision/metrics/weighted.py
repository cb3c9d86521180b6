"""The tasks' metrics of any multiset of pictures: pure functions of a weight per picture, many multisets at a time.

A weight is how often a picture is in the multiset; with all weights 1 the values are those of the task's own metric.
NaN stands where a multiset has nothing to measure.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from lit_vision.errors import UserError
from lit_vision.metrics.boundaries import COUNTS
from lit_vision.metrics.per_image import Arrays, pictures
from lit_vision.metrics.ranking import Ranking, Rankings
from lit_vision.metrics.segmentation import SCALE
from lit_vision.ops.matching import AREAS, MATCHED, MISSED

Weights: TypeAlias = npt.NDArray[np.float64]  # (R, N), R multisets of N pictures
Values: TypeAlias = npt.NDArray[np.float64]  # (R,)
WeightedMetric: TypeAlias = Callable[[Weights], Values]


def weighted(kind: str, name: str, arrays: Arrays, class_names: Sequence[str]) -> WeightedMetric:
    """One metric of a task as a function of weights (R, N), with values (R,).

    Args:
        kind: what the arrays are of, one of KINDS.
        name: of the metric, such as "accuracy", "miou", "map_50" or "iou/cat".
        arrays: what the task's metric gave as `per_image`.
        class_names: K names.

    Raises:
        UserError: there is no such metric, or it cannot be computed picture by picture.
    """
    common, by_class = METRICS[kind]
    metric, slash, label = name.partition("/")
    known = by_class if slash else common
    if metric not in known or (slash and label not in class_names):
        names = [*common, *(f"{one}/<class>" for one in by_class)]
        raise UserError(f"--metric {name} cannot be compared picture by picture; it can be {', '.join(names)}")
    function = KINDS[kind]
    return function(arrays, metric, class_names.index(label) if slash else None, len(class_names))


# --- counts -----------------------------------------------------------------------------------------------------
def _classification(arrays: Arrays, name: str, k: int | None, classes: int) -> WeightedMetric:
    truth, guess = arrays["truth"], arrays["guess"]
    if k is not None:
        return _ratio((truth == guess) & (truth == k), truth == k)
    if name != "f1":
        return _ratio(arrays["top5"] if name == "top5" else truth == guess, np.ones(len(truth)))
    right = _table(truth, np.arange(len(truth)), truth == guess, (classes, len(truth)))
    both = sum(_table(own, np.arange(len(truth)), np.ones(len(truth)), right.shape) for own in (truth, guess))
    return lambda weights: _mean(2 * right @ weights.T, both @ weights.T, empty=0.0)


def _multi_label(arrays: Arrays, name: str, k: int | None, classes: int) -> WeightedMetric:
    probabilities, targets = arrays["probabilities"], arrays["targets"]
    # Compared as the metric does: float32 against a number that is rounded to it.
    guesses = probabilities >= arrays["threshold"][:, None].astype(np.float32)
    right = guesses == targets
    if k is not None:
        return _ratio(right[:, k], np.ones(len(right)))
    if name in ("accuracy", "exact_match"):
        return _ratio(right.mean(1) if name == "accuracy" else right.all(1), np.ones(len(right)))
    if name == "f1":
        found, both = 2.0 * (guesses & targets).T, guesses.T.astype(float) + targets.T
        return lambda weights: _mean(found @ weights.T, both @ weights.T, empty=0.0)
    rankings = [Ranking.of_column(probabilities[:, c], targets[:, c]) for c in range(classes)]
    return lambda weights: _nanmean(np.stack([own.average_precision(weights) for own in rankings]))


def _segmentation(arrays: Arrays, name: str, k: int | None, classes: int) -> WeightedMetric:
    if name == "ece":
        return _calibration_error(arrays)
    if name in OF_OUTLINES:
        return _of_outlines(arrays, name, k, classes)
    picture, truth, guess = (arrays[f"cell/{part}"] for part in ("picture", "truth", "guess"))
    pixels, shape = arrays["cell/pixels"], (classes, len(arrays["pixels"]))
    right = _table(truth, picture, np.where(truth == guess, pixels, 0), shape)
    if name == "pixel_accuracy":
        return _ratio(right.sum(0), arrays["pixels"], empty=0.0)
    there = _table(truth, picture, pixels, shape)
    both = there + _table(guess, picture, pixels, shape)
    if name == "class_accuracy":
        return lambda weights: _mean(right @ weights.T, there @ weights.T, empty=0.0)
    if name == "dice":
        return lambda weights: _mean(2 * right @ weights.T, both @ weights.T, empty=0.0)
    union = both - right
    if k is not None:
        return lambda weights: _divided(right[[k]] @ weights.T, union[[k]] @ weights.T)[0]
    if name == "fw_iou":
        return lambda weights: _mean_by(there @ weights.T, _divided(right @ weights.T, union @ weights.T, 0.0))
    return lambda weights: _mean(right @ weights.T, union @ weights.T, empty=0.0)


def _calibration_error(arrays: Arrays) -> WeightedMetric:
    counts = _there(arrays, "calibration", "ece").astype(np.float64)
    flat = counts.reshape(len(counts), -1)

    def value(weights: Weights) -> Values:
        pixels, right, sure = (weights @ flat).reshape(len(weights), *counts.shape[1:]).transpose(2, 0, 1)
        return _divided(np.abs(right - sure / SCALE).sum(1), pixels.sum(1))

    return value


def _of_outlines(arrays: Arrays, name: str, k: int | None, classes: int) -> WeightedMetric:
    if "outline/counts" not in arrays:
        raise UserError(f"--metric {name}: no outlines were kept; test once more with model.boundary_metrics: always")
    rows, shape = (arrays["outline/class"], arrays["outline/picture"]), (classes, pictures(arrays))
    tables = {part: _table(*rows, arrays["outline/counts"][:, column], shape) for column, part in enumerate(COUNTS)}
    if name == "boundary_iou":
        both, either = (tables[part] if k is None else tables[part][[k]] for part in ("both", "either"))
        if k is not None:
            return lambda weights: _divided(both @ weights.T, either @ weights.T)[0]
        return lambda weights: _mean(both @ weights.T, either @ weights.T, empty=0.0)

    def value(weights: Weights) -> Values:
        sums = {part: table @ weights.T for part, table in tables.items()}
        precision, recall = (_divided(sums[f"hit_{kind}"], sums[kind], 0.0) for kind in ("guess", "truth"))
        f1 = _divided(2 * precision * recall, precision + recall, 0.0)
        return _nanmean(np.where(sums["guess"] + sums["truth"] > 0, f1, np.nan), empty=0.0)

    return value


def _there(arrays: Arrays, part: str, name: str) -> Any:
    """What a metric is made of, which evidence of earlier versions lacks."""
    if part not in arrays:
        raise UserError(f"--metric {name}: the evidence was written before there was such a metric: test once more")
    return arrays[part]


# --- objects ----------------------------------------------------------------------------------------------------
def _detection(arrays: Arrays, name: str, k: int | None, classes: int) -> WeightedMetric:
    size = name.removeprefix("map_")
    if size in AREAS:
        area = _there(arrays, "object/area", name)
        own = (area >= AREAS[size][0]) & (area <= AREAS[size][1])
        objects = {f"object/{part}": arrays[f"object/{part}"][own] for part in ("picture", "label")}
        arrays = {**arrays, **objects, "prediction/outcome": arrays[f"prediction/outcome_{size}"]}
    rankings = Rankings.of_objects(arrays, range(classes) if k is None else [k], LEVELS[name])
    return lambda weights: _nanmean(rankings.average_precision(weights))


def _instances(arrays: Arrays, name: str, k: int | None, classes: int) -> WeightedMetric:
    if name in LEVELS:
        rankings = Rankings.of_objects(arrays, range(classes) if k is None else [k], LEVELS[name])
        empty = 0.0 if k is None else np.nan
        return lambda weights: _nanmean(rankings.average_precision(weights), empty)
    if name in OF_IMAGES:
        return _of_images(arrays, name)
    picture, label = arrays["prediction/picture"], arrays["prediction/label"]
    shape = (classes, pictures(arrays))
    if name in F1_LEVELS:
        outcome = arrays["prediction/outcome"][:, F1_LEVELS[name]]
        right, wrong = (_table(label, picture, outcome == kind, shape) for kind in (MATCHED, MISSED))
        there = _table(arrays["object/label"], arrays["object/picture"], np.ones(len(arrays["object/label"])), shape)
        both = right + wrong + there
        return lambda weights: _mean(2 * right @ weights.T, both @ weights.T, empty=0.0)
    counted = arrays["prediction/void"] == 0
    if name == "count_error":
        there = np.bincount(arrays["object/picture"], minlength=shape[1])
        return _ratio(np.abs(np.bincount(picture[counted], minlength=shape[1]) - there), np.ones(shape[1]))
    matched = arrays["prediction/shared"] > 0
    ious = np.where(matched, arrays["prediction/shared"] / np.maximum(arrays["prediction/joined"], 1), 0.0)
    hits = _table(label, picture, matched, shape)
    false = _table(label, picture, ~matched & counted, shape)
    objects = _table(arrays["object/label"], arrays["object/picture"], np.ones(len(arrays["object/label"])), shape)
    size = (hits + false + objects) * 0.5  # hits + (false + missed) / 2
    quality = _table(label, picture, ious, shape)

    def value(weights: Weights) -> Values:
        sizes, found = size @ weights.T, hits @ weights.T
        above = found if name == "rq" else quality @ weights.T
        below = np.where(sizes > 0, np.maximum(found, 1), 0) if name == "sq" else sizes
        return _mean(above, below, empty=0.0)

    return value


def _of_images(arrays: Arrays, name: str) -> WeightedMetric:
    shared, joined = _there(arrays, "jaccard", name).T
    if name == "aji":
        return _ratio(shared / np.maximum(joined, 1), joined > 0, empty=0.0)
    return _ratio(arrays[name], np.bincount(arrays["object/picture"], minlength=pictures(arrays)), empty=0.0)


OF_OUTLINES = ("boundary_iou", "boundary_f1")
OF_IMAGES = ("aji", "merged", "split")
F1_LEVELS = {"f1_50": 0, "f1_75": 5, "f1_90": 8}  # positions in ops.matching.THRESHOLDS
Levels: TypeAlias = Sequence[int]
LEVELS: Mapping[str, Levels] = {
    **dict.fromkeys(("map", "ap", *(f"map_{size}" for size in AREAS)), tuple(range(10))),
    **dict.fromkeys(("map_50", "ap_50"), (0,)),
    **dict.fromkeys(("map_75", "ap_75"), (5,)),
}
METRICS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {  # of the whole, and of a class
    "classification": (("accuracy", "top5", "f1"), ("accuracy",)),
    "multi_label": (("map", "accuracy", "exact_match", "f1"), ("accuracy",)),
    "segmentation": (
        ("miou", "dice", "pixel_accuracy", "class_accuracy", "fw_iou", "ece", *OF_OUTLINES),
        ("iou", "boundary_iou"),
    ),
    "instances": (
        ("ap", "ap_50", "ap_75", "f1_50", "f1_75", "f1_90", "pq", "sq", "rq", *OF_IMAGES, "count_error"),
        ("ap",),
    ),
    "detection": (("map", "map_50", "map_75", *(f"map_{size}" for size in AREAS)), ("ap",)),
}
KINDS: Mapping[str, Callable[[Arrays, str, int | None, int], WeightedMetric]] = {
    "classification": _classification,
    "multi_label": _multi_label,
    "segmentation": _segmentation,
    "instances": _instances,
    "detection": _detection,
}
LOWER_IS_BETTER = ("count_error", "ece", "merged", "split")


# --- sums over pictures -----------------------------------------------------------------------------------------
def _table(row: Any, picture: Any, values: Any, shape: tuple[int, int]) -> Any:
    """Sums of the values by (row, picture), sparse."""
    return csr_array((np.asarray(values, np.float64), (row, picture)), shape=shape)


def _ratio(above: Any, below: Any, empty: float = np.nan) -> WeightedMetric:
    """The metric sum(weight * above) / sum(weight * below)."""
    numerator, denominator = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return lambda weights: _divided(weights @ numerator, weights @ denominator, empty)


def _divided(above: Any, below: Any, empty: float = np.nan) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(below > 0, above / below, empty), np.float64)


def _mean(above: Any, below: Any, empty: float = np.nan) -> Values:
    """(K, R) above / below, averaged over the classes whose denominator is not 0."""
    return _nanmean(_divided(above, below), empty)


def _mean_by(sizes: Any, values: Values) -> Values:
    """(K, R) values, averaged over the classes with these weights."""
    return _divided((sizes * values).sum(0), sizes.sum(0), 0.0)


def _nanmean(values: Any, empty: float = np.nan) -> Values:
    known = ~np.isnan(values)
    return _divided(np.where(known, values, 0).sum(0), known.sum(0), empty)
