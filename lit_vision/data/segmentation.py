"""Pictures with a class per pixel: the data module of SemanticSegmenter."""

from typing import Any, ClassVar

import numpy as np
import torch

from lit_vision.data.base import VisionDataModule
from lit_vision.data.dataset import VisionDataset
from lit_vision.data.rasterise import class_mask, segmentation_classes
from lit_vision.types import IGNORE_INDEX, Sample, UInt8Array


class SegmentationDataset(VisionDataset):
    """Pictures with `mask`: (H, W) int64 class per pixel, IGNORE_INDEX where unknown or outside the picture."""

    def labelled(self, i: int, image: UInt8Array, rng: np.random.Generator | None) -> Sample:
        """The transformed picture i with its mask."""
        mask = class_mask(self.index, i, (image.shape[0], image.shape[1]))
        warped = self.transform(image, masks={"mask": (mask, IGNORE_INDEX)}, rng=rng)
        return {
            "image": warped.image,
            "index": i,
            "frame": torch.as_tensor(warped.frame),
            "size": torch.tensor(image.shape[:2]),
            "mask": torch.from_numpy(warped.masks["mask"].astype(np.int64)),
        }


class SegmentationDataModule(VisionDataModule):
    """Pictures with class masks, or with objects of any format, whose pixels then get their class.

    Objects are painted smaller over larger; a class "background" comes first and holds all other pixels.
    See `VisionDataModule` for the arguments and docs/segmentation.md for the layouts.
    """

    task: ClassVar[Any] = "segmentation"

    @property
    def class_names(self) -> list[str]:
        """K names; a mask value is a position in it. "background" is the first where objects are painted."""
        return list(segmentation_classes(self.index))

    def make_dataset(self, **settings: Any) -> SegmentationDataset:
        """A split's dataset."""
        return SegmentationDataset(self.index, in_channels=self.in_channels, depth=self.depth, **settings)
