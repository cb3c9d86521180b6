"""Between batches of tensors and the maps from which objects are made."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_vision.data.dataset import Collate
from lit_vision.data.geometry import visible_rectangle
from lit_vision.data.restore import restore_scores
from lit_vision.data.transforms import Transform
from lit_vision.ops.separation import Maps, Separation, as_maps
from lit_vision.types import FloatArray, InstanceBatch, InstancePrediction, Int64Array, UInt8Array

NATIVE_MULTIPLE = 32  # the deepest stride of the encoders in use
TILES_PER_STEP = 4


def as_prediction(separation: Separation, maps: Maps, num_classes: int) -> InstancePrediction:
    """The objects of one picture."""
    instances, labels, scores = separation.objects(maps, num_classes)
    return {
        "instances": torch.from_numpy(instances),
        "labels": torch.from_numpy(labels),
        "scores": torch.from_numpy(scores),
    }


def visible_maps(probabilities: FloatArray, batch: InstanceBatch, i: int) -> Maps:
    """Maps of image i of a batch with background in the padding, which no prediction for people contains either.

    Args:
        probabilities: (K + 2, H, W): background, classes, border.
        batch: with the frames.
        i: position in it.
    """
    frame = np.vstack([batch["frame"][i].cpu().numpy(), [0, 0, 1]])
    size = (int(batch["size"][i][0]), int(batch["size"][i][1]))
    rows, columns = visible_rectangle(frame, size, (probabilities.shape[1], probabilities.shape[2]))
    maps = as_maps(probabilities[:-1], probabilities[-1])
    shown = Maps(np.zeros_like(maps.foreground), np.zeros_like(maps.border), maps.classes)
    shown.foreground[rows, columns], shown.border[rows, columns] = (
        maps.foreground[rows, columns],
        maps.border[rows, columns],
    )
    return shown


def restored_maps(probabilities: FloatArray, frame: FloatArray, size: tuple[int, int]) -> Maps:
    """Maps in the pixels of the original from probabilities (K + 2, H, W) in the network's, bilinear."""
    restored = restore_scores(probabilities, frame, size)
    return as_maps(restored[:-1], restored[-1])


def tile_probabilities(
    image: UInt8Array, boxes: Int64Array, data: dict[str, Any], probabilities: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """Maps (K + 2, h, w) float32 of each tile of a picture, in its own pixels, on the CPU.

    Args:
        image: (H, W, C), the original.
        boxes: (N, 4) xyxy, the tiles.
        data: how pictures are prepared, see `VisionDataModule.preprocessing`.
        probabilities: takes images (B, C, H, W) uint8 on the CPU.
    """
    transform = tile_transform(data)
    collate = Collate(multiple=NATIVE_MULTIPLE if data["fit"] == "native" else 1)
    rest = iter(boxes.tolist())
    while some := list(islice(rest, TILES_PER_STEP)):
        warped = [transform(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in some]
        samples: Any = [{"image": one.image} for one in warped]
        found = probabilities(collate(samples)["image"]).cpu().numpy()
        for maps, one, (x1, y1, x2, y2) in zip(found, warped, some, strict=True):
            yield torch.from_numpy(restore_scores(maps, one.frame, (y2 - y1, x2 - x1)))


def tile_transform(data: dict[str, Any]) -> Transform:
    """What brings a tile, or a whole picture, to the network's input."""
    height, width = data["image_size"]
    return Transform((height, width), data["fit"])


def filled_maps(size: tuple[int, int], bands: Iterator[tuple[int, Tensor]]) -> Maps:
    """Maps of a whole picture from bands of its rows, see `ops.tiles.blended_rows`; three bytes a pixel."""
    whole: Maps | None = None
    for top, probabilities in bands:
        band = as_maps(probabilities[:-1].numpy(), probabilities[-1].numpy())
        if whole is None:
            whole = Maps(*(np.zeros(size, one.dtype) for one in band))
        for one, part in zip(whole, band, strict=True):
            one[top : top + len(part)] = part
    assert whole is not None  # a picture has a row
    return whole
