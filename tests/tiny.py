"""The smallest experiment of each task that trains, tests and predicts from the real command line in about a second."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lit_vision.cli.vision_cli import VisionCLI, run

MODELS: dict[str, dict[str, Any]] = {
    "classification": {"class_path": "TransferClassifier", "init_args": {"backbone": "test_resnet"}},
    "segmentation": {
        "class_path": "SemanticSegmenter",
        "init_args": {"encoder": "lcnet_050", "decoder_args": {"decoder_channels": [16, 16, 8, 8, 8]}},
    },
    "instances": {
        "class_path": "InstanceSegmenter",
        "init_args": {"encoder": "lcnet_050", "decoder_args": {"decoder_channels": [16, 16, 8, 8, 8]}},
    },
    "detection": {
        "class_path": "YOLODetector",
        "init_args": {"backbone": "lcnet_050", "strides": [8, 16], "width": 32, "anchors": "auto"},
    },
}
MODULES = {
    "classification": "ClassificationDataModule",
    "segmentation": "SegmentationDataModule",
    "instances": "InstanceDataModule",
    "detection": "DetectionDataModule",
}
TASKS = tuple(MODELS)


class RecordSteps(Callback):
    """Keeps the batches and losses of a training, and the weights as the optimizer left them after each."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        self.batches.append(batch)
        self.losses.append(float(outputs["loss"]))
        self.weights.append({name: value.clone() for name, value in pl_module.state_dict().items()})


class RecordOutputs(Callback):
    """Keeps what validation and prediction give, an entry per picture, and the types that the network calculated in."""

    def __init__(self) -> None:
        self.given: list[dict[str, Tensor]] = []
        self.inside: set[Any] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for module in pl_module.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda _, inputs, output: self.inside.add(output.dtype))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.given += outputs

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.given += outputs


RECORD = {"class_path": "tiny.RecordSteps"}
OUTPUTS = {"class_path": "tiny.RecordOutputs"}


def outputs_of(done: VisionCLI) -> RecordOutputs:
    """What OUTPUTS, among the callbacks of an experiment, has kept."""
    (record,) = [one for one in done.trainer.callbacks if isinstance(one, RecordOutputs)]
    return record


def recorded(done: VisionCLI) -> RecordSteps:
    """What RECORD, among the callbacks of an experiment, has kept."""
    (record,) = [one for one in done.trainer.callbacks if isinstance(one, RecordSteps)]
    return record


def write_experiment(
    path: Path,
    task: str,
    root: Path,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **trainer: Any,
) -> Path:
    """An experiment over drawn pictures of 64 pixels.

    Args:
        path: YAML to write; its stem is the experiment's name.
        task: one of TASKS.
        root: folder of `draw_shapes`, or one with the same layout.
        model: init_args of the model, added to those of MODELS.
        data: likewise of the data module.
        trainer: likewise of the trainer.
    """
    arguments: dict[str, Any] = {"root": str(root / task), "image_size": 64, "batch_size": 4, "num_workers": 0}
    content = {
        "seed_everything": 0,
        "model": {**MODELS[task], "init_args": {**MODELS[task]["init_args"], **(model or {})}},
        "data": {"class_path": MODULES[task], "init_args": {**arguments, "missing_classes": "note", **(data or {})}},
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "precision": "32-true",
            **trainer,
        },
        "wandb": "off",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def command(name: str, experiment: Path, *options: str) -> VisionCLI:
    """One command on an experiment, as `lit-vision <name> -c <experiment> <options>` runs it."""
    return run(name, ["-c", str(experiment), *options])


def to_bands(source: Path, target: Path, bands: int = 5) -> Path:
    """The drawn data set with TIFFs of several bands for its JPEGs: RGB, then colours turned round and halved.

    Args:
        source: folder of `draw_shapes`.
        target: folder to make.
        bands: values per pixel.
    """
    for path in sorted(file for file in source.rglob("*") if file.is_file()):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jpg":
            rgb = cv2.imread(str(path))[:, :, ::-1]
            values = np.concatenate([rgb, 255 - rgb, rgb // 2], 2)[:, :, :bands]
            tifffile.imwrite(copy.with_suffix(".tif"), values, photometric="minisblack", planarconfig="contig")
        elif copy.parent.name == "annotations":
            copy.write_text(json.dumps(json.loads(path.read_text())).replace(".jpg", ".tif"))
        else:
            copy.write_bytes(path.read_bytes())
    return target
