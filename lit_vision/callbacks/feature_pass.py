"""One pass of a closed backbone over the pictures whose features are missing."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from lit_vision.data.feature_batches import Row, picture_loader
from lit_vision.data.feature_store import FeatureStore, FileHashes, space_needed
from lit_vision.data.loader import EpochLoader
from lit_vision.data.sampler import EpochSampler
from lit_vision.networks.head_split import HeadSplit
from lit_vision.types import Int64Array, Split

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Cachable(Protocol):
    """What a task has whose head can be trained on features: pixels -> preprocess -> network -> logits."""

    network: nn.Module
    preprocess: nn.Module


@dataclass(frozen=True)
class Asked:
    """Positions in a split whose features this process sees to.

    Kernels may round otherwise for another number of pictures, and some for another place among them (an activation
    whose last few numbers do not fill a vector). So what an epoch shows is computed in the very batches in which it
    is shown, as far as nothing of them is there yet.

    Args:
        batches: that this process is going to show, in this order.
        rest: what else has to be there.
        whole: batches are computed whole if anything of them is missing; else only if all of it is.
    """

    batches: list[Int64Array]
    rest: Int64Array
    whole: bool

    def missing(self, store: FeatureStore, hashes: FileHashes, size: int) -> tuple[list[Int64Array], int]:
        """What has to be computed, in batches of at most `size`, and how many features were there of other contents."""
        found, left, changed = [], [self.rest], 0
        for positions in self.batches:
            missing, outdated = store.missing(positions, hashes.of(positions))
            changed += outdated
            if missing.all() or (self.whole and missing.any()):
                found.append(positions)
            else:
                left.append(positions[missing])
        rest = np.concatenate(left)
        missing, outdated = store.missing(rest, hashes.of(rest))
        rest, changed = rest[missing], changed + outdated
        return found + [rest[k : k + size] for k in range(0, len(rest), size)], changed


def asked_for(trainer: pl.Trainer, loader: EpochLoader, split: Split) -> Asked:
    """What a pass over a split that is about to begin needs; the processes of a machine share the rest."""
    sampler, none = cast(EpochSampler, loader.sampler), np.zeros(0, np.int64)
    own = [np.array([position for _, position in keys], np.int64) for keys in cast(Any, loader.batch_sampler)]
    if split == "val":
        return Asked(own[: int(min(trainer.num_val_batches[0], len(own)))], none, whole=True)
    if trainer.num_training_batches < len(loader):  # a short epoch of a large data set
        return Asked(own[: int(trainer.num_training_batches)], none, whole=False)
    first, count = trainer.node_rank * trainer.num_devices, sum(map(len, own))
    order = sampler.order()[sampler.start :]
    order = np.concatenate([order, np.resize(sampler.order(), -len(order) % sampler.world_size)])
    shown = [order[rank :: sampler.world_size][:count] for rank in range(first, first + trainer.num_devices)]
    rest = np.setdiff1d(np.arange(sampler.length), np.concatenate(shown))
    return Asked(own, np.array_split(rest, trainer.num_devices)[trainer.local_rank], whole=False)


@dataclass(frozen=True)
class Pass:
    """How features get into a store.

    Args:
        trainer: its strategy moves the batches.
        task: preprocesses the pictures.
        parts: give the features.
        loader: of the split.
        store: to be filled.
        row: how a row is written.
        view: epoch of the augmentation.
    """

    trainer: pl.Trainer
    task: Cachable
    parts: HeadSplit
    loader: EpochLoader
    store: FeatureStore
    row: Row
    view: int

    def compute(self, batches: Sequence[Int64Array], size: int = 0) -> None:
        """Fills the rows of these batches; smaller ones than `size` are filled up with repeats.

        Raises:
            OSError: the store could not be written.
        """
        filled = [np.resize(positions, max(size, len(positions))) for positions in batches]
        with _bar(self.trainer) as bar:
            doing = bar.add_task("computing features", total=len(batches))
            for positions, batch in zip(batches, picture_loader(self.loader, filled, self.view), strict=True):
                self._write(positions, batch)
                bar.advance(doing)

    def _write(self, positions: Int64Array, batch: Any) -> None:
        contents = batch.pop("content").numpy().view(np.uint64).tolist()
        moved = self.trainer.strategy.batch_to_device(batch)
        with self.trainer.precision_plugin.forward_context(), torch.no_grad():
            features = self.parts.features(self.task.preprocess(moved["image"]))
        rows, real = self.row.pack(features, moved["frame"], moved["size"]), len(positions)
        self.store.write(positions.tolist(), rows[:real], contents[:real])


def _bar(trainer: pl.Trainer) -> Progress:
    # A console of its own: Lightning's bar already lives on the usual one, which takes a single one.
    hidden = not trainer.is_global_zero or trainer.progress_bar_callback is None
    return Progress(console=Console(stderr=True), transient=True, disable=hidden)


def reason(error: OSError, folder: Path, rows: int, row: Row) -> str:
    """Why features cannot be kept, for a sentence."""
    if error.errno in FULL:
        return f"the cache of features {space_needed(folder, rows, row.kind)} ({error.strerror})"
    return f"the cache of features cannot be written in {folder} ({error.strerror})"
