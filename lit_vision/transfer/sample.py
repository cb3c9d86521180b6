"""A sample of a data set as an adviser needs it: pictures through the deterministic transform, and what is where.

What is measured is the picture for a classifier, pixels for masks, and boxes for objects, with background beside them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lit_vision.data.index import Index
from lit_vision.types import IGNORE_INDEX, Int64Array

PIXELS_PER_CLASS = 4  # of each picture
OBJECTS = 16  # of each picture, at most
BACKGROUNDS = 2  # boxes of each picture that cover no object


@dataclass
class Regions:
    """N places of one batch.

    Attributes:
        image: (N,) which picture of the batch.
        where: None = the whole picture; (N, 2) points x, y; (N, 4) boxes xyxy. Pixels of the network's input.
        targets: (N, K) 0 or 1.
    """

    image: Tensor
    where: Tensor | None
    targets: Tensor


def chosen(index: Index, count: int, seed: int) -> Int64Array:
    """Positions of training pictures: all where there are no more than `count`, else a draw that favours rare classes.

    The classes take turns, and each gives one of its pictures that is not taken yet.
    """
    train: Int64Array = index.indices("train")
    rng = np.random.default_rng(seed)
    order = rng.permutation(train)
    if len(order) <= count:
        return np.sort(order)
    owners: dict[int, list[int]] = {}
    for i in order.tolist():
        for label in {*index.labels[index.span(i)].tolist()} or {-1}:
            owners.setdefault(label, []).append(i)
    taken: dict[int, None] = {}
    queues = [iter(owners[label]) for label in sorted(owners)]
    while len(taken) < count and queues:
        for queue in list(queues):
            fresh = next((i for i in queue if i not in taken), None)
            if fresh is None:
                queues.remove(queue)
            elif len(taken) < count:
                taken[fresh] = None
    return np.sort(np.array(list(taken), np.int64))


def batches(datamodule: Any, positions: Int64Array, size: int) -> Iterator[dict[str, Any]]:
    """Batches of these pictures of the index, transformed as in evaluation."""
    from lit_vision.data.dataset import Collate

    dataset = datamodule.dataset("train")
    dataset.positions = positions
    collate = Collate(datamodule.listed, 32 if datamodule.fit == "native" else 1)
    for start in range(0, len(positions), size):
        samples = [dataset[k] for k in range(start, min(start + size, len(positions)))]
        yield cast(dict[str, Any], collate(samples))


def regions(batch: dict[str, Any], classes: int, rng: np.random.Generator) -> Regions:
    """What of a batch is measured.

    Args:
        batch: of one of the four tasks.
        classes: K of the data.
        rng: draws pixels, objects and background boxes.
    """
    if "boxes" in batch:
        return _boxes(batch, classes, rng)
    if "mask" in batch:
        return _pixels(batch["mask"], classes + ("instances" in batch), rng)
    labels = batch["label"]
    targets = labels.double() if labels.ndim == 2 else torch.nn.functional.one_hot(labels, classes).double()
    labelled = targets.any(1)
    return Regions(torch.arange(len(labels))[labelled], None, targets[labelled])


def _pixels(masks: Tensor, classes: int, rng: np.random.Generator) -> Regions:
    images, points, labels = [], [], []
    for image, mask in enumerate(masks.numpy()):
        for label in np.unique(mask[mask != IGNORE_INDEX]).tolist():
            rows, columns = np.nonzero(mask == label)
            for k in rng.permutation(len(rows))[:PIXELS_PER_CLASS].tolist():
                images.append(image)
                points.append((columns[k] + 0.5, rows[k] + 0.5))
                labels.append(label)
    where = torch.tensor(points, dtype=torch.float32).reshape(-1, 2)
    return Regions(torch.tensor(images, dtype=torch.int64), where, _one_hot(labels, classes))


def _boxes(batch: dict[str, Any], classes: int, rng: np.random.Generator) -> Regions:
    height, width = batch["image"].shape[-2:]
    images, boxes, labels = [], [], []
    for image, (own, classes_of, crowd) in enumerate(zip(batch["boxes"], batch["labels"], batch["crowd"], strict=True)):
        objects = rng.permutation(np.flatnonzero(~crowd.numpy()))[:OBJECTS].tolist()
        found = [(own[k].tolist(), int(classes_of[k])) for k in objects]
        found += [(box, classes) for box in _background(own.numpy(), height, width, rng)]
        images += [image] * len(found)
        boxes += [box for box, _ in found]
        labels += [label for _, label in found]
    where = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Regions(torch.tensor(images, dtype=torch.int64), where, _one_hot(labels, classes + 1))


def _background(boxes: Any, height: int, width: int, rng: np.random.Generator) -> list[list[float]]:
    """Some boxes of the objects' own sizes that overlap none of them."""
    sizes = (boxes[:, 2:] - boxes[:, :2]).clip(1) if len(boxes) else np.array([[width / 4, height / 4]])
    found: list[list[float]] = []
    for _ in range(8 * BACKGROUNDS):
        w, h = np.minimum(sizes[rng.integers(len(sizes))], (width, height))
        x, y = rng.uniform(0, 1, 2) * (width - w, height - h)
        apart = (boxes[:, 0] >= x + w) | (boxes[:, 2] <= x) | (boxes[:, 1] >= y + h) | (boxes[:, 3] <= y)
        if bool(apart.all()) and len(found) < BACKGROUNDS:
            found.append([float(x), float(y), float(x + w), float(y + h)])
    return found


def _one_hot(labels: list[int], classes: int) -> Tensor:
    return torch.eye(classes, dtype=torch.float64)[torch.tensor(labels, dtype=torch.int64)]
