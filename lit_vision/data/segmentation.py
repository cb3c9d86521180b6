"""Pictures with a class per pixel: the data module of SemanticSegmenter."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from lit_vision.data.augmentation import Augmentation
from lit_vision.data.base import VisionDataModule, default_workers
from lit_vision.data.dataset import VisionDataset
from lit_vision.data.decode import read_size
from lit_vision.data.rasterise import class_mask, segmentation_classes
from lit_vision.errors import UserError
from lit_vision.types import IGNORE_INDEX, Int64Array, Sample, UInt8Array


class SegmentationDataset(VisionDataset):
    """Pictures with `mask`: (H, W) int64 class per pixel, IGNORE_INDEX where unknown or outside the picture.

    Args:
        args: as `VisionDataset`.
        rare_crops: share of the training crops that are centred on a pixel of a drawn class, see `focus_on_class`.
        class_pixels: (K,) pixels of each class in the training split; only where rare_crops is above 0.
        settings: as `VisionDataset`.
    """

    def __init__(
        self, *args: Any, rare_crops: float = 0.0, class_pixels: Sequence[int] | None = None, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.rare_crops, self.class_pixels = rare_crops, class_pixels
        self.num_classes = len(segmentation_classes(self.index))

    def labelled(self, i: int, image: UInt8Array, rng: np.random.Generator | None) -> Sample:
        """The transformed picture i with its mask.

        Raises:
            UserError: the mask holds a number that is no class.
        """
        mask = class_mask(self.index, i, (image.shape[0], image.shape[1]))
        focus = None
        if rng is not None and self.class_pixels is not None and rng.random() < self.rare_crops:
            focus = focus_on_class(mask, self.class_pixels, rng)
        warped = self.transform(image, masks={"mask": (mask, IGNORE_INDEX)}, rng=rng, focus=focus)
        seen = warped.masks["mask"]
        wrong = seen[(seen >= self.num_classes) & (seen != IGNORE_INDEX)]
        if wrong.size:
            raise UserError(
                f"the mask of {self.index.path(i)} has the value {wrong[0]}, but there are {self.num_classes} classes, "
                f"0 to {self.num_classes - 1}: correct the mask, add class names, or set ignore_index"
            )
        return {
            "image": warped.image,
            "index": i,
            "frame": torch.as_tensor(warped.frame),
            "size": torch.tensor(image.shape[:2]),
            "mask": torch.from_numpy(seen.astype(np.int64)),
        }


def focus_on_class(
    mask: UInt8Array, class_pixels: Sequence[int], rng: np.random.Generator
) -> tuple[float, float] | None:
    """A pixel of a class that is in the picture: rare classes are drawn more often, pixels of a class alike.

    Args:
        mask: (H, W) classes; what is ignored is not drawn.
        class_pixels: (K,) pixels of each class in the whole training split; a class is drawn with a probability that
            is proportional to the inverse.
        rng: source of the randomness.

    Returns:
        (x, y) of the pixel's centre; None where no class is in the picture.
    """
    here = np.bincount(mask.ravel(), minlength=256)[: len(class_pixels)]
    chances = np.where(here > 0, 1 / np.maximum(class_pixels, 1), 0.0)
    if chances.sum() == 0:
        return None
    chosen = int(rng.choice(len(chances), p=chances / chances.sum()))
    place = int(rng.integers(here[chosen]))
    below = np.cumsum(np.count_nonzero(mask == chosen, axis=1))  # two steps: no list of all its pixels
    y = int(np.searchsorted(below, place, side="right"))
    x = int(np.flatnonzero(mask[y] == chosen)[place - (int(below[y - 1]) if y else 0)])
    return x + 0.5, y + 0.5


class SegmentationDataModule(VisionDataModule):
    """Pictures with class masks, or with objects of any format, whose pixels then get their class.

    Objects are painted smaller over larger; a class "background" comes first and holds all other pixels.
    See `VisionDataModule` for the other arguments and docs/segmentation.md for the layouts.

    Args:
        root: as `VisionDataModule`.
        rare_crops: share of the training crops that are centred on a pixel of a class, rare classes more often; needs
            fit: native, or an augmentation with crop_area.
        settings: as `VisionDataModule`.
    """

    task: ClassVar[Any] = "segmentation"

    def __init__(self, root: str, rare_crops: float = 0.0, **settings: Any) -> None:
        super().__init__(root, **settings)
        if not 0 <= rare_crops <= 1:
            raise UserError(f"data.rare_crops is {rare_crops}: give a share of the crops, from 0 to 1")
        crops = isinstance(self.augmentation, Augmentation) and self.augmentation.crop_area is not None
        if rare_crops and self.fit != "native" and not crops:
            raise UserError(f"data.rare_crops is {rare_crops}, but fit: {self.fit} makes no crops: set fit: native")
        self.rare_crops = rare_crops

    @property
    def class_names(self) -> list[str]:
        """K names; a mask value is a position in it. "background" is the first where objects are painted."""
        return list(segmentation_classes(self.index))

    @cached_property
    def class_pixels(self) -> list[int]:
        """(K,) pixels of each class in the masks of the training split, at their original size."""
        positions = self.index.indices("train").tolist()
        with ThreadPoolExecutor(default_workers()) as pool:
            total = sum(pool.map(self._count_pixels, positions), np.zeros(256, np.int64))
        return [int(count) for count in total[: self.num_classes]]

    def _count_pixels(self, i: int) -> Int64Array:
        mask = class_mask(self.index, i, read_size(self.index.path(i)))
        return np.bincount(mask.ravel(), minlength=256)  # OpenCV's histogram counts in float32: wrong from 2**24 on

    def make_dataset(self, **settings: Any) -> SegmentationDataset:
        """A split's dataset."""
        rare: dict[str, Any] = {}
        if self.rare_crops and settings.get("seed") is not None:
            rare = {"rare_crops": self.rare_crops, "class_pixels": self.class_pixels}
        return SegmentationDataset(self.index, in_channels=self.in_channels, depth=self.depth, **rare, **settings)
