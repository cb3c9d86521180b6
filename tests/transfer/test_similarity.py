"""Measured on drawn pictures by all four tasks, and on real packs with real weights, whose answer is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_vision.data import ClassificationDataModule, DetectionDataModule, InstanceDataModule, SegmentationDataModule
from lit_vision.tasks import InstanceSegmenter, SemanticSegmenter, TransferClassifier, VisionTask, YOLODetector
from lit_vision.transfer.estimates import probe
from lit_vision.transfer.features import calibrate, random_twin
from lit_vision.transfer.sample import batches
from lit_vision.transfer.similarity import BATCH, SAMPLES, measure

SHARED = Path(__file__).parents[3] / "shared"
SMALL = {"decoder_args": {"decoder_channels": [16, 16, 8, 8, 8]}, "encoder": "lcnet_050"}


def built(task: str, drawn: Path) -> tuple[VisionTask, Any]:
    modules: dict[str, Any] = {
        "classification": (ClassificationDataModule, lambda names: TransferClassifier(names, backbone="test_resnet")),
        "segmentation": (SegmentationDataModule, lambda names: SemanticSegmenter(names, **SMALL)),
        "instances": (InstanceDataModule, lambda names: InstanceSegmenter(names, **SMALL)),
        "detection": (DetectionDataModule, lambda names: YOLODetector(names, backbone="lcnet_050", strides=[8, 16])),
    }
    kind, make = modules[task]
    data = kind(str(drawn / task), image_size=64, num_workers=0, check=False, missing_classes="note")
    torch.manual_seed(0)
    return make(data.class_names), data


@pytest.mark.parametrize("task", ["classification", "segmentation", "instances", "detection"])
def test_every_task_can_be_measured(task: str, drawn: Path) -> None:
    model, data = built(task, drawn)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told: list[tuple[str, int, int]] = []
    numbers = torch.get_rng_state()
    found = measure(model, data, images=10, progress=lambda *one: told.append(one))
    pictures = min(len(data.index.indices("train")), max(10, 5 * data.num_classes))
    assert found.images == pictures
    assert told[-1] == ("random", pictures, pictures)
    assert len(found.pretrained) == len(found.random) >= 4
    assert len(found.groups) <= SAMPLES
    assert set(found.groups.tolist()) <= set(range(pictures))
    assert all(one.probe.explained <= 1 for one in found.pretrained)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(numbers, torch.get_rng_state())
    again = measure(model, data, images=10)
    assert [one.probe.explained for one in again.pretrained] == [one.probe.explained for one in found.pretrained]


def test_the_random_twin_is_measured_with_statistics_of_the_data(drawn: Path) -> None:
    """Its last stage by hand: drawn anew, batch normalisation over the sample's batches, pooled, probed."""
    model, data = built("classification", drawn)
    found = measure(model, data, images=8, seed=3)
    twin = random_twin(model, 3)
    plain = explained(twin, data, found.images)
    calibrate(twin.network, [twin.preprocess(batch["image"]) for batch in all_batches(data, found.images)])
    assert found.random[0].probe.explained == pytest.approx(explained(twin, data, found.images), abs=1e-5)
    assert abs(plain - found.random[0].probe.explained) > 1e-3  # without them it is another network


def all_batches(data: Any, count: int) -> list[dict[str, Any]]:
    assert count == len(data.index.indices("train"))
    return list(batches(data, data.index.indices("train"), BATCH))


def explained(twin: Any, data: Any, count: int) -> float:
    features, labels = [], []
    for batch in all_batches(data, count):
        with torch.no_grad():
            features.append(twin.network.forward_features(twin.preprocess(batch["image"])).mean((2, 3)))
        labels.append(batch["label"])
    targets = torch.nn.functional.one_hot(torch.cat(labels)).double().numpy()
    return probe(torch.cat(features).double().numpy(), targets[:, targets.any(0)], np.arange(count), seed=3).explained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pack", "fit", "size", "weights", "verdict"),
    [
        ("hymenoptera", "crop", 128, True, "similar"),
        ("flowers5", "crop", 128, True, "similar"),
        ("bloodcells", "stretch", 128, True, "different"),
        ("flowers5", "crop", 128, False, "different"),  # random weights are no better than random weights
    ],
)
def test_real_packs(pack: str, fit: Any, size: int, weights: bool, verdict: str) -> None:
    root, file = SHARED / "data" / f"cls_{pack}", SHARED / "weights" / "mobilenetv1_025_imagenet.safetensors"
    if not (root.is_dir() and file.is_file()):
        pytest.skip(f"{root} or {file} is not on this machine")
    data = ClassificationDataModule(str(root), image_size=size, fit=fit, num_workers=0, check=False)
    task = TransferClassifier(data.class_names, backbone="mobilenetv1_025", weights=str(file) if weights else None)
    assert measure(task, data, images=240).verdict == verdict
