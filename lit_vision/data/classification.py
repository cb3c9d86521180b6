"""Pictures with one label each, or with several: the data module of TransferClassifier."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.data.base import VisionDataModule
from lit_vision.data.check import class_problems
from lit_vision.data.crops import BACKGROUND, ObjectCrops, crop_names, crops_of, jittered, whole_pixels
from lit_vision.data.dataset import VisionDataset
from lit_vision.data.geometry import translation
from lit_vision.data.index import Index
from lit_vision.data.picture_store import SharedPictures
from lit_vision.errors import DataError, UserError
from lit_vision.types import Int64Array, Sample, UInt8Array


class ClassificationDataset(VisionDataset):
    """Pictures with `label`: () int64, or (K,) float32 of 0 and 1 where the index has several labels.

    Where the index has boxes, a picture is what its box shows of its file; `frame` and `size` are those of the file.

    Args:
        jitter: share by which boxes move in training, see `ObjectCrops`.
        cache: bytes for decoded files of crops that stay in memory.
        workers: loader processes, which share that memory.
        settings: those of `VisionDataset`.
    """

    def __init__(self, *, jitter: float = 0.0, cache: int = 0, workers: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.jitter = jitter
        self._last: tuple[int, UInt8Array] | None = None  # of crops, neighbours are often of one file
        self.store: SharedPictures | None = None
        if self.index.boxes is not None:
            # In a shuffled epoch a file's crops lie far apart, and each would decode the whole of it again.
            self._places, first = self._files_of_crops()
            shapes = np.insert(self.index.sizes[first].astype(np.int64), 2, self.in_channels, axis=1)
            self.store = SharedPictures(shapes, cache, workers)

    def _files_of_crops(self) -> tuple[Int64Array, Int64Array]:
        """The place of each crop's file among the split's files (-1 in other splits), and a crop of each file."""
        places, first = np.full(len(self.index), -1, np.int64), []
        before = None
        for i in self.positions.tolist():  # the crops of a file follow each other
            file = self.index.files.raw(i)
            if file != before:
                first.append(i)
            places[i], before = len(first) - 1, file
        return places, np.array(first, np.int64)

    def read(self, i: int) -> UInt8Array:
        """(H, W, C): the file of picture i of the index, of crops not to be written to."""
        if self.store is None:
            return super().read(i)
        place = int(self._places[i])
        if self._last is None or self._last[0] != place:
            read = super().read
            self._last = (place, self.store.get(place, lambda _: (read(i), 1))[0])
        return self._last[1]

    def labelled(self, i: int, image: UInt8Array, rng: np.random.Generator | None) -> Sample:
        """The transformed picture i with its label."""
        x1, y1, x2, y2 = self._region(i, image, rng)
        warped = self.transform(np.ascontiguousarray(image[y1:y2, x1:x2]), rng=rng)
        labels = self.index.labels[self.index.span(i)]
        frame = np.vstack([warped.frame, [0, 0, 1]]) @ translation(-x1, -y1)
        return {
            "image": warped.image,
            "index": i,
            "frame": torch.from_numpy(frame[:2].astype(np.float32)),
            "size": torch.tensor(image.shape[:2]),
            "label": self._label(labels.tolist()),
        }

    def _region(self, i: int, image: UInt8Array, rng: np.random.Generator | None) -> tuple[int, ...]:
        """x1, y1, x2, y2 of what is shown of a file."""
        size = (image.shape[0], image.shape[1])
        if self.index.boxes is None:
            return 0, 0, size[1], size[0]
        box = self.index.boxes[i]
        if rng is not None and self.jitter:
            box = jittered(box, self.jitter, rng)
        return tuple(int(edge) for edge in whole_pixels(box, size))

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
    """Pictures in a folder per class, listed with their labels in a CSV file, or objects cut out of larger pictures.

    See docs/classification.md.

    Args:
        root: folder of the data set, see `VisionDataModule`.
        crops: how the objects of a data set with boxes (COCO, Pascal VOC, YOLO) become pictures; null = as
            `ObjectCrops` does by itself.
        settings: those of `VisionDataModule`.
    """

    task = "classification"

    def __init__(self, root: str, crops: ObjectCrops | None = None, **settings: Any) -> None:
        super().__init__(root, **settings)
        self.crops = crops

    @cached_property
    def index(self) -> Index:
        """Pictures with labels and splits; crops are made after the split, so that a picture's are all in one."""
        index: Index = super().index
        if index.boxes is None:
            return index
        found = crops_of(index, self.crops or ObjectCrops(), self.seed)
        rank_zero_info(found.notes[-1])
        return found

    def read(self) -> Index:
        """As for all tasks; then the classes are looked at, before splits are drawn that could not hold them.

        Raises:
            DataError: there is one class only, or fewer pictures than classes.
            UserError: crops are set for pictures that have no boxes.
        """
        index = super().read()
        if index.boxes is None:
            if self.crops is not None:
                raise UserError(
                    f"data.crops is set, but {self.root}, read as {index.format}, has no boxes: leave it out"
                )
            problems = class_problems(index, self.missing_classes)
        else:
            problems = self._problems_of_crops(index)
        if problems:
            raise DataError([*index.problems, *problems])
        return index

    def _problems_of_crops(self, index: Index) -> list[str]:
        background = (self.crops or ObjectCrops()).background
        if len(index.class_names) > 1 or background:
            return []
        return [f"{self.root} has one class only: set data.crops.background to tell it from the {BACKGROUND}."]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """As for all tasks; of crops, the margin too."""
        margin = {} if self.index.boxes is None else {"margin": (self.crops or ObjectCrops()).margin}
        return {**super().preprocessing, **margin}

    @cached_property
    def _crop_names(self) -> list[str]:
        return crop_names(self.index)

    def name_of(self, i: int) -> str:
        """A picture's own name: its file, and for crops the number of the crop in it."""
        return super().name_of(i) if self.index.boxes is None else self._crop_names[i]

    def picture_of(self, i: int) -> UInt8Array:
        """(H, W, C) uint8: picture i, or what its box shows of it."""
        image = super().picture_of(i)
        if self.index.boxes is None:
            return image
        x1, y1, x2, y2 = self.index.boxes[i].astype(int).tolist()
        return image[y1:y2, x1:x2]

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
        crops = self.crops or ObjectCrops()
        settings |= {"index": self.index, "in_channels": self.in_channels, "depth": self.depth}
        # Evaluation goes through the files in order, and needs each for its own crops alone.
        cache = 0 if settings["seed"] is None else int(crops.cache_gib * 2**30)
        return ClassificationDataset(jitter=crops.jitter, cache=cache, workers=self.num_workers, **settings)
