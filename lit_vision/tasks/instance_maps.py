"""Between batches of tensors and the maps from which objects are made."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lit_vision.data.geometry import visible_rectangle
from lit_vision.data.restore import restore_scores, seen_part
from lit_vision.ops.separation import Maps, Separation, as_maps
from lit_vision.types import FloatArray, InstanceBatch, InstancePrediction


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
    """Maps in the pixels of the original from probabilities (K + 2, H, W) in the network's, bilinear.

    There is no object where the network saw nothing (`fit: crop`).
    """
    restored = restore_scores(probabilities, frame, size)
    maps = as_maps(restored[:-1], restored[-1])
    unseen = np.ones(size, np.bool_)
    unseen[seen_part(frame, size, (probabilities.shape[1], probabilities.shape[2]))] = False
    maps.foreground[unseen] = maps.border[unseen] = 0
    return maps


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
