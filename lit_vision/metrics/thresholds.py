"""Which thresholds make the best objects of the maps of a validation split: joint search over a grid."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from lit_vision.ops.matching import MATCHED, MISSED, THRESHOLDS, match
from lit_vision.ops.separation import Maps, Separation
from lit_vision.types import BoolArray, Int32Array, Int64Array

PIXEL = (0.3, 0.4, 0.5, 0.6, 0.7)
BORDER = (0.1, 0.2, 0.3, 0.4, 0.55, 0.7)
AREA = (0.5, 1.0, 2.0)  # times the area in force before anything was found
FARTHER = (0.0, 0.125, 0.25, 4.0, 8.0, 16.0)  # likewise, once the thresholds are known
GROUPS = 32  # of pictures, for the error of a gain
SURE = 2.0  # standard errors that a gain must be above 0
MOST_KEPT = 2**28  # pixels of the pictures that a process keeps, compressed to about a byte each
MOST_SEARCHED = 2**24  # pixels that it searches: a quarter of a minute


def grid(start: Separation, pixel: bool = True, border: bool = True, area: bool = True) -> list[Separation]:
    """All combinations of the thresholds that are to be found, those near `start` first; the others stay as in it.

    Args:
        start: what is in force where nothing is found; comes first.
        pixel: whether the pixel threshold is to be found.
        border: likewise.
        area: likewise the smallest area.
    """
    choices = product(
        PIXEL if pixel else (start.pixel_threshold,),
        BORDER if border else (start.border_threshold,),
        [start.min_area * factor for factor in AREA] if area else (start.min_area,),
    )
    found = {replace(start, pixel_threshold=p, border_threshold=b, min_area=a) for p, b, a in choices}
    return sorted({start, *found}, key=partial(_distance, start))


def wider(best: Separation, start: Separation) -> list[Separation]:
    """The best so far, then its thresholds with much smaller and larger areas than `start` has."""
    farther = {replace(best, min_area=start.min_area * factor) for factor in FARTHER}
    return sorted({best, *farther}, key=partial(_distance, best))


def _distance(start: Separation, other: Separation) -> tuple[float, Separation]:
    """How far a choice is from another: of choices that are equally good the nearest is taken."""
    shifts = abs(other.pixel_threshold - start.pixel_threshold) + abs(other.border_threshold - start.border_threshold)
    return shifts + abs(other.min_area - start.min_area) / max(start.min_area, 1) / 10, other


class ThresholdSearch(Metric):
    """Counts what each combination finds, and names the surest one; the processes' counts add up.

    The score is the mean over IoU .5:.05:.95 of TP / (TP + FP + FN), that of the 2018 Data Science Bowl and of
    StarDist, which unlike COCO's average precision needs no ranking; classes do not count. From what a combination
    gains over the first one twice its standard error is taken off, found by a jackknife over groups of pictures (Efron
    and Stein 1981, https://doi.org/10.1214/aos/1176345462): on few pictures the best of ninety owes much to luck.

    Args:
        choices: the combinations; the first one stays unless another is surely better.
    """

    full_state_update = False
    hits: Tensor
    false: Tensor
    objects: Tensor

    def __init__(self, choices: Sequence[Separation]) -> None:
        super().__init__()
        self.choices = list(choices)
        for state in ("hits", "false"):
            zeros = torch.zeros(GROUPS, len(self.choices), len(THRESHOLDS), dtype=torch.int64)
            self.add_state(state, zeros, dist_reduce_fx="sum")
        self.add_state("objects", torch.zeros(GROUPS, dtype=torch.int64), dist_reduce_fx="sum")

    def begin(self, choices: Sequence[Separation]) -> None:
        """Starts anew with other combinations, of which there are not more."""
        self.reset()
        self.choices = list(choices)

    def update(self, index: int, maps: Maps, truth: Int32Array, ignored: BoolArray | None = None) -> None:
        """Add one picture: the maps, the label map of its objects (negative in crowds), and where nothing counts."""
        group, objects = index % GROUPS, np.zeros(max(int(truth.max(initial=0)), 0), np.int64)
        self.objects[group] += len(objects)
        for k, choice in enumerate(self.choices):
            predicted = choice.instances(maps)
            labels = np.zeros(int(predicted.max(initial=0)), np.int64)
            outcomes = match(truth, objects, predicted, labels, labels.astype(np.float32), ignored).outcomes
            self.hits[group, k] += torch.from_numpy((outcomes == MATCHED).sum(0)).to(self.device)
            self.false[group, k] += torch.from_numpy((outcomes == MISSED).sum(0)).to(self.device)

    def scores(self) -> Tensor:
        """(G,) float64, of each combination; 0 where there is nothing to find and nothing found."""
        return self._shares(self.hits.sum(0), self.false.sum(0), self.objects.sum())

    def gains(self) -> tuple[Tensor, Tensor]:
        """(G,) float64 twice: what each combination scores above the first one, and the standard error of that.

        The error is 0 where all pictures are of one group: nothing is known of chance there.
        """
        filled = (self.objects[:, None] + self.hits.sum(2) + self.false.sum(2)).any(1)
        hits, false, objects = self.hits[filled], self.false[filled], self.objects[filled, None, None]
        without = self._shares(hits.sum(0) - hits, false.sum(0) - false, objects.sum(0) - objects)
        without = without - without[:, :1]
        count, scores = max(len(without), 1), self.scores()
        error = ((count - 1) / count * (without - without.mean(0)).square().sum(0)).sqrt()
        return scores - scores[0], error

    def _shares(self, hits: Tensor, false: Tensor, objects: Tensor) -> Tensor:
        shares = hits.double() / (false + objects).clamp_min(1)
        return shares[..., : len(self.choices), :].mean(-1)

    def compute(self) -> Tensor:
        """Position of the surest combination: the highest gain less twice its error; the first of equal ones."""
        gain, error = self.gains()
        return (gain - SURE * error).argmax()


@dataclass(frozen=True)
class KeptPicture:
    """What two networks said of a picture, and what is there.

    Args:
        index: of the picture.
        maps: of the networks.
        truth: (H, W) label map, negative in crowds.
        labels: (T,) classes.
        ignored: (H, W), where nothing counts.
    """

    index: int
    maps: Maps
    truth: Int32Array
    labels: Int64Array
    ignored: BoolArray


@dataclass
class KeptPictures:
    """Pictures of one validation, compressed, for as long as there is room."""

    packed: list[tuple[int, Int64Array, list[Any]]] = field(default_factory=list)
    pixels: int = 0

    def __len__(self) -> int:
        return len(self.packed)

    def add(self, picture: KeptPicture) -> bool:
        """Keeps a picture; false where there is no room for it."""
        size = picture.truth.size
        if self.pixels + size > MOST_KEPT:
            return False
        self.pixels += size
        arrays = (*picture.maps, picture.truth, picture.ignored)
        self.packed.append((picture.index, picture.labels, [_packed(array) for array in arrays]))
        return True

    def __getitem__(self, place: int) -> KeptPicture:
        index, labels, packed = self.packed[place]
        foreground, border, classes, truth, ignored = (_unpacked(*one) for one in packed)
        return KeptPicture(index, Maps(foreground, border, classes), truth, labels, ignored)

    def searched(self) -> list[int]:
        """Places of the pictures that are searched: all, or so many, evenly spread, as there is time for."""
        share = min(1.0, MOST_SEARCHED / max(self.pixels, 1))
        count = max(1, round(len(self) * share))
        return sorted({k * len(self) // count for k in range(count)}) if len(self) else []


def _packed(array: npt.NDArray[Any]) -> tuple[bytes, Any, tuple[int, ...]]:
    return zlib.compress(np.ascontiguousarray(array).tobytes(), 1), array.dtype, array.shape


def _unpacked(data: bytes, kind: Any, shape: tuple[int, ...]) -> Any:
    return np.frombuffer(zlib.decompress(data), kind).reshape(shape)
