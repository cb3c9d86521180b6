"""Data for detection: images with boxes, crowd regions and images without objects included."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lit_vision.data.base import VisionDataModule
from lit_vision.data.dataset import VisionDataset
from lit_vision.data.decode import read_size
from lit_vision.types import BoolArray, FloatArray, Int64Array, Sample, UInt8Array


class DetectionDataset(VisionDataset):
    """Images of one split with their boxes.

    In training, boxes are clipped to the picture and those that the augmentation moved out of it are left out. In
    evaluation every object is kept, and its box is not clipped, whatever part of it the network is shown: brought
    back to the original's pixels it is the box of the file, against which detections are measured.
    """

    def labelled(self, i: int, image: UInt8Array, rng: np.random.Generator | None) -> Sample:
        """The transformed image i with boxes, labels and crowd."""
        boxes, labels, crowd = objects_of(self, i)
        warped = self.transform(image, boxes=boxes, rng=rng)
        if self.seed is None or warped.boxes is None or warped.keep is None:
            placed, kept = place_boxes(boxes, warped.frame), np.ones(len(boxes), bool)
        else:
            placed, kept = warped.boxes, warped.keep
        return {
            "image": warped.image,
            "index": i,
            "frame": torch.as_tensor(warped.frame),
            "size": torch.tensor(image.shape[:2]),
            "boxes": torch.from_numpy(placed[kept]),
            "labels": torch.from_numpy(labels[kept]),
            "crowd": torch.from_numpy(crowd[kept]),
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


class DetectionDataModule(VisionDataModule):
    """Images with boxes, from COCO, Pascal VOC or YOLO files; see `VisionDataModule` for the arguments."""

    task: ClassVar[Any] = "detection"
    listed = ("boxes", "labels", "crowd")

    def make_dataset(self, **settings: Any) -> DetectionDataset:
        """A split's dataset."""
        return DetectionDataset(self.index, in_channels=self.in_channels, depth=self.depth, **settings)

    def training_box_sizes(self) -> Tensor:
        """(N, 2) float32 widths and heights of the training split's objects in network pixels, crowds left out.

        Augmentation is not considered: its scaling is meant to be symmetric about 1.
        """
        index = self.index
        if index.boxes is None:
            return torch.zeros(0, 2)
        sizes = []
        for i in index.indices("train").tolist():
            own = index.span(i)
            boxes = index.boxes[own] if index.crowd is None else index.boxes[own][~index.crowd[own]]
            if len(boxes):
                height, width = index.sizes[i].tolist() if index.sizes[i].all() else read_size(index.path(i))
                sizes.append((boxes[:, 2:] - boxes[:, :2]) * self._scale(height, width))
        return torch.from_numpy(np.concatenate(sizes)).float() if sizes else torch.zeros(0, 2)

    def _scale(self, height: int, width: int) -> FloatArray:
        """Factors on x and y from an original's pixels to the network's."""
        down, across = self.image_size[0] / height, self.image_size[1] / width
        factors = {
            "letterbox": (min(down, across), min(down, across)),
            "stretch": (across, down),
            "crop": (max(down, across), max(down, across)),
            "native": (1.0, 1.0),
        }
        return np.asarray(factors[self.fit], np.float32)
