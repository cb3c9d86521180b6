"""From files on disk to batches. The data modules are loaded on first use: readers alone need no Lightning."""

from typing import TYPE_CHECKING

from lit_vision.lazy import lazy

if TYPE_CHECKING:
    from lit_vision.data.base import VisionDataModule as VisionDataModule
    from lit_vision.data.classification import ClassificationDataModule as ClassificationDataModule
    from lit_vision.data.detection import DetectionDataModule as DetectionDataModule
    from lit_vision.data.instances import InstanceDataModule as InstanceDataModule
    from lit_vision.data.segmentation import SegmentationDataModule as SegmentationDataModule

FILES_CHECKED = "LIT_VISION_FILES_CHECKED"  # names a file by which launches of one rehearsal check the data set once
_HOMES = {
    "VisionDataModule": "base",
    "ClassificationDataModule": "classification",
    "SegmentationDataModule": "segmentation",
    "InstanceDataModule": "instances",
    "DetectionDataModule": "detection",
}
__all__ = list(_HOMES)
__getattr__ = lazy(__name__, _HOMES)
