"""Batches of kept features in the place of pictures, with the same keys, labels and order as from the files."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_vision.data.classification import ClassificationDataset
from lit_vision.data.dataset import Collate, VisionDataset
from lit_vision.data.feature_store import FeatureStore, Rows, content_hash
from lit_vision.data.loader import EpochLoader, StoppableLoader, start_worker
from lit_vision.data.sampler import PADDING_EPOCH, Key
from lit_vision.types import Batch, Int64Array, Sample


class LateImages:
    """The pictures of a batch that are decoded only if someone asks for them.

    Args:
        dataset: decodes.
        keys: of the batch's pictures.
    """

    ndim = 4  # what it is as a tensor

    def __init__(self, dataset: Dataset[Sample], keys: Sequence[Key]) -> None:
        self.dataset, self.keys = dataset, list(keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> Tensor:
        return self.dataset[self.keys[i]]["image"]

    def take(self, positions: Sequence[int]) -> "LateImages":
        """Some of them."""
        return LateImages(self.dataset, [self.keys[k] for k in positions])

    def tensor(self) -> Tensor:
        """All of them, (B, C, H, W) uint8."""
        return torch.stack([self[i] for i in range(len(self))])


class FeatureBatches:
    """Makes an epoch's batches from a store.

    Args:
        dataset: of the split.
        store: row k holds the features of picture k of the split.
        row: how a row is read.
        view: epoch whose augmentation the features show.
        current: whether features may be used still; asked before each batch.
    """

    def __init__(
        self,
        dataset: ClassificationDataset,
        store: FeatureStore,
        row: "Row",
        view: int,
        current: Callable[[], bool],
    ) -> None:
        self.dataset, self.store, self.row, self.view, self.current = dataset, store, row, view, current

    def batch(self, keys: Sequence[Key]) -> Batch:
        """The batch that the pictures of these keys would make, with `features` beside pictures that nobody reads."""
        positions = np.array([position for _, position in keys], np.int64)
        index = self.dataset.positions[positions]
        padding = np.array([epoch == PADDING_EPOCH for epoch, _ in keys])
        found = {
            "image": LateImages(self.dataset, [(self.view, int(position)) for position in positions]),
            "index": torch.from_numpy(np.where(padding, -1, index)),
            "label": self.dataset.labels_of(index),
            **self.row.unpack(self.store.read(positions)),
        }
        return cast(Batch, found)


class Row:
    """How the features of a picture, its frame and its size lie in a row of a store.

    Args:
        features: of some batch; says the shape and the type.
    """

    def __init__(self, features: Tensor) -> None:
        self.shape, self.type = tuple(features.shape[1:]), features.dtype
        kind = self._as_numpy(features[:0]).dtype
        fields: list[Any] = [("features", kind, self.shape), ("frame", "<f4", (2, 3)), ("size", "<i8", (2,))]
        self.kind = np.dtype(fields)

    def _as_numpy(self, features: Tensor) -> Any:
        features = features.detach().cpu().contiguous()
        return (features.view(torch.int16) if features.dtype == torch.bfloat16 else features).numpy()

    def pack(self, features: Tensor, frame: Tensor, size: Tensor) -> Rows:
        """Rows of a batch."""
        rows = np.zeros(len(features), self.kind)
        rows["features"], rows["frame"], rows["size"] = self._as_numpy(features), frame.cpu(), size.cpu()
        return rows

    def unpack(self, rows: Rows) -> dict[str, Tensor]:
        """The batch's tensors of rows."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(rows[name])) for name in ("features", "frame", "size")}
        if self.type == torch.bfloat16:
            tensors["features"] = tensors["features"].view(torch.bfloat16)
        return tensors


class _Hashed(Dataset[Any]):
    """Samples with the hash of their file as `content`, taken before it is decoded: a change in between shows."""

    def __init__(self, dataset: VisionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Key) -> dict[str, Any]:
        content = content_hash(self.dataset.path(key[1]))
        return {**self.dataset[key], "content": np.uint64(content).view(np.int64).item()}


def picture_loader(loader: EpochLoader, chunks: Sequence[Int64Array], view: int) -> StoppableLoader:
    """Batches of these positions of a loader's dataset as a view shows them, decoded as the loader does.

    Args:
        loader: of the split; its processes and its way to make batches.
        chunks: positions of each batch.
        view: epoch of the augmentation.
    """
    keys = [[(view, int(position)) for position in chunk] for chunk in chunks]
    return StoppableLoader(
        cast(Any, _Hashed(cast(VisionDataset, loader.dataset))),
        batch_sampler=keys,
        num_workers=min(loader.num_workers, len(keys)),
        collate_fn=cast(Collate, loader.collate_fn),
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )
