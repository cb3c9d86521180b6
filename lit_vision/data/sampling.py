"""Orders of detection's images: rare classes more often in training, like shapes together in evaluation."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lit_vision.data.index import Index
from lit_vision.data.sampler import EpochSampler, Key, Turn
from lit_vision.types import Int64Array

_DRAW = 1  # tells the draw of the repeats from that of the order, whose seed is (seed, epoch)


def repeat_factors(index: Index, positions: Int64Array, threshold: float) -> npt.NDArray[np.float64]:
    """How often an epoch should show each image, so that rare classes are seen more.

    Repeat factor sampling (Gupta, Dollar and Girshick 2019, LVIS, https://arxiv.org/abs/1908.03195, appendix B): a
    class that a share f of the images shows has the factor max(1, sqrt(threshold / f)), an image the largest of its
    classes', and an image without objects 1. Crowd regions do not count.

    Args:
        index: annotations of the whole data set.
        positions: the images of the split, positions in the index.
        threshold: share of the images below which a class is rare; 0.001 for the 1,203 classes of LVIS.

    Returns:
        (len(positions),) factors from 1.
    """
    own = [_classes(index, int(i)) for i in positions]
    counts = np.bincount(np.concatenate(own), minlength=len(index.class_names)) if own else np.zeros(0)
    factors = np.sqrt(np.maximum(1.0, threshold * len(positions) / np.maximum(counts, 1)))
    return np.array([factors[classes].max(initial=1.0) for classes in own])


def _classes(index: Index, i: int) -> npt.NDArray[np.int32]:
    """The different classes of an image's objects."""
    span = index.span(i)
    labels = index.labels[span] if index.crowd is None else index.labels[span][~index.crowd[span]]
    return np.unique(labels)


def draw_repeats(factors: npt.NDArray[np.float64], rng: np.random.Generator) -> Int64Array:
    """Whole numbers that are the factors in the mean, and whose sum is always ceil(sum of the factors).

    Systematic sampling: each number is its factor rounded up or down, so that the epoch's length never changes. The
    factors are enlarged by the little that makes their sum whole, so none from 1 is rounded to 0.
    """
    total = int(np.ceil(factors.sum() - 1e-9))
    mixed = rng.permutation(len(factors))  # else neighbours would round alike
    start = rng.random()
    edges = np.cumsum(factors[mixed]) * (total / factors.sum()) + start
    edges[-1] = total + start  # also where the sum lost something in rounding
    passed = np.floor(edges).astype(np.int64)
    counts = np.empty(len(factors), np.int64)
    counts[mixed] = np.diff(passed, prepend=0)
    return counts


class TurnSampler(EpochSampler):
    """The training order with keys that say where they stand, each image as often as its factor asks.

    Args:
        length: number of images in the split.
        seed: with the epoch it fixes the order.
        rank: this process.
        world_size: number of processes.
        factors: (length,) from `repeat_factors`; None = every image once.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        factors: npt.NDArray[np.float64] | None = None,
    ) -> None:
        turns = length if factors is None else int(np.ceil(factors.sum() - 1e-9))
        super().__init__(turns, seed, True, rank, world_size)
        self.factors = factors

    def order(self) -> Int64Array:
        """Positions of this epoch over all processes."""
        if self.factors is None:
            return super().order()
        counts = draw_repeats(self.factors, np.random.default_rng((self.seed, self.epoch, _DRAW)))
        return np.repeat(np.arange(len(counts)), counts)[super().order()]

    def __iter__(self) -> Iterator[Key]:
        order = self.order()
        repeats = _occurrences(order)
        turns = range(self.start, self.length, self.world_size)
        # What is missing to a whole last turn is filled up with the first images of the order.
        places = ((seen, (seen + self.rank) % self.length) for seen in turns)
        return iter([Turn(self.epoch, int(order[place]), int(repeats[place]), seen) for seen, place in places])


def _occurrences(order: Int64Array) -> Int64Array:
    """How often each entry has come before it."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    first = np.searchsorted(ordered, ordered)
    found = np.empty_like(order)
    found[by_value] = np.arange(len(order)) - first
    return found


class ShapeSampler(EpochSampler):
    """The evaluation order in which images of like shapes follow each other, so that batches need little padding.

    Args:
        shapes: (N, 2) height and width of each image's input.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, shapes: Int64Array, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(len(shapes), rank=rank, world_size=world_size)
        self._sorted = np.lexsort((np.arange(len(shapes)), shapes[:, 1], shapes[:, 0]))

    def order(self) -> Int64Array:
        """Positions by shape, then by position."""
        return self._sorted
