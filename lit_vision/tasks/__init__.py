"""The tasks: one file each, from batch to loss, metrics and predictions. Loaded on first use."""

from typing import TYPE_CHECKING

from lit_vision.lazy import lazy

if TYPE_CHECKING:
    from lit_vision.tasks.base import VisionTask as VisionTask
    from lit_vision.tasks.checkpoints import load_task as load_task
    from lit_vision.tasks.classification import TransferClassifier as TransferClassifier
    from lit_vision.tasks.detection import YOLODetector as YOLODetector
    from lit_vision.tasks.instances import InstanceSegmenter as InstanceSegmenter
    from lit_vision.tasks.segmentation import SemanticSegmenter as SemanticSegmenter
    from lit_vision.tasks.windows import SlidingWindowDetector as SlidingWindowDetector

_HOMES = {
    "VisionTask": "base",
    "load_task": "checkpoints",
    "TransferClassifier": "classification",
    "SemanticSegmenter": "segmentation",
    "InstanceSegmenter": "instances",
    "YOLODetector": "detection",
    "SlidingWindowDetector": "windows",
}
__all__ = list(_HOMES)
__getattr__ = lazy(__name__, _HOMES)
