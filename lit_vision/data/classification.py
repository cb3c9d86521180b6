"""Pictures with one label each, or with several: the data module of TransferClassifier."""

from typing import Any

import numpy as np
import torch

from lit_vision.data.base import VisionDataModule
from lit_vision.data.check import class_problems
from lit_vision.data.dataset import VisionDataset
from lit_vision.data.index import Index
from lit_vision.errors import DataError
from lit_vision.types import Int64Array, Sample, UInt8Array


class ClassificationDataset(VisionDataset):
    """Pictures with `label`: () int64, or (K,) float32 of 0 and 1 where the index has several labels."""

    def labelled(self, i: int, image: UInt8Array, rng: np.random.Generator | None) -> Sample:
        """The transformed picture i with its label."""
        warped = self.transform(image, rng=rng)
        labels = self.index.labels[self.index.span(i)]
        return {
            "image": warped.image,
            "index": i,
            "frame": torch.as_tensor(warped.frame),
            "size": torch.tensor(image.shape[:2]),
            "label": self._label(labels.tolist()),
        }

    def labels_of(self, images: Int64Array) -> torch.Tensor:
        """`label` of some images of the index: (B,) int64, or (B, K) float32."""
        if not self.index.multi_label:
            return torch.from_numpy(self.index.labels[self.index.offsets[images]].astype(np.int64))
        return torch.stack([self._label(self.index.labels[self.index.span(int(i))].tolist()) for i in images])

    def _label(self, labels: list[int]) -> torch.Tensor:
        if not self.index.multi_label:
            return torch.tensor(labels[0])
        present = torch.zeros(len(self.index.class_names))
        present[labels] = 1.0
        return present


class ClassificationDataModule(VisionDataModule):
    """Pictures in a folder per class, or listed with their labels in a CSV file; see docs/classification.md."""

    task = "classification"

    def read(self) -> Index:
        """As for all tasks; then the classes are looked at, before splits are drawn that could not hold them.

        Raises:
            DataError: there is one class only, or fewer pictures than classes.
        """
        index = super().read()
        if problems := class_problems(index, self.missing_classes):
            raise DataError([*index.problems, *problems])
        return index

    @property
    def multi_label(self) -> bool:
        """Whether pictures can have several labels, or none."""
        return bool(self.index.multi_label)

    @property
    def class_counts(self) -> list[int]:
        """Training pictures of each class, K numbers."""
        spans = [self.index.labels[self.index.span(int(i))] for i in self.index.indices("train")]
        labels = np.concatenate(spans) if spans else np.zeros(0, np.int64)
        return [int(count) for count in np.bincount(labels, minlength=self.num_classes)]

    def make_dataset(self, **settings: Any) -> VisionDataset:
        """The pictures of a split with their labels."""
        return ClassificationDataset(self.index, in_channels=self.in_channels, depth=self.depth, **settings)
