"""Batches of kept features have the keys, labels and order of those from the files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_vision.data.classification import ClassificationDataModule, ClassificationDataset
from lit_vision.data.dataset import Collate
from lit_vision.data.feature_batches import FeatureBatches, LateImages, Row, picture_loader
from lit_vision.data.feature_store import FeatureStore, reserve
from lit_vision.data.sampler import PADDING_EPOCH
from lit_vision.tasks.base import without_padding


def features_of(images: Tensor) -> Tensor:
    return torch.stack([images.float().mean((1, 2, 3)), images.float().std((1, 2, 3))], 1)


@pytest.fixture
def module(drawn: Path) -> ClassificationDataModule:
    return ClassificationDataModule(
        str(drawn / "classification"), image_size=48, batch_size=3, num_workers=0, missing_classes="note"
    )


def batches(module: ClassificationDataModule, folder: Path, split: Any = "train", view: int = 2) -> FeatureBatches:
    """All features of a split in one view."""
    dataset = module.dataset(split, augmented=split == "train")
    assert isinstance(dataset, ClassificationDataset)
    whole: Any = Collate()([dataset[(view, k)] for k in range(len(dataset))])
    row = Row(features_of(whole["image"]))
    reserve(folder / "rows", len(dataset), row.kind)
    store = FeatureStore(folder / "rows", len(dataset), row.kind)
    rows = row.pack(features_of(whole["image"]), whole["frame"], whole["size"])
    store.write(range(len(dataset)), rows, [1] * len(dataset))
    return FeatureBatches(dataset, store, row, view, lambda: True)


def test_a_batch_is_that_of_the_pictures(module: ClassificationDataModule, tmp_path: Path) -> None:
    source = batches(module, tmp_path)
    keys = [(2, 5), (2, 0), (2, 3)]
    batch: Any = source.batch(keys)
    pictures: Any = Collate()([source.dataset[key] for key in keys])
    assert batch.keys() == {*pictures.keys(), "features"}
    for name in ("index", "label", "frame", "size"):
        assert torch.equal(batch[name], pictures[name])
        assert batch[name].dtype == pictures[name].dtype
    assert torch.equal(batch["features"], features_of(pictures["image"]))
    assert torch.equal(batch["image"].tensor(), pictures["image"])
    assert torch.equal(batch["image"][1], pictures["image"][1])
    assert not torch.equal(source.dataset[(0, 5)]["image"], pictures["image"][0])  # another view is another picture


def test_padding_is_left_out(module: ClassificationDataModule, tmp_path: Path) -> None:
    source = batches(module, tmp_path, "val", 0)
    batch: Any = source.batch([(7, 1), (7, 2), (PADDING_EPOCH, 0)])
    assert batch["index"].tolist() == [*source.dataset.positions[[1, 2]].tolist(), -1]
    real: Any = without_padding(batch)
    assert len(real["features"]) == len(real["label"]) == len(real["image"]) == 2
    assert isinstance(real["image"], LateImages)  # still not decoded
    assert torch.equal(real["image"][1], source.dataset[2]["image"])


def test_several_labels(module: ClassificationDataModule) -> None:
    dataset: Any = module.dataset("train")
    singles = dataset.labels_of(dataset.positions)
    assert torch.equal(singles, torch.stack([dataset[k]["label"] for k in range(len(dataset))]))
    from dataclasses import replace

    dataset.index = replace(dataset.index, multi_label=True)
    several = dataset.labels_of(dataset.positions)
    assert several.dtype == torch.float32
    assert torch.equal(several.argmax(1), singles)
    assert several.sum() == len(singles)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_features_keep_their_type_and_bits(kind: torch.dtype) -> None:
    features = torch.randn(4, 3, 2, 2).to(kind).contiguous(memory_format=torch.channels_last)
    row = Row(features)
    rows = row.pack(features, torch.zeros(4, 2, 3), torch.ones(4, 2, dtype=torch.int64))
    again = row.unpack(rows[[3, 0]])["features"]
    assert again.dtype == kind
    assert torch.equal(again, features[[3, 0]])


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_come_with_the_hash_of_their_file(module: ClassificationDataModule, workers: int) -> None:
    from lit_vision.data.feature_store import content_hash

    module.num_workers = workers
    loader: Any = module.train_dataloader()
    given = list(picture_loader(loader, [np.array([3, 1]), np.array([2])], 1))
    assert [len(batch["image"]) for batch in given] == [2, 1]
    assert torch.equal(given[0]["image"][1], loader.dataset[(1, 1)]["image"])
    assert given[0]["content"].numpy().view(np.uint64).tolist() == [
        content_hash(loader.dataset.path(k)) for k in (3, 1)
    ]
