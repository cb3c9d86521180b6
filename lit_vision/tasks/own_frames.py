"""Pictures of different sizes in one batch, each seen as it would be alone, whatever the others are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lit_vision.data.dataset import NATIVE_MULTIPLE
from lit_vision.tasks.base import VisionTask
from lit_vision.types import Batch

Group = tuple[list[int], tuple[int, int]]


def own_frames(task: VisionTask, batch: Batch, multiple: int = NATIVE_MULTIPLE) -> list[Group]:
    """Groups of a batch's pictures, (places, (height, width)): their own size, padded only to a multiple.

    Under FSDP2 the whole batch is one: its processes wait for each other in every run of the network.

    Args:
        task: whose data say whether pictures are of different sizes: with `fit: native` alone.
        batch: with `image` and `size`.
        multiple: of both sides.
    """
    height, width = batch["image"].shape[-2:]
    if task.data.get("fit") != "native" or task.device_mesh is not None:
        return [(list(range(len(batch["image"]))), (height, width))]
    groups: dict[tuple[int, int], list[int]] = {}
    for place, size in enumerate(batch["size"].tolist()):
        own = tuple(-(-side // multiple) * multiple for side in size)
        groups.setdefault((min(own[0], height), min(own[1], width)), []).append(place)
    return [(places, size) for size, places in groups.items()]


def maps_in_own_frames(task: VisionTask, batch: Batch, maps_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Maps (B, K, H, W) of a batch's pictures, each computed in its own frame; 0 in what the batch adds to it.

    Args:
        task: see `own_frames`.
        batch: with `image` (B, C, H, W) and `size`.
        maps_of: images (b, C, h, w) to maps (b, K, h, w).
    """
    images, whole = batch["image"], None
    for places, (height, width) in own_frames(task, batch):
        if len(places) == len(images) and (height, width) == images.shape[-2:]:
            return maps_of(images)
        maps = maps_of(images[places, :, :height, :width])
        if whole is None:
            whole = maps.new_zeros((len(images), maps.shape[1], *images.shape[-2:]))
        whole[places, :, :height, :width] = maps
    assert whole is not None  # a batch holds a picture
    return whole


def part_of(batch: Batch, places: list[int], size: tuple[int, int]) -> Any:
    """The pictures at these places as a batch of this height and width; for batches whose other entries are rows."""
    chosen = torch.tensor(places, device=batch["image"].device)
    entries: dict[str, Any] = dict(batch)
    part: dict[str, Any] = {
        key: value[chosen.to(value.device)] if isinstance(value, Tensor) else [value[i] for i in places]
        for key, value in entries.items()
    }
    part["image"] = part["image"][..., : size[0], : size[1]]
    return part
