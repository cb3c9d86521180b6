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


def asked_for(trainer: pl.Trainer, loader: EpochLoader, split: Split) -> list[Int64Array]:
    """The batches in which this process computes features, as positions in the split.

    Kernels may round otherwise for another number of pictures. So the validation's batches are its own, and those of
    the training split, whose order differs from epoch to epoch, have its size, if only in `padded`.
    """
    sampler = cast(EpochSampler, loader.sampler)
    if split == "val":
        own = [np.array([position for _, position in keys], np.int64) for keys in cast(Any, loader.batch_sampler)]
        return own[: int(min(trainer.num_val_batches[0], len(own)))]
    positions = np.arange(sampler.length)
    if trainer.num_training_batches < len(loader):  # a short epoch of a large data set
        shown = int(trainer.num_training_batches) * cast(int, loader.batch_size) * sampler.world_size
        positions = np.sort(sampler.order()[:shown])
    return [np.array_split(positions, trainer.num_devices)[trainer.local_rank]]


def missing_batches(
    batches: Sequence[Int64Array], store: FeatureStore, hashes: FileHashes, split: Split, size: int
) -> tuple[list[Int64Array], int]:
    """Those of which features are missing, and how many features were there for other contents of their files."""
    found, changed = [], 0
    for positions in batches:
        missing, outdated = store.missing(positions, hashes.of(positions))
        changed += outdated
        if split == "val":
            found += [positions] if missing.any() else []
        else:
            rest = positions[missing]
            found += [rest[k : k + size] for k in range(0, len(rest), size)]
    return found, changed


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
