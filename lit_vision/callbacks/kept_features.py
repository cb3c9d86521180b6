"""The features of a run: where they are kept, whether they are those of this network and these files, who computes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.callbacks.feature_key import body_key, body_tensors, data_key, is_random
from lit_vision.callbacks.feature_pass import Cachable, Pass, asked_for, reason
from lit_vision.data.classification import ClassificationDataset
from lit_vision.data.feature_batches import FeatureBatches, Row
from lit_vision.data.feature_store import FeatureStore, FileHashes, discard, reserve
from lit_vision.data.loader import EpochLoader
from lit_vision.data.sampler import EpochSampler
from lit_vision.networks.head_split import HeadSplit
from lit_vision.types import Split


class KeptFeatures:
    """Makes the batches of an epoch from features, and computes those that are missing before it begins.

    The processes of one machine share files in <run folder>/features, one for each split and view; another machine
    has files of its own, since a map of a file that another machine writes may be out of date.

    Args:
        trainer: of the run.
        task: its network and preprocessing.
        head: names of the network's parameters that train.
        views: random views of a picture that take turns.
        closed: whether the rest of the network stands still.
    """

    def __init__(
        self, trainer: pl.Trainer, task: Cachable, head: set[str], views: int, closed: Callable[[], bool]
    ) -> None:
        self.trainer, self.task, self.head, self.views, self.closed = trainer, task, head, views, closed
        self.parts = HeadSplit(task.network, head)
        self.folder = Path(trainer.default_root_dir) / "features"
        self.given_up = False
        self._row: Row | None = None
        self._stores: dict[str, FeatureStore] = {}
        self._hashes: dict[Split, FileHashes] = {}
        self._key = ""
        self._versions: list[int] = []

    def source(self, loader: EpochLoader, split: Split) -> FeatureBatches | None:
        """Where the pass over a split that begins takes its batches from; None = from pictures.

        All processes call it at the same time, and get the same answer.
        """
        if self.given_up or not self.closed():
            return None
        dataset, sampler = cast(ClassificationDataset, loader.dataset), cast(EpochSampler, loader.sampler)
        view = sampler.epoch % self.views if is_random(dataset) else 0
        size = min(cast(int, loader.batch_size), len(sampler))
        row = self._row = self._row or self._prove(loader, view, size)
        store = self._open(dataset, split, view, size, row)
        if store is None:
            return None
        self._fill(Pass(self.trainer, self.task, self.parts, loader, store, row, view), split, size)
        return None if self.given_up else FeatureBatches(dataset, store, row, view, self.closed)

    def delete(self) -> None:
        """Gives the space back."""
        self._stores = {}
        if self.trainer.local_rank == 0:
            discard(self.folder, f"*-{self.trainer.node_rank}-*")

    def _prove(self, loader: EpochLoader, view: int, size: int) -> Row:
        """Shows on pictures of the training split that the head on features is the whole network."""
        keys = [(view, k % len(cast(Any, loader.dataset))) for k in range(size)]
        batch: Any = loader.collate_fn([loader.dataset[cast(Any, key)] for key in keys])
        moved = self.trainer.strategy.batch_to_device(batch)
        with self.trainer.precision_plugin.forward_context(), torch.no_grad():
            pixels = self.task.preprocess(moved["image"])
            features = self.parts.verify(pixels)
            turned = self.parts.features(pixels.flip(0).contiguous(memory_format=_format(pixels))).flip(0)
        if not torch.equal(features, turned):
            rank_zero_info(
                f"features of {type(self.task.network).__name__} depend in their last bit on a picture's place in its "
                "batch: from the second epoch of a view on, the run is not bit for bit the one without cache_features"
            )
        return Row(features)

    # --- files --------------------------------------------------------------------------------------------------
    def _open(
        self, dataset: ClassificationDataset, split: Split, view: int, size: int, row: Row
    ) -> FeatureStore | None:
        key = f"{self._body()}{data_key(dataset, size)}"
        ours = [f"{split}-{v}-{self.trainer.node_rank}-{key}.features" for v in range(self.views)]
        name, failure = ours[view], None
        if self.trainer.local_rank == 0 and name not in self._stores:
            try:
                discard(self.folder, f"{split}-*-{self.trainer.node_rank}-*", kept=ours)
                reserve(self.folder / name, len(dataset), row.kind)
            except OSError as error:
                failure = reason(error, self.folder, len(dataset), row)
        answers = self._told((key, failure))
        if len({text for text, _ in answers}) > 1:
            failure = "the processes' backbones or machines differ"
        if not self._agree([failure, *(text for _, text in answers)]):
            return None
        if name not in self._stores:
            self._stores[name] = FeatureStore(self.folder / name, len(dataset), row.kind)
        return self._stores[name]

    def _fill(self, way: Pass, split: Split, size: int) -> None:
        dataset = cast(ClassificationDataset, way.loader.dataset)
        hashes = self._hashes.setdefault(split, FileHashes(dataset.path, len(dataset)))
        batches, changed = asked_for(self.trainer, way.loader, split).missing(way.store, hashes, size)
        failure = None
        try:
            way.compute(batches, size if split == "train" else 0)
        except OSError as error:
            failure = reason(error, self.folder, len(dataset), way.row)
        answers = self._told((failure, changed, sum(map(len, batches))))
        computed, outdated = (int(np.sum([answer[k] for answer in answers])) for k in (2, 1))
        if self._agree([answer[0] for answer in answers]) and computed:
            others = f"; {outdated} had features of other contents of their files" if outdated else ""
            rank_zero_info(f"features of {computed} pictures of the {split} split computed, view {way.view}{others}")

    def _body(self) -> str:
        """Key of the weights; a change in place counts up a tensor's version."""
        tensors = body_tensors(self.task.network, self.head)
        versions = [tensor._version for tensor in tensors.values()]
        if versions != self._versions:
            precision = str(self.trainer.precision)
            self._key, self._versions = body_key(self.task.network, self.task.preprocess, tensors, precision), versions
        return self._key

    # --- several processes --------------------------------------------------------------------------------------
    def _told(self, answer: Any) -> list[Any]:
        """What every process says."""
        answers: list[Any] = [answer] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(answers, answer)
        return answers

    def _agree(self, failures: list[str | None]) -> bool:
        """Whether nothing has failed anywhere; otherwise the run goes on without features."""
        failure = next((text for text in failures if text), None)
        if failure is not None:
            self.give_up(failure)
        return failure is None

    def give_up(self, failure: str) -> None:
        """Goes on from pictures, for the rest of this run."""
        rank_zero_info(f"{failure}: training goes on from pictures")
        self.given_up = True
        self.delete()


def _format(images: torch.Tensor) -> torch.memory_format:
    return torch.contiguous_format if images.is_contiguous() else torch.channels_last
