"""Pictures with a label map: the data module of InstanceSegmenter."""

from numbers import Integral
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch

from lit_vision.data.base import VisionDataModule
from lit_vision.data.dataset import VisionDataset
from lit_vision.data.index import Index
from lit_vision.data.rasterise import rasterise
from lit_vision.data.transforms import Transform
from lit_vision.errors import UserError
from lit_vision.ops.borders import MOST_RADIUS, gap_weights, object_radii, touching_border
from lit_vision.ops.instances import areas_of, relabel
from lit_vision.types import IGNORE_INDEX, Int64Array, Sample, UInt8Array

Radius: TypeAlias = int | Literal["auto"]


class InstanceDataset(VisionDataset):
    """Pictures with `instances`, `labels`, `numbers`, `mask` and `border`, see `InstanceBatch`.

    The border is drawn after the warp, so that its width is that of the network's pixels whatever the zoom. Objects
    that the warp moved out of the picture are gone, and the others numbered anew. Crowds are -1 in `instances` and
    IGNORE_INDEX in `mask` and `border`; so is the padding, but with 0 in `instances`.

    Args:
        index: annotations with outlines, object files or label maps.
        positions: images of this split.
        transform: brings a picture and its labels to the network's input.
        border_radius: of all objects, or "auto" = by the size of each, see `ops.borders`.
        gap_weight: of the pixels in thin gaps, see `ops.borders.gap_weights`; 0 = no weights.
        gap_sigma: pixels.
        settings: as `VisionDataset`.
    """

    def __init__(
        self,
        index: Index,
        positions: Int64Array,
        transform: Transform,
        border_radius: Radius = "auto",
        gap_weight: float = 0.0,
        gap_sigma: float = 5.0,
        **settings: Any,
    ) -> None:
        super().__init__(index, positions, transform, **settings)
        self.border_radius, self.gap_weight, self.gap_sigma = border_radius, gap_weight, gap_sigma

    def labelled(self, i: int, image: UInt8Array, rng: np.random.Generator | None) -> Sample:
        """The transformed picture i with its objects."""
        objects, labels, _ = rasterise(self.index, i, (image.shape[0], image.shape[1]))
        outside = np.zeros(objects.shape, np.uint8)
        masks: dict[str, tuple[Any, int]] = {"instances": (objects, 0), "outside": (outside, IGNORE_INDEX)}
        warped = self.transform(image, masks=masks, rng=rng)
        instances, kept = relabel(warped.masks["instances"])
        labels = labels[kept - 1]
        unknown = (warped.masks["outside"] == IGNORE_INDEX) | (instances < 0)
        mask = np.concatenate([np.zeros(1, np.int64), labels + 1])[np.maximum(instances, 0)]
        if self.border_radius == "auto":
            # Whole objects decide, not what a crop leaves of them.
            areas = areas_of(objects, int(objects.max(initial=0)))[kept - 1] * abs(np.linalg.det(warped.frame[:, :2]))
            border = touching_border(instances, object_radii(areas))
        else:
            border = touching_border(instances, self.border_radius)
        sample: Sample = {
            "image": warped.image,
            "index": i,
            "frame": torch.as_tensor(warped.frame),
            "size": torch.tensor(image.shape[:2]),
            "instances": torch.from_numpy(instances),
            "labels": torch.from_numpy(labels),
            "numbers": torch.from_numpy(kept),
            "mask": torch.from_numpy(np.where(unknown, IGNORE_INDEX, mask)),
            "border": torch.from_numpy(np.where(unknown, IGNORE_INDEX, border.astype(np.int64))),
        }
        if self.gap_weight:
            sample["border_weight"] = torch.from_numpy(gap_weights(instances, self.gap_weight, self.gap_sigma))
        return sample


class InstanceDataModule(VisionDataModule):
    """Pictures whose objects have outlines: label maps, a file per object, COCO polygons or RLE, YOLO polygons.

    See `VisionDataModule` for the other arguments and docs/instances.md for the layouts.

    Args:
        root: as `VisionDataModule`.
        border_radius: pixels of the network's input within which two objects count as touching: "auto" = 2 to 4 by the
            size of each object, less for tiny ones. A number of your own, such as 2 or 3, must stay well below half the
            width of the smallest objects.
        gap_weight: how much more than others a pixel counts in the border's loss where two objects (nearly) meet; 10
            in U-Net. 0 = all alike. 3 ms for a crop of 256 px with 40 objects.
        gap_sigma: pixels; how fast that falls with the width of the gap.
        settings: as `VisionDataModule`.
    """

    task: ClassVar[Any] = "instances"
    listed = ("labels", "numbers")

    def __init__(
        self,
        root: str,
        border_radius: Radius = "auto",
        gap_weight: float = 0.0,
        gap_sigma: float = 5.0,
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        radius: Any = border_radius
        whole = isinstance(radius, Integral) and not isinstance(radius, bool)
        if radius != "auto" and not (whole and 1 <= radius <= MOST_RADIUS):
            raise UserError(
                f"data.border_radius is {border_radius!r}: give auto, or whole pixels from 1 to {MOST_RADIUS}; 2 or 3 "
                "are usual"
            )
        if gap_weight < 0 or gap_sigma <= 0:
            raise UserError(f"data.gap_weight is {gap_weight} and gap_sigma {gap_sigma}: give 0 or more, and above 0")
        self.border_radius: Radius = border_radius
        self.gap_weight, self.gap_sigma = gap_weight, gap_sigma

    def make_dataset(self, **settings: Any) -> InstanceDataset:
        """A split's dataset."""
        common: dict[str, Any] = {
            "in_channels": self.in_channels,
            "depth": self.depth,
            "border_radius": self.border_radius,
            "gap_weight": self.gap_weight,
            "gap_sigma": self.gap_sigma,
        }
        return InstanceDataset(self.index, **common, **settings)
