"""Which images an epoch shows, and in which order: a pure function of (seed, epoch), split over processes."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DistributedSampler

from lit_vision.types import Int64Array

Key = tuple[int, ...]  # epoch, position; for detection's training a Turn
PADDING_EPOCH = -1


class Turn(NamedTuple):
    """A key that also says where in the epoch it stands.

    Args:
        epoch: the epoch.
        position: of the image in the split.
        repeat: how often the epoch has shown the image before, where it shows it more than once.
        seen: images that all processes together had seen before this turn came; the same on all of them.
    """

    epoch: int
    position: int
    repeat: int
    seen: int


class EpochSampler(DistributedSampler[Key]):
    """Yields (epoch, position) keys, so that a worker knows the epoch and draws the augmentation from it.

    Every process gets the same number of keys: the first ones are repeated where the division leaves a rest. In
    evaluation (not shuffled) a repeat has epoch PADDING_EPOCH, and its sample is not counted. It is a
    DistributedSampler by type, so that Lightning never wraps it in one of its own.

    Args:
        length: number of images in the split.
        seed: with the epoch it fixes the order.
        shuffle: a new order each epoch; otherwise 0, 1, 2, ...
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, length: int, seed: int = 0, shuffle: bool = False, rank: int = 0, world_size: int = 1) -> None:
        positions: Any = range(length)  # DistributedSampler asks a dataset for its length only
        super().__init__(positions, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        self.length, self.world_size = length, world_size
        self.start = (
            0  # images of the epoch's order that all processes together have seen; the next pass leaves them out
        )

    def order(self) -> Int64Array:
        """Positions of this epoch over all processes."""
        if not self.shuffle:
            return np.arange(self.length)
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.length)

    def __len__(self) -> int:
        return -(-self.length // self.world_size)

    def __iter__(self) -> Iterator[Key]:
        order = self.order()
        rest = order[self.start :]
        missing = -len(rest) % self.world_size
        keys = [(self.epoch, int(position)) for position in rest]
        repeats = [int(position) for position in np.resize(order, missing)] if missing else []
        keys += [(self.epoch if self.shuffle else PADDING_EPOCH, position) for position in repeats]
        return iter(keys[self.rank :: self.world_size])
