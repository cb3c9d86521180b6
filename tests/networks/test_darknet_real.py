"""Real networks of Darknet: what they find in photos, and their mean average precision on COCO's."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from darknet_files import FILES, FOUND, OPENCV_EPS, REAL, SHARED, needs_files

from lit_vision.networks.darknet import DarknetYOLO, create_darknet
from lit_vision.networks.darknet_weights import load_weights
from lit_vision.ops.boxes import select_detections
from lit_vision.types import DetectionPrediction

DATA = SHARED / "data"


def load(name: str, bn_eps: float) -> DarknetYOLO:
    network = create_darknet(str(FILES / f"{name}.cfg"), bn_eps=bn_eps)
    load_weights(network, FILES / f"{name}.weights")
    return network.eval()


def detect(network: DarknetYOLO, path: str, low: float, max_detections: int = 100) -> DetectionPrediction:
    """By Darknet's rule, in pixels of the photo, which OpenCV has stretched to 320 x 320."""
    photo: Any = cv2.imread(path)
    height, width = photo.shape[:2]
    pixels = cv2.dnn.blobFromImage(photo, 1 / 255, (320, 320), swapRB=True, crop=False)
    with torch.no_grad():
        decoded = network.decode(network(torch.from_numpy(pixels)))
    found = select_detections(*(values[0] for values in decoded), low, low, 0.45, max_detections)
    found["boxes"] = found["boxes"] * (torch.tensor([width, height] * 2) / 320)
    return found


@needs_files
def test_photos_hold_what_opencv_found() -> None:
    names = (FILES / "coco.names").read_text().split("\n")
    network = load("yolo-fastest-1.1-xl", OPENCV_EPS)
    for photo, expected in FOUND.items():
        found = detect(network, str(DATA / "photos" / photo), 0.3)
        assert [names[label] for label in found["labels"]] == [name for name, _, _ in expected], photo
        for box, score, (_, their_score, their_box) in zip(found["boxes"], found["scores"], expected, strict=True):
            assert score.item() == pytest.approx(their_score, abs=0.002), photo
            assert their_box is None or box.tolist() == pytest.approx(their_box, abs=1.0), photo


def nms_of_opencv(boxes: torch.Tensor, objectness: torch.Tensor, probabilities: torch.Tensor) -> np.ndarray:
    """Kept (box, class) pairs, by OpenCV's class-wise NMS of the same candidates."""
    scores = objectness[:, None] * probabilities
    rows, labels = torch.nonzero((scores > 0.1) & (objectness[:, None] > 0.1), as_tuple=True)
    corner, opposite = boxes[rows, :2].numpy(), boxes[rows, 2:].numpy()
    sized = np.concatenate([corner, opposite - corner], axis=1).astype(float)
    kept = cv2.dnn.NMSBoxesBatched(sized.tolist(), scores[rows, labels].tolist(), labels.tolist(), 0.1, 0.45)
    return np.stack([rows.numpy()[kept], labels.numpy()[kept]], axis=1)


@needs_files
@pytest.mark.parametrize("name", REAL)
def test_detections_equal_opencvs_nms(name: str) -> None:
    network = load(name, 1e-5)
    count = 0
    for path in sorted((DATA / "photos").glob("*.jpg")):
        pixels = cv2.dnn.blobFromImage(cv2.imread(str(path)), 1 / 255, (320, 320), swapRB=True, crop=False)
        with torch.no_grad():
            decoded = network.decode(network(torch.from_numpy(pixels)))
        boxes, objectness, probabilities = (values[0] for values in decoded)
        ours = select_detections(boxes, objectness, probabilities, 0.1, 0.1, 0.45)
        pairs = nms_of_opencv(boxes, objectness, probabilities)
        theirs = sorted((*boxes[row].tolist(), label) for row, label in pairs)
        assert sorted((*b.tolist(), k.item()) for b, k in zip(ours["boxes"], ours["labels"], strict=True)) == theirs
        count += len(theirs)
    assert count > 30
