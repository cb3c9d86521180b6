"""COCO's mean average precision of boxes over a whole data set, on any number of processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lit_vision.metrics.box_confusion import Boxes, box_confusion
from lit_vision.metrics.coco_precision import ABSENT, SIZES, coco_precision, mean_precision
from lit_vision.metrics.operating_points import OperatingPoints, Scored, best_thresholds, f1_at
from lit_vision.metrics.per_image import Arrays
from lit_vision.ops.matching import AREAS, IGNORED, MATCHED, MISSED, match_boxes
from lit_vision.ops.matching import THRESHOLDS as IOUS
from lit_vision.types import BoolArray, DetectionPrediction, Int64Array

THRESHOLDS = {"map_50": 0, "map_75": 5}  # positions of IoU 0.5 and 0.75 among 0.50, 0.55, ..., 0.95

# Flat numeric states, so that the gathering over processes is one concatenation each: (rows' shape, type).
STATES: Mapping[str, tuple[tuple[int, ...], torch.dtype]] = {
    "image": ((), torch.int64),
    "predicted_count": ((), torch.int64),
    "truth_count": ((), torch.int64),
    "predicted_boxes": ((4,), torch.float32),
    "predicted_labels": ((), torch.int64),
    "predicted_scores": ((), torch.float32),
    "truth_boxes": ((4,), torch.float32),
    "truth_labels": ((), torch.int64),
    "truth_crowd": ((), torch.bool),
    "truth_area": ((), torch.float32),
}


class MeanAveragePrecision(Metric):
    """Mean average precision as COCO defines it (https://cocodataset.org/#detection-eval), equal to pycocotools'.

    For each class and each IoU of 0.50, 0.55, ..., 0.95, the precision at 101 recalls is averaged. Predictions matched
    to a crowd region, or outside the size range asked for, count neither way. Classes without an object are left out
    of the means. It is computed once over all images, gathered from all processes; an image that was given twice
    (as distributed samplers do to fill up) counts once.

    Args:
        class_names: K names.
        max_detections: of an image and class, the best so many count.

    `compute()` gives scalars in [0, 1]: map (over all IoUs), map_50, map_75; map_small, map_medium, map_large where
    there are objects of that size in original pixels; ap/<class> where the class has objects; f1, the mean over the
    classes with objects at an IoU of 0.5. Without any object at all, the first three are -1, and there is no f1.

    Attributes:
        thresholds: of the scores, one per class, at which f1 is measured; None: each class's best for these images.
        points: thresholds and F1 of each class, from the last `compute()`.
        scored: what became of its predictions at an IoU of 0.5.
    """

    higher_is_better = True
    full_state_update = False
    is_differentiable = False

    def __init__(self, class_names: Sequence[str], max_detections: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_names = list(class_names)
        self.max_detections = max_detections
        self.thresholds: Sequence[float] | None = None
        self.points: OperatingPoints | None = None
        self.scored: Scored | None = None
        self._arrays: Arrays = {}
        for name in STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        super().reset()
        # A process without images still gathers, and needs empty tensors of the right type and shape for it.
        for name, (shape, dtype) in STATES.items():
            getattr(self, name).append(torch.zeros((0, *shape), dtype=dtype, device=self.device))

    def update(
        self,
        index: Tensor,
        predictions: Sequence[DetectionPrediction],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        crowd: Sequence[Tensor] | None = None,
        area: Sequence[Tensor] | None = None,
    ) -> None:
        """Adds B images.

        Args:
            index: (B,) the images' positions in the data set.
            predictions: boxes, labels and scores of each image, original pixels.
            boxes: B tensors (N, 4) xyxy, original pixels.
            labels: B tensors (N,).
            crowd: B tensors (N,) bool; None: no crowd regions.
            area: B tensors (N,) of the objects' own areas, for the sizes; None: the boxes' areas.
        """
        crowd = crowd or [torch.zeros_like(own, dtype=torch.bool) for own in labels]
        area = area or [(own[:, 2:] - own[:, :2]).prod(dim=1) for own in boxes]
        columns: dict[str, Tensor] = {
            "image": index,
            "predicted_count": torch.tensor([len(one["scores"]) for one in predictions]),
            "truth_count": torch.tensor([len(own) for own in labels]),
            "predicted_boxes": torch.cat([one["boxes"] for one in predictions]),
            "predicted_labels": torch.cat([one["labels"] for one in predictions]),
            "predicted_scores": torch.cat([one["scores"] for one in predictions]),
            "truth_boxes": torch.cat(list(boxes)),
            "truth_labels": torch.cat(list(labels)),
            "truth_crowd": torch.cat(list(crowd)),
            "truth_area": torch.cat(list(area)),
        }
        for name, (_, dtype) in STATES.items():
            rows = getattr(self, name)
            rows.append(columns[name].detach().to(self.device, dtype))
            _join_last(rows)

    def per_image(self) -> Arrays:
        """What this process has seen, image by image in the order of their indices, matched as COCO does.

        Returns:
            index: (N,) the images' positions in the data set.
            prediction/picture, /label, /score: (P,), those that count, the best of a picture and class first.
            prediction/outcome: (P, 10) MISSED, MATCHED or IGNORED at each IoU, for objects of all sizes.
            prediction/outcome_small, _medium, _large: (P, 10) likewise, for objects of each of COCO's sizes.
            object/picture, object/label, object/area: (T,), without crowds.
        """
        parts = {name: [one.cpu() for one in getattr(self, name)] for name in STATES}
        arrays = _once({name: torch.cat(part).numpy() for name, part in parts.items()})
        index = np.unique(arrays["image"])
        places = _places(arrays, index)
        order = _order(arrays, places)
        chosen, outcomes = _matched(arrays, places, order, self.max_detections)
        sizes = {
            f"prediction/outcome_{size}": _matched(arrays, places, order, self.max_detections, area)[1]
            for size, area in AREAS.items()
        }
        there = np.lexsort((places["truth"],))
        there = there[~arrays["truth_crowd"][there]]
        return {
            "index": index,
            "prediction/picture": places["predicted"][chosen],
            "prediction/label": arrays["predicted_labels"][chosen].astype(np.int32),
            "prediction/score": arrays["predicted_scores"][chosen],
            "prediction/outcome": outcomes,
            **sizes,
            "object/picture": places["truth"][there],
            "object/label": arrays["truth_labels"][there].astype(np.int32),
            "object/area": arrays["truth_area"][there],
        }

    def compute(self) -> dict[str, Tensor]:
        """The values by name; see the class."""
        state = {name: dim_zero_cat(getattr(self, name)).cpu().numpy() for name in STATES}
        self._arrays = arrays = _once(state)
        precision = coco_precision(arrays, len(self.class_names), self.max_detections)
        values = {"map": mean_precision(precision[..., 0])}
        values |= {name: mean_precision(precision[place, ..., 0]) for name, place in THRESHOLDS.items()}
        values |= {f"map_{size}": mean_precision(precision[..., place]) for place, size in enumerate(SIZES) if place}
        values["f1"] = self._f1(arrays)
        values |= {f"ap/{name}": mean_precision(precision[:, :, k, 0]) for k, name in enumerate(self.class_names)}
        always = ("map", *THRESHOLDS)
        kept = {name: value for name, value in values.items() if name in always or value != ABSENT}
        return {name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in kept.items()}

    @property
    def confusion(self) -> Tensor | None:
        """(K + 1, K + 1) counts of the last `compute()` at the thresholds of `points`, see `box_confusion`."""
        if self.points is None:
            return None
        own = self._arrays
        found = own["predicted_scores"] > self.points.thresholds[own["predicted_labels"]]
        predicted = Boxes(*(own[f"predicted_{name}"][found] for name in ("image", "boxes", "labels")))
        truth = Boxes(*(own[f"truth_{name}"] for name in ("image", "boxes", "labels")))
        surest = np.argsort(-own["predicted_scores"][found], kind="stable")
        counts = box_confusion(predicted, surest, truth, own["truth_crowd"], len(self.class_names))
        return torch.from_numpy(counts)

    def _f1(self, arrays: Arrays) -> float:
        places = _places(arrays, np.unique(arrays["image"]))
        chosen, outcomes = _matched(arrays, places, _order(arrays, places), self.max_detections)
        counted = outcomes[:, THRESHOLDS["map_50"]] != IGNORED
        rows, hits = chosen[counted], outcomes[counted, THRESHOLDS["map_50"]] == MATCHED
        objects = np.bincount(arrays["truth_labels"][~arrays["truth_crowd"]], minlength=len(self.class_names))
        scored = Scored(arrays["predicted_scores"][rows], arrays["predicted_labels"][rows], hits, objects)
        self.scored, given = scored, self.thresholds
        self.points = best_thresholds(scored) if given is None else f1_at(scored, np.array(given, np.float32))
        return float(np.nanmean(self.points.f1)) if objects.any() else ABSENT


def _places(arrays: Arrays, index: Int64Array) -> dict[str, Int64Array]:
    """Position of each prediction's and each object's image in the index."""
    return {kind: np.searchsorted(index, arrays[f"{kind}_image"]) for kind in ("predicted", "truth")}


def _order(arrays: Arrays, places: Mapping[str, Int64Array]) -> Int64Array:
    """The predictions by picture, then class, then falling score."""
    return np.lexsort((-arrays["predicted_scores"], arrays["predicted_labels"], places["predicted"]))


def _join_last(rows: list[Tensor]) -> None:
    """Joins the last tensors until each is twice as long as the next: few stay, and few copies of a row are made.

    Thousands of small ones, each between a network's large ones, would keep a CPU's memory from being used again.
    """
    while len(rows) > 1 and len(rows[-2]) <= 2 * len(rows[-1]):
        last = rows.pop()
        rows[-1] = torch.cat([rows[-1], last])


def _once(state: Arrays) -> Arrays:
    """The first record of each image, with the image of each prediction and object written out."""
    _, first = np.unique(state["image"], return_index=True)
    kept = np.zeros(len(state["image"]), bool)
    kept[first] = True
    chosen: Arrays = {"image": state["image"][kept]}
    for kind in ("predicted", "truth"):
        counts = state[f"{kind}_count"]
        rows = np.repeat(kept, counts)
        chosen[f"{kind}_image"] = np.repeat(state["image"], counts)[rows]
        for name in state:
            if name.startswith(kind) and not name.endswith("count"):
                chosen[name] = state[name][rows]
    return chosen


def _matched(
    arrays: Arrays,
    places: Mapping[str, Int64Array],
    order: Int64Array,
    limit: int,
    area: tuple[float, float] = (0.0, np.inf),
) -> tuple[Int64Array, npt.NDArray[np.int8]]:
    """Rows of the predictions that count, and what became of each at the ten IoUs.

    Args:
        arrays: of `_once`.
        places: of `_places`.
        order: the predictions by picture and class.
        limit: predictions of a picture and class.
        area: of the objects that count.
    """
    classes = int(max(arrays["predicted_labels"].max(initial=0), arrays["truth_labels"].max(initial=0))) + 1
    predicted = (places["predicted"] * classes + arrays["predicted_labels"])[order]
    truth = places["truth"] * classes + arrays["truth_labels"]
    there = np.argsort(truth, kind="stable")
    first = np.diff(predicted, prepend=-1) != 0
    rank = np.arange(len(predicted)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    chosen, groups = order[rank < limit], predicted[rank < limit]
    outcomes = np.full((len(chosen), len(IOUS)), MISSED, np.int8)
    found, apart = np.unique(groups), _outside(arrays["truth_area"], area)
    edges = [np.searchsorted(array, [found, found + 1]) for array in (groups, truth[there])]
    for start, end, low, high in np.concatenate(edges)[:, edges[1][0] < edges[1][1]].T.tolist():
        objects = there[low:high]  # without any, all have missed
        pair = (arrays["predicted_boxes"][chosen[start:end]], arrays["truth_boxes"][objects])
        outcomes[start:end] = match_boxes(*pair, arrays["truth_crowd"][objects], apart[objects])
    boxes = arrays["predicted_boxes"][chosen].astype(np.float64)
    outcomes[(outcomes == MISSED) & _outside((boxes[:, 2:] - boxes[:, :2]).prod(1), area)[:, None]] = IGNORED
    return chosen, outcomes


def _outside(areas: npt.NDArray[np.floating], area: tuple[float, float]) -> BoolArray:
    return (areas < area[0]) | (areas > area[1])
