"""Names that the first stage of the command line has to know without importing torch; a test holds them to the code."""

import difflib
from collections.abc import Iterable

TASKS: dict[str, str] = {
    "TransferClassifier": "lit_vision.tasks.classification",
    "SemanticSegmenter": "lit_vision.tasks.segmentation",
    "InstanceSegmenter": "lit_vision.tasks.instances",
    "YOLODetector": "lit_vision.tasks.detection",
    "SlidingWindowDetector": "lit_vision.tasks.windows",
}
DATA_MODULES: dict[str, str] = {
    "ClassificationDataModule": "lit_vision.data.classification",
    "SegmentationDataModule": "lit_vision.data.segmentation",
    "InstanceDataModule": "lit_vision.data.instances",
    "DetectionDataModule": "lit_vision.data.detection",
}
CALLBACKS: dict[str, str] = {
    "ProgressiveUnfreezing": "lit_vision.callbacks.unfreezing",
    "RunCheckpoints": "lit_vision.callbacks.checkpointing",
    "StartingPointPenalty": "lit_vision.callbacks.l2_sp",
    "StopOnNonFinite": "lit_vision.callbacks.nonfinite",
}
TRAINING = ("fit", "validate", "test", "predict")
READER_OPTIONS: dict[str, tuple[str, ...]] = {  # of the formats that `convert` can read
    "coco": ("annotations", "images", "classes", "outlines"),
    "voc": ("classes", "images", "difficult", "one_based"),
    "yolo": ("data", "classes"),
    "labelmaps": ("classes", "images", "labels", "class_masks", "mask_suffix"),
}
KEYS = (
    "seed_everything",
    "model",
    "data",
    "trainer",
    "experiment",
    "runs",
    "run_dir",
    "resume",
    "wandb",
    "ckpt_path",
    "weights_only",
    "verbose",
    "return_predictions",
)


def nearest(word: str, choices: Iterable[str]) -> str:
    """The choice most like a word, ready to be appended: "; did you mean 'fit'?", or "" where none is near."""
    found = nearest_name(word, choices)
    return f"; did you mean '{found}'?" if found else ""


def nearest_name(word: str, choices: Iterable[str]) -> str | None:
    """The choice that a word begins, else the most like it, whatever the case of letters; None where none is near."""
    lowered = {choice.lower(): choice for choice in choices}
    begun = sorted((choice for choice in lowered if len(word) > 2 and choice.startswith(word.lower())), key=len)
    found = begun or difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None
