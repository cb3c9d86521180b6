"""The vocabulary: samples, batches, predictions and the conventions they follow. Said once, used everywhere.

Conventions
    image: (C, H, W) uint8, RGB order where C = 3, from the reader to the network's first layer, which scales and
        normalises on the device. As a numpy array before collation: (H, W, C) uint8.
    boxes: (N, 4) float32, xyxy, pixels of the network input; in predictions, pixels of the original image.
        A box covers x1 <= x < x2: a box round the single pixel (3, 5) is (3, 5, 4, 6).
    labels: (N,) int64, 0-based, no background class.
    scores: (N,) float32 in [0, 1].
    mask: (H, W) int64 class per pixel, IGNORE_INDEX where no class is known.
    instances: (H, W) int32 label map, 0 = background, 1..N = objects; object k has class labels[k - 1].
    frame: (2, 3) float32, the affine map from original pixels to network-input pixels, acting on (x, y, 1) where
        pixel centres lie at +0.5 (so that a box's edges map exactly).
    size: (2,) int64, height and width of the original image (after EXIF rotation).
"""

from typing import Literal, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt
from torch import Tensor
from typing_extensions import NotRequired

IGNORE_INDEX = 255

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Batch(TypedDict):
    """What every batch holds, whatever the task."""

    image: Tensor  # (B, C, H, W) uint8
    index: Tensor  # (B,) int64, position in the data set's index
    frame: Tensor  # (B, 2, 3) float32
    size: Tensor  # (B, 2) int64


class ClassificationBatch(Batch):
    """Images with one label each (B,) int64, or with several: (B, K) float32 of 0 and 1.

    features: (B, ...) what the closed backbone gives for the images, where it is kept; `image` then decodes nothing
        before it is asked for pictures (`data.feature_batches.LateImages`).
    """

    label: Tensor
    features: NotRequired[Tensor]


class SegmentationBatch(Batch):
    """Images with a class per pixel: (B, H, W) int64, IGNORE_INDEX where unknown or padded."""

    mask: Tensor


class InstanceBatch(Batch):
    """Images with a label map each.

    instances: (B, H, W) int32, 0 = background.
    labels: B tensors (N,) int64, the class of object k at position k - 1.
    mask: (B, H, W) int64, 0 = background, 1 + class inside objects, IGNORE_INDEX in padding and crowds.
    border: (B, H, W) int64, 1 where objects touch or nearly touch, 0 elsewhere, IGNORE_INDEX in padding.
    border_weight: (B, H, W) float32, what each pixel counts in the border's loss, where the data give it.
    numbers: B tensors (N,) int64, the place of object k among all of its picture, from 1: a crop leaves some out.
    """

    instances: Tensor
    labels: list[Tensor]
    mask: Tensor
    border: Tensor
    border_weight: NotRequired[Tensor]
    numbers: NotRequired[list[Tensor]]


class DetectionBatch(Batch):
    """Images with boxes: B tensors (N, 4) float32 xyxy, B tensors (N,) int64, B tensors (N,) bool (crowd regions).

    original_boxes: B tensors (N, 4) float32, the same objects in pixels of the original image, as the file has them; of
        evaluation alone.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    crowd: list[Tensor]
    original_boxes: NotRequired[list[Tensor]]


class ClassificationPrediction(TypedDict):
    """probabilities: (K,) float32, sum 1 for multi-class, independent for multi-label."""

    probabilities: Tensor


class SegmentationPrediction(TypedDict):
    """mask: (H, W) int64 of the original image, uint8 if from tiles; confidence: (H, W) float32, its probability."""

    mask: Tensor
    confidence: Tensor


class InstancePrediction(TypedDict):
    """instances: (H, W) int32 label map of the original image; labels (N,) int64; scores (N,) float32."""

    instances: Tensor
    labels: Tensor
    scores: Tensor


class DetectionPrediction(TypedDict):
    """boxes: (N, 4) float32 xyxy, pixels of the original image; labels (N,) int64; scores (N,) float32, falling."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


class Sample(TypedDict):
    """One item of a dataset before collation; a task's dataset adds its own labels under the batch's names."""

    image: Tensor  # (C, H, W) uint8
    index: int
    frame: Tensor  # (2, 3) float32
    size: Tensor  # (2,) int64
    label: NotRequired[Tensor]
    mask: NotRequired[Tensor]
    instances: NotRequired[Tensor]
    border: NotRequired[Tensor]
    border_weight: NotRequired[Tensor]
    boxes: NotRequired[Tensor]
    original_boxes: NotRequired[Tensor]
    labels: NotRequired[Tensor]
    numbers: NotRequired[Tensor]
    crowd: NotRequired[Tensor]
    shown: NotRequired[Tensor]  # (M,) int64: of a mosaic or a blend, positions of all its pictures in the index
