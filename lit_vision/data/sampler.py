"""Which images an epoch shows, and in which order: a pure function of (seed, epoch), split over processes."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from lit_vision.types import Int64Array

Key = tuple[int, int]
PADDING_EPOCH = -1


class EpochSampler(Sampler[Key]):
    """Yields (epoch, position) keys, so that a worker knows the epoch and draws the augmentation from it.

    Every process gets the same number of keys: the first ones are repeated where the division leaves a rest. In
    evaluation (not shuffled) a repeat has epoch PADDING_EPOCH, and its sample is not counted.

    Args:
        length: number of images in the split.
        seed: with the epoch it fixes the order.
        shuffle: a new order each epoch; otherwise 0, 1, 2, ...
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, length: int, seed: int = 0, shuffle: bool = False, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def order(self) -> Int64Array:
        """Positions of this epoch over all processes."""
        if not self.shuffle:
            return np.arange(self.length)
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.length)

    def __len__(self) -> int:
        return -(-self.length // self.world_size)

    def __iter__(self) -> Iterator[Key]:
        order = self.order()
        missing = len(self) * self.world_size - self.length
        keys = [(self.epoch, int(position)) for position in order]
        repeats = [int(position) for position in np.resize(order, missing)] if missing else []
        keys += [(self.epoch if self.shuffle else PADDING_EPOCH, position) for position in repeats]
        return iter(keys[self.rank :: self.world_size])
