"""The user's own torchvision v2 transforms: image, boxes and masks go through them together."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_vision.errors import UserError
from lit_vision.types import FloatArray

Masks = dict[str, npt.NDArray[Any]]


def require_v2(transforms: Sequence[Callable[..., Any]]) -> None:
    """Only v2 transforms move boxes and masks along with the picture.

    Raises:
        UserError: one is something else; the message names it.
    """
    if not transforms:
        return
    from torchvision.transforms import v2  # here, because it costs a second that most runs need not spend

    for transform in transforms:
        if not isinstance(transform, v2.Transform):
            kind = f"{type(transform).__module__}.{type(transform).__name__}"
            raise UserError(
                f"transforms: {kind} is no torchvision.transforms.v2 transform; use or subclass one of those"
            )


def apply_user_transforms(
    transforms: Sequence[Callable[..., Any]],
    image: Tensor,
    boxes: FloatArray | None,
    masks: Masks,
    fills: Mapping[str, int],
    rng: np.random.Generator,
) -> tuple[Tensor, FloatArray | None, Masks]:
    """Apply v2 transforms in order, with all they can draw from seeded by `rng`.

    Where a transform uncovers something, masks get their own fill as long as the transform's fill for masks is 0.

    Args:
        transforms: v2 transforms that keep size, type and number of boxes.
        image: (C, H, W) uint8.
        boxes: (N, 4) float32 xyxy, or None.
        masks: (H, W) integer arrays by name.
        fills: what lies outside, for each mask.
        rng: source of all randomness.

    Raises:
        UserError: a transform changed the size, the type or the number of boxes.
    """
    from torchvision import tv_tensors

    height, width = image.shape[-2:]
    sample: dict[str, Any] = {"image": tv_tensors.Image(image)}
    if boxes is not None:
        sample["boxes"] = tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=(height, width)
        )
    # shifted, so that the zero that v2 fills masks with means outside and not class 0
    sample["masks"] = {
        name: tv_tensors.Mask(torch.from_numpy(mask.astype(np.int32) - fills[name])) for name, mask in masks.items()
    }
    with _seeded(rng):
        for transform in transforms:
            sample = transform(sample)
    _require_kept(sample, image, boxes)
    moved = None if boxes is None else np.asarray(sample["boxes"].as_subclass(Tensor), np.float32).reshape(-1, 4)
    shifted = {name: np.asarray(mask.as_subclass(Tensor)) for name, mask in sample["masks"].items()}
    restored = {name: _shift_back(shifted[name], masks[name].dtype, fills[name]) for name in masks}
    return sample["image"].as_subclass(Tensor), moved, restored


@contextmanager
def _seeded(rng: np.random.Generator) -> Iterator[None]:
    """Seeds the CPU's generator of torch, numpy's and Python's from `rng`, and puts their states back afterwards."""
    # Of torch the CPU's alone: torch.manual_seed would reseed CUDA's, too, and takes 200 times as long.
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()  # noqa: NPY002  the global state is meant
    torch.default_generator.manual_seed(int(rng.integers(2**63)))
    np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002  see above
    random.seed(int(rng.integers(2**63)))
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  see above
        random.setstate(states[2])


def _shift_back(mask: npt.NDArray[Any], dtype: np.dtype[Any], fill: int) -> npt.NDArray[Any]:
    values = mask.astype(np.int64) + fill
    return np.where(values > np.iinfo(dtype).max, fill, values).astype(dtype)


def _require_kept(sample: Mapping[str, Any], image: Tensor, boxes: FloatArray | None) -> None:
    now = sample["image"]
    if now.shape != image.shape or now.dtype != torch.uint8:
        was = f"{tuple(image.shape)} torch.uint8"
        raise UserError(
            f"transforms: yours turned images of {was} into {tuple(now.shape)} {now.dtype}; leave out what resizes, "
            "converts or normalises (the network does that itself)"
        )
    if boxes is not None and len(sample["boxes"]) != len(boxes):
        raise UserError("transforms: yours removed boxes; leave out SanitizeBoundingBoxes (it is done afterwards)")
