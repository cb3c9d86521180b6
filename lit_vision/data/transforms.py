"""Image, boxes and masks moved together: everything geometric is one matrix, applied once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from lit_vision.data.augmentation import Augmentation
from lit_vision.data.colour import change_colors
from lit_vision.data.geometry import (
    Fit,
    Matrix,
    Size,
    clip_boxes,
    fit_frame,
    fitted_size,
    scaling,
    visible_rectangle,
    warp_boxes,
)
from lit_vision.data.restore import restore_boxes, restore_mask, restore_scores
from lit_vision.data.user_transforms import apply_user_transforms, require_v2
from lit_vision.data.warp import FILL, warp_image, warp_labels
from lit_vision.errors import UserError
from lit_vision.types import BoolArray, FloatArray, UInt8Array

__all__ = ["FILL", "Fit", "Transform", "Warped", "pad_collate", "restore_boxes", "restore_mask", "restore_scores"]


MIN_SIDE = 1.0  # pixels of the network input: objects that became smaller are left out of training


@dataclass
class Warped:
    """A sample in the network's frame.

    Args:
        image: (C, H, W) uint8.
        boxes: (N, 4) float32 xyxy, clipped; None if none were given.
        keep: (N,) bool, boxes of which enough is left; None if none were given.
        masks: (H, W) arrays by name, in the types they came in.
        frame: (2, 3) float32, original to network pixels, see types.py.
    """

    image: Tensor
    boxes: FloatArray | None
    keep: BoolArray | None
    masks: dict[str, npt.NDArray[Any]]
    frame: FloatArray


class Transform:
    """Brings a picture and its labels to the network's input.

    Without `rng` it is the deterministic transform of evaluation; with one, augmentation and `extra` take part.

    Args:
        image_size: height, width of the network input.
        fit: letterbox, stretch, crop or native, see `geometry.fit_frame`; native gives whole pictures in evaluation
            and, given an augmentation, random crops of `image_size` in training.
        augmentation: ranges of random changes in training; None = none.
        extra: your own torchvision v2 transforms, after all others, in training only. Boxes and masks go through
            them too; `frame` then leaves them out, which does not matter, since training looks nothing up with it.
        min_visible: share of a box's area that must be left for it to be kept.
        min_side: pixels of the network input that both its sides must have.
        rect: in evaluation, "letterbox" gives pictures without padding, for `pad_collate` to make batches of.

    Raises:
        UserError: fit is unknown, a size is not positive, or `extra` holds something else than v2 transforms.
    """

    def __init__(
        self,
        image_size: Size,
        fit: Fit = "letterbox",
        augmentation: Augmentation | None = None,
        extra: Sequence[Callable[..., Any]] = (),
        min_visible: float = 0.2,
        min_side: float = MIN_SIDE,
        rect: bool = False,
    ) -> None:
        if fit not in get_args(Fit):
            raise UserError(f"fit is {fit!r}; use one of {', '.join(get_args(Fit))}")
        if len(image_size) != 2 or min(image_size) < 1:
            raise UserError(f"image_size is {image_size!r}; give [height, width] in pixels")
        if rect and fit != "letterbox":
            raise UserError(f"rect leaves out the padding of fit: letterbox, but fit is {fit!r}")
        require_v2(extra)
        self.image_size: Size = (int(image_size[0]), int(image_size[1]))
        self.fit, self.augmentation, self.extra = fit, augmentation, tuple(extra)
        self.min_visible, self.min_side, self.rect = min_visible, min_side, rect

    def __call__(
        self,
        image: UInt8Array,
        boxes: FloatArray | None = None,
        masks: Mapping[str, tuple[npt.NDArray[Any], int]] | None = None,
        rng: np.random.Generator | None = None,
        focus: tuple[float, float] | None = None,
    ) -> Warped:
        """Transform one sample.

        Args:
            image: (H, W, C) uint8.
            boxes: (N, 4) xyxy, pixels of the original.
            masks: name to (array (H, W) uint8 or int32, fill for what lies outside the picture).
            rng: source of all randomness; None = evaluation.
            focus: (x, y) in pixels of the original on which a random crop is centred, see `Augmentation.draw_frame`.

        Raises:
            UserError: a mask's size is not the image's.
        """
        masks = masks or {}
        size = (image.shape[0], image.shape[1])
        for name, (mask, _) in masks.items():
            if mask.shape != size:
                raise UserError(
                    f"{name} of {mask.shape} belongs to an image of {size} (height, width); sizes must agree"
                )
        frame, image_size = self.frame(size, rng, focus=focus)
        pixels = self.paint(image, frame, image_size, rng)
        moved = None if boxes is None else warp_boxes(boxes, frame)
        clipped, keep = (None, None) if moved is None else self.clip(moved, image_size)
        labels = {name: warp_labels(mask, frame, image_size, fill) for name, (mask, fill) in masks.items()}
        warped = Warped(to_tensor(pixels), clipped, keep, labels, frame[:2].astype(np.float32))
        self.apply_extra(warped, {name: fill for name, (_, fill) in masks.items()}, rng)
        return warped

    def frame(
        self,
        size: Size,
        rng: np.random.Generator | None,
        image_size: Size | None = None,
        focus: tuple[float, float] | None = None,
    ) -> tuple[Matrix, Size]:
        """The frame of a picture of `size`, and the height and width of what it shows.

        Args:
            size: height, width of the original.
            rng: None = evaluation.
            image_size: of the network's input, where a batch has another than the ordinary.
            focus: see `Augmentation.draw_frame`.
        """
        image_size = image_size or self.image_size
        if rng is not None and self.augmentation is not None:
            return self.augmentation.draw_frame(self.fit, size, image_size, rng, focus), image_size
        if self.rect and rng is None:
            height, width = fitted_size(self.fit, size, image_size)
            return scaling(width / size[1], height / size[0]), (height, width)
        return fit_frame(self.fit, size, image_size), size if self.fit == "native" else image_size

    def paint(self, image: UInt8Array, frame: Matrix, image_size: Size, rng: np.random.Generator | None) -> UInt8Array:
        """Pixels (*image_size, C): a picture in a frame, in training with its colours changed."""
        pixels = warp_image(image, frame, image_size)
        if rng is not None and self.augmentation is not None:
            rows, columns = visible_rectangle(frame, (image.shape[0], image.shape[1]), image_size)
            if rows.start < rows.stop and columns.start < columns.stop:  # the padding around keeps its grey
                pixels[rows, columns] = change_colors(pixels[rows, columns], self.augmentation, rng)
        return pixels

    def clip(self, boxes: npt.NDArray[Any], image_size: Size) -> tuple[FloatArray, BoolArray]:
        """Boxes (N, 4) cut to the input, and (N,) which of them show enough to be kept."""
        return clip_boxes(boxes, image_size, self.min_visible, self.min_side)

    def apply_extra(self, warped: Warped, fills: Mapping[str, int], rng: np.random.Generator | None) -> None:
        """The user's own transforms, in training."""
        if rng is None or not self.extra:
            return
        moved = apply_user_transforms(self.extra, warped.image, warped.boxes, warped.masks, fills, rng)
        warped.image, boxes, warped.masks = moved
        if boxes is not None and warped.keep is not None:
            warped.boxes, large = self.clip(boxes, (warped.image.shape[-2], warped.image.shape[-1]))
            warped.keep = warped.keep & large


def to_tensor(pixels: UInt8Array) -> Tensor:
    """(C, H, W) of pixels (H, W, C)."""
    planes = np.empty((pixels.shape[2], *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))  # many times faster than permute().contiguous()
    return torch.from_numpy(planes)


def pad_collate(images: Sequence[Tensor], multiple: int = 32, fill: int = FILL) -> Tensor:
    """Stack images of different sizes: padded at the right and the bottom, so that frames stay valid.

    Args:
        images: B tensors (C, h, w) or (h, w).
        multiple: height and width of the batch are multiples of it.
        fill: value of the padding.

    Returns:
        (B, C, H, W) or (B, H, W) of the images' type.
    """
    height, width = (-(-max(image.shape[axis] for image in images) // multiple) * multiple for axis in (-2, -1))
    if all(image.shape[-2:] == (height, width) for image in images):
        return cast(Tensor, default_collate(list(images)))  # in a loader's process straight into shared memory
    batch = images[0].new_full((len(images), *images[0].shape[:-2], height, width), fill)
    for place, image in zip(batch, images, strict=True):
        place[..., : image.shape[-2], : image.shape[-1]] = image
    return batch
