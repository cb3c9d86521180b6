"""How like the pretraining data a data set is: what each stage's features say about its labels, beside a random twin's.

Where the pictures are like those of the pretraining, deep features are the best ones, and far better than those of the
same network with random weights. Where they are unlike, features get worse from some stage on.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from lit_vision.errors import UserError
from lit_vision.networks.preprocess import interleave
from lit_vision.networks.stages import divide
from lit_vision.transfer.estimates import Difference, Features, Probe, logme, neighbours, paired, probe
from lit_vision.transfer.features import (
    as_maps,
    at_points,
    calibrate,
    in_boxes,
    pooled,
    random_twin,
    stage_ends,
    tapped,
)
from lit_vision.transfer.sample import Regions, batches, chosen, regions
from lit_vision.types import Int64Array

Progress = Callable[[str, int, int], None]
Verdict = Literal["similar", "different", "unclear"]
SAMPLES = 800  # regions in all, at most: the probes take minutes from there on
BATCH = 16
LEAST = 60  # pictures, whatever the time
WARM_BATCHES = 4  # of the random twin's batch normalisation
NARROW = 0.05  # an interval that narrow about 0 says "no better", a wider one says nothing


@dataclass(frozen=True)
class StageEstimate:
    """What the features at the end of one stage are worth.

    Attributes:
        module: whose output they are.
        width: number of features.
        probe: of the labels, by a linear probe.
        neighbours: share of samples whose nearest neighbours have their class.
        logme: log evidence.
    """

    module: str
    width: int
    probe: Probe
    neighbours: float
    logme: float


@dataclass(frozen=True)
class Similarity:
    """The estimates of all stages, 0 nearest the head, of the pretrained network and of its random twin.

    Attributes:
        images: pictures looked at.
        pretrained: by stage.
        random: by stage.
        groups: (N,) the picture of each sample.
    """

    images: int
    pretrained: Sequence[StageEstimate]
    random: Sequence[StageEstimate]
    groups: Int64Array

    @property
    def best(self) -> int:
        """The stage whose features explain most."""
        return max(range(len(self.pretrained)), key=lambda k: self.pretrained[k].probe.explained)

    @property
    def good_until(self) -> int:
        """The stage nearest the head whose features are no worse than the best ones, beyond chance."""
        return next(k for k in range(len(self.pretrained)) if k == self.best or not self.loss(k).above)

    @property
    def deep(self) -> int:
        """Number of stages, from the head, that count as deep: a third of all."""
        return max(round(len(self.pretrained) / 3), 1)

    def loss(self, stage: int) -> Difference:
        """What the features of a stage explain less than the best stage's."""
        return paired(self.pretrained[stage].probe.errors, self.pretrained[self.best].probe.errors, self.groups)

    @property
    def gain(self) -> Difference:
        """What the best deep features explain more than the best ones of the random twin."""
        twin = max(self.random, key=lambda one: one.probe.explained)
        own = max(self.pretrained[: self.deep], key=lambda one: one.probe.explained)
        return paired(twin.probe.errors, own.probe.errors, self.groups)

    @property
    def verdict(self) -> Verdict:
        """Whether the data are like those of the pretraining, as far as the sample can tell.

        They are where deep features are as good as any and better than those of random weights.
        """
        if self.good_until >= self.deep:
            return "different"
        if self.gain.above:
            return "similar"
        return "different" if self.gain.margin < NARROW else "unclear"


@dataclass
class _Gathered:
    """Features by stage, with targets and pictures, while they are collected."""

    features: list[list[Tensor]]
    targets: list[Tensor] = field(default_factory=list)
    groups: list[Tensor] = field(default_factory=list)


def measure(
    task: Any,
    datamodule: Any,
    images: int = 400,
    minutes: float = 3.0,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Similarity:
    """Estimates on a sample of the training split, with the task's own backbone and weights.

    Args:
        task: one of the four tasks, with pretrained weights; the first of its backbones is looked at.
        datamodule: its data.
        images: pictures of the sample, or 5 for each class where that is more.
        minutes: about so long the networks may run; the sample gets smaller where they need more, down to 60.
        seed: of the sample, the folds and the twin's weights.
        progress: is told what is going on, how many pictures are done, and of how many.

    Raises:
        UserError: the sample has one class only, or there are no pictures to measure on.
    """
    wanted = max(images, 5 * datamodule.num_classes)
    positions = chosen(datamodule.index, wanted, seed)
    if len(positions) < 2:
        raise UserError(f"{datamodule.root} has {len(positions)} training pictures: nothing can be measured on them")
    task.eval()
    first = next(iter(batches(datamodule, positions[:BATCH], BATCH)))
    positions = _affordable(task, first, positions, minutes, seed)
    twin = random_twin(task, seed)
    warm = [_input(twin, batch) for batch in batches(datamodule, positions[: WARM_BATCHES * BATCH], BATCH)]
    calibrate(_backbone(twin), warm)
    gathered = {}
    for name, one in (("pretrained", task), ("random", twin)):
        gathered[name] = _gather(one, datamodule, positions, seed, partial(progress, name))
    ends = stage_ends(_backbone(task), _input(task, first), _stages(task))
    groups = torch.cat(gathered["pretrained"].groups).numpy()
    kept = np.sort(np.random.default_rng(seed).permutation(len(groups))[:SAMPLES])
    found = {name: _estimates(one, ends, kept, seed) for name, one in gathered.items()}
    return Similarity(len(positions), found["pretrained"], found["random"], groups[kept])


def pictures_per_class(datamodule: Any) -> float:
    """Training pictures for each class; all of them where each shows many objects or pixels."""
    images = len(datamodule.index.indices("train"))
    return images / datamodule.num_classes if datamodule.task == "classification" else float(images)


def _backbone(task: Any) -> nn.Module:
    backbones: Mapping[str, nn.Module] = task.backbones
    return next(iter(backbones.values()))


def _stages(task: Any) -> list[list[str]]:
    """Names within the first backbone, stage by stage."""
    prefix, backbone = next(iter(task.backbones.items()))
    return [
        [name.removeprefix(f"{prefix}.") for name in stage] for stage in divide({prefix: backbone}).by_backbone[prefix]
    ]


def _input(task: Any, batch: dict[str, Any]) -> Tensor:
    images: Tensor = task.preprocess(batch["image"])
    return interleave(images) if task.channels_last else images


def _affordable(task: Any, batch: dict[str, Any], positions: Int64Array, minutes: float, seed: int) -> Int64Array:
    """As many of the positions as two networks can see in the time, but not fewer than LEAST."""
    backbone, images = _backbone(task), _input(task, batch)
    with torch.no_grad():
        backbone(images)  # the first pass prepares kernels
        start = time.perf_counter()
        backbone(images)
    each = (time.perf_counter() - start) / len(images)
    most = max(int(60 * minutes / (2 * each)), LEAST)
    if most >= len(positions):
        return positions
    return np.sort(np.random.default_rng(seed).permutation(positions)[:most])


def _gather(
    task: Any, datamodule: Any, positions: Int64Array, seed: int, progress: Callable[[int, int], None]
) -> _Gathered:
    """Features of all stages at the same places of the same pictures, whatever the network."""
    backbone, stages = _backbone(task), _stages(task)
    rng, seen = np.random.default_rng(seed), 0
    ends: list[str] = []
    found = _Gathered([[] for _ in stages])
    for batch in batches(datamodule, positions, BATCH):
        images = _input(task, batch)
        ends = ends or stage_ends(backbone, images, stages)
        places = regions(batch, datamodule.num_classes, rng)
        with tapped(backbone, ends) as taps, torch.no_grad():
            backbone(images)
        last = getattr(getattr(backbone, "model", backbone), "output_fmt", "NCHW") == "NHWC"
        size = (images.shape[2], images.shape[3])
        maps = [as_maps(taps.outputs[name].float(), size, last) for name in ends]
        for stage, features in enumerate(_at(maps, places, size)):
            found.features[stage].append(features.double())
        found.targets.append(places.targets)
        found.groups.append(places.image + seen)
        seen += len(images)
        progress(seen, len(positions))
    return found


def _at(maps: Sequence[Tensor], places: Regions, size: tuple[int, int]) -> list[Tensor]:
    """Features at the places, stage by stage."""
    if places.where is None:
        return [pooled(one)[places.image] for one in maps]
    if places.where.shape[1] == 4:
        return [in_boxes(one, places.image, places.where, size) for one in maps]
    # Every stage sees the same regions, those of the coarsest cells: a finer grid would be an advantage of its own.
    rows, columns = min((one.shape[2:] for one in maps), key=lambda shape: shape.numel())
    return [at_points(adaptive_avg_pool2d(one, (rows, columns)), places.image, places.where, size) for one in maps]


def _estimates(found: _Gathered, ends: Sequence[str], kept: Int64Array, seed: int) -> list[StageEstimate]:
    targets, groups = torch.cat(found.targets).numpy()[kept], torch.cat(found.groups).numpy()[kept]
    targets = targets[:, targets.any(0)]
    made = []
    for name, parts in zip(ends, found.features, strict=True):
        features: Features = torch.cat(parts).numpy()[kept]
        hits = float(neighbours(features, targets, groups).mean())
        made.append(
            StageEstimate(
                name, features.shape[1], probe(features, targets, groups, seed), hits, logme(features, targets)
            )
        )
    return made
