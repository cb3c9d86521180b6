"""Data for detection: how its training is composed, and what its evaluation shows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from lit_vision.data.augmentation import Augmentation
from lit_vision.data.base import VisionDataModule
from lit_vision.data.dataset import NATIVE_MULTIPLE, VisionDataset
from lit_vision.data.detection_dataset import DetectionDataset
from lit_vision.data.detection_training import TrainingDataset, picture_size
from lit_vision.data.geometry import Size, fit_frame, fitted_size
from lit_vision.data.sampler import EpochSampler
from lit_vision.data.sampling import ShapeSampler, TurnSampler, repeat_factors
from lit_vision.data.scales import closing_epochs, planned_epochs, training_sizes
from lit_vision.data.transforms import MIN_SIDE, Transform
from lit_vision.errors import UserError
from lit_vision.types import Sample


class DetectionDataModule(VisionDataModule):
    """Images with boxes, from COCO, Pascal VOC or YOLO files.

    Args:
        root: folder of the data set, or its JSON or YAML file; `~` and `$VARIABLES` are expanded.
        format: "auto" recognises the layout and says so; see docs/data_formats.md.
        multi_scale: each training batch draws its size between [smallest, largest] factor on `image_size`, or between
            1 - s and 1 + s; null = always `image_size`.
        rect: validation and test pad each batch only as far as its pictures need, like shapes together.
        stride: sizes of `multi_scale`, `rect` and `fit: native` are multiples of it: the network's coarsest stride.
        close_mosaic: number of last epochs, or share of the run below 1, without mosaic and mixup; null = 10, but a
            fifth of a short run; 0 = none.
        repeat_threshold: pictures of classes that less than this share of the pictures shows come several times in an
            epoch (repeat factor sampling); 0.001 in LVIS, more for fewer pictures, 0 = every picture once.
        cache_gib: GiB of decoded training pictures that stay in memory, per process and shared by its workers. Where
            all pictures fit, mosaics take their partners from all of them, else from the batch.
        augmentation: "default", "mosaic" (the default with four pictures in one, always), "none", or an Augmentation
            with your own ranges.
        kwargs: see `VisionDataModule`.
    """

    task: ClassVar[Any] = "detection"
    listed = ("boxes", "original_boxes", "labels", "crowd", "shown")
    mixes = True

    def __init__(
        self,
        root: str,
        format: str = "auto",
        *,
        multi_scale: float | tuple[float, float] | None = None,
        rect: bool = False,
        stride: int = NATIVE_MULTIPLE,
        close_mosaic: float | None = None,
        repeat_threshold: float = 0.0,
        cache_gib: float = 1.0,
        augmentation: Augmentation | Literal["default", "mosaic", "none"] = "default",
        **kwargs: Any,
    ) -> None:
        if augmentation == "mosaic":
            augmentation = replace(Augmentation.for_task("detection"), mosaic=1.0)
        super().__init__(root, format, augmentation=augmentation, **kwargs)
        named = {"close_mosaic": close_mosaic or 0, "repeat_threshold": repeat_threshold, "cache_gib": cache_gib}
        for name, value in named.items():
            if value < 0:
                raise UserError(f"data.{name} is {value:g}; give 0 or more")
        if repeat_threshold > 1:
            raise UserError(f"data.repeat_threshold is {repeat_threshold:g}; give a share of the pictures, from 0 to 1")
        if rect and self.fit != "letterbox":
            raise UserError(f"data.rect leaves out the padding of fit: letterbox, but data.fit is {self.fit}")
        if stride < 1:
            raise UserError(f"data.stride is {stride}; give the network's coarsest stride, 32 for most")
        if stride != NATIVE_MULTIPLE and multi_scale is None and not rect and self.fit != "native":
            rank_zero_info(f"data.stride {stride} has no effect: it is for multi_scale, rect and fit: native")
        self.padded_multiple, self.rect = stride, rect
        self.training_sizes = [] if multi_scale is None else training_sizes(self.image_size, multi_scale, stride)
        self.close_mosaic, self.repeat_threshold, self.cache_gib = close_mosaic, repeat_threshold, cache_gib

    # --- datasets and loaders -----------------------------------------------------------------------------------
    def make_dataset(self, **settings: Any) -> DetectionDataset:
        """A split's dataset."""
        settings |= {"index": self.index, "in_channels": self.in_channels, "depth": self.depth}
        if settings["seed"] is None:
            return DetectionDataset(**settings)
        cache = int(self.cache_gib * 2**30)
        return TrainingDataset(**settings, cache=cache, workers=self.num_workers, sizes=self.training_sizes)

    def make_transform(self, augmentation: Augmentation | None, extra: Sequence[Callable[..., Any]]) -> Transform:
        """The way from a picture to the network's input."""
        return Transform(self.image_size, self.fit, augmentation, extra, rect=self.rect)

    def make_sampler(self, dataset: VisionDataset, shuffle: bool, rank: int, world_size: int) -> EpochSampler:
        """The order of a split's images."""
        if shuffle:
            rare = self.repeat_threshold
            factors = repeat_factors(self.index, dataset.positions, rare) if rare else None
            return TurnSampler(len(dataset), self.seed, rank, world_size, factors)
        if dataset.transform.rect:
            shapes = [self._padded_shape(int(i)) for i in dataset.positions]
            return ShapeSampler(np.array(shapes, np.int64), rank, world_size)
        return super().make_sampler(dataset, shuffle, rank, world_size)

    def _padded_shape(self, i: int) -> Size:
        stride = self.padded_multiple
        height, width = fitted_size(self.fit, picture_size(self.index, i), self.image_size)
        return -(-height // stride) * stride, -(-width // stride) * stride

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled and augmented; every process gets its own share."""
        loader = super().train_dataloader()
        if self.checked:  # or the files would have to be opened for their sizes
            self._refuse_or_say_too_small()
        augmentation = self._augmentation()
        if augmentation is not None and augmentation.mixes:
            loader.dataset.closing_epoch = self._closing_epoch(len(loader))  # type: ignore[attr-defined]  # TrainingDataset
        elif self.close_mosaic:
            rank_zero_info(
                f"data.close_mosaic {self.close_mosaic:g} has no effect: data.augmentation has no mosaic and no mixup"
            )
        return loader

    def _closing_epoch(self, batches: int) -> int | None:
        """The epoch from which pictures are shown alone, since mosaics are not what the network will be used on."""
        if self.trainer is None or self.close_mosaic == 0:
            return None
        epochs = planned_epochs(self.trainer, batches)
        if epochs is None:
            rank_zero_info("mosaic stays on to the end: close_mosaic needs trainer.max_epochs or max_steps")
            return None
        closed = min(closing_epochs(self.close_mosaic, epochs), epochs)
        rank_zero_info(f"of {epochs} epochs, the last {closed} are without mosaic and mixup")
        return epochs - closed

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The test split, in order and at `image_size`, as `predict` shows pictures."""
        dataset = self.dataset("test")
        dataset.transform = Transform(self.image_size, self.fit)
        return self._loader(dataset)

    def _refuse_or_say_too_small(self) -> None:
        sizes = self._object_sizes()
        lost = int((sizes < MIN_SIDE).any(dim=1).sum())
        if not lost:
            return
        said = f"{lost:,} of the {len(sizes):,} training objects of {self.root} are less than a pixel wide or high at "
        said += f"image_size {self.image_size[0]} x {self.image_size[1]}"
        if lost == len(sizes):
            raise UserError(f"{said}, so that there is nothing to learn: set a larger data.image_size")
        rank_zero_info(f"{said}: training sees them only where it enlarges them; a larger data.image_size shows them")

    # --- anchors ------------------------------------------------------------------------------------------------
    def training_box_sizes(self) -> Tensor:
        """(N, 2) float32 widths and heights of the training split's objects in network pixels, crowds left out.

        Those of less than a pixel are left out, as in training. Augmentation is not considered: its scaling is meant to
        be symmetric about 1.
        """
        sizes = self._object_sizes()
        return sizes[(sizes >= MIN_SIDE).all(dim=1)]

    def _object_sizes(self) -> Tensor:
        index = self.index
        if index.boxes is None:
            return torch.zeros(0, 2)
        sizes = []
        for i in index.indices("train").tolist():
            own = index.span(i)
            boxes = index.boxes[own] if index.crowd is None else index.boxes[own][~index.crowd[own]]
            if len(boxes):
                height, width = picture_size(index, i)
                frame = fit_frame(self.fit, (height, width), self.image_size)
                sizes.append((boxes[:, 2:] - boxes[:, :2]) * frame[[0, 1], [0, 1]])
        return torch.from_numpy(np.concatenate(sizes)).float() if sizes else torch.zeros(0, 2)
