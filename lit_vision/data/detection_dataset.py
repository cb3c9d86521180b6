"""Images with boxes, crowd regions and images without objects included."""

import numpy as np
import torch

from lit_vision.data.dataset import VisionDataset
from lit_vision.types import BoolArray, FloatArray, Int64Array, Sample, UInt8Array


class DetectionDataset(VisionDataset):
    """Images of one split with their boxes, as evaluation shows them; `TrainingDataset` is for training.

    Every object is kept, and its box is not clipped, whatever part of it the network is shown. Detections are measured
    against `original_boxes`: brought to the network's pixels and back, a side of 32 is no longer exactly 32.
    """

    def labelled(self, i: int, image: UInt8Array, rng: np.random.Generator | None) -> Sample:
        """The transformed image i with boxes, labels and crowd."""
        boxes, labels, crowd = objects_of(self, i)
        height, width = image.shape[:2]
        inside = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))  # where no check has clipped them
        warped = self.transform(image)
        return {
            "image": warped.image,
            "index": i,
            "frame": torch.as_tensor(warped.frame),
            "size": torch.tensor(image.shape[:2]),
            "boxes": torch.from_numpy(place_boxes(boxes, warped.frame)),
            "original_boxes": torch.from_numpy(inside),
            "labels": torch.from_numpy(labels),
            "crowd": torch.from_numpy(crowd),
        }


def objects_of(dataset: VisionDataset, i: int) -> tuple[FloatArray, Int64Array, BoolArray]:
    """Boxes (N, 4) in original pixels, labels (N,) and crowd flags (N,) of image i of the index."""
    index, own = dataset.index, dataset.index.span(i)
    labels = index.labels[own].astype(np.int64)
    boxes = np.zeros((len(labels), 4), np.float32) if index.boxes is None else np.array(index.boxes[own])
    crowd = np.zeros(len(labels), bool) if index.crowd is None else np.array(index.crowd[own])
    return boxes, labels, crowd


def place_boxes(boxes: FloatArray, frame: FloatArray) -> FloatArray:
    """Boxes (N, 4) moved by a frame (2, 3) that scales and shifts but does not turn."""
    scale, shift = np.tile(frame[[0, 1], [0, 1]], 2), np.tile(frame[:, 2], 2)
    return (boxes * scale + shift).astype(np.float32)
