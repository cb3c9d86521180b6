"""Objects as data sets have them: below a pixel, at the border, none or hundreds in a picture, classes unseen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from torch import Tensor

from lit_vision.data.detection import DetectionDataModule
from lit_vision.errors import UserError
from lit_vision.ops.grid import Decoded
from lit_vision.tasks.detection import YOLODetector

NAMES = ["disc", "never", "square"]
SMALL: dict[str, Any] = {"backbone": "lcnet_050", "strides": [8], "width": 32, "anchors": "auto"}
Boxes = list[list[float]]


def data(folder: Path, pictures: list[tuple[int, int, Boxes]]) -> DetectionDataModule:
    """COCO data whose validation pictures have this height, width and these boxes, of classes 0 and 2 in turn."""
    coco: dict[str, Any] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": k, "name": name} for k, name in enumerate(NAMES)]
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
    (folder / "annotations").mkdir()
    for i, (height, width, boxes) in enumerate(pictures):
        coco["images"].append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        cv2.imwrite(str(folder / "images" / "val" / f"{i}.png"), np.full((height, width, 3), 90, np.uint8))
        for k, (x1, y1, x2, y2) in enumerate(boxes):
            row = {"id": len(coco["annotations"]), "image_id": i, "category_id": 2 * (k % 2), "iscrowd": 0}
            coco["annotations"].append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    cv2.imwrite(str(folder / "images" / "train" / "t.png"), np.full((64, 64, 3), 90, np.uint8))
    empty = {**coco, "images": [{"id": 0, "file_name": "t.png", "height": 64, "width": 64}], "annotations": []}
    for split, content in (("train", empty), ("val", coco)):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    settings: dict[str, Any] = {"image_size": 64, "batch_size": 2, "num_workers": 0, "missing_classes": "note"}
    return DetectionDataModule(str(folder), format="coco", **settings)


class Quiet(YOLODetector):
    """Logs nothing."""

    def log(self, *args: Any, **kwargs: Any) -> None: ...

    def log_dict(self, *args: Any, **kwargs: Any) -> None: ...


def evaluated(module: DetectionDataModule, told: Callable[[Tensor], Tensor], **settings: Any) -> dict[str, float]:
    """Metrics of a detector that gives boxes (N, 4) in network pixels made of the true ones there."""
    task = Quiet(NAMES, **SMALL, **settings).eval()
    for batch in module.val_dataloader():
        boxes, labels = [told(own) for own in batch["boxes"]], batch["labels"]

        def decode_above(outputs: Any, threshold: float, boxes: Any = boxes, labels: Any = labels) -> Any:
            return [
                Decoded(own, torch.ones(len(own)), torch.nn.functional.one_hot(kinds, 3).float())
                for own, kinds in zip(boxes, labels, strict=True)
            ]

        task.network.decode_above = decode_above
        task._evaluate(batch, task.metrics["val"], "val")  # type: ignore[arg-type]
    return {name: value.item() for name, value in task.metrics["val"].compute().items()}  # type: ignore[operator]


def same(boxes: Tensor) -> Tensor:
    return boxes


def test_objects_below_a_pixel_of_the_network_are_measured_in_the_originals(tmp_path: Path) -> None:
    """640 to 64: objects of 3 to 8 pixels are 0.3 to 0.8 pixels wide there."""
    module = data(tmp_path, [(640, 640, [[100.0, 50.0, 103.0, 54.0], [300.0, 300.0, 308.0, 305.0]])])
    assert evaluated(module, same)["map"] == pytest.approx(1.0)
    moved = evaluated(module, lambda boxes: boxes + 0.4)  # four pixels of the original: beside the objects
    assert moved["map"] == 0.0
    assert moved["f1"] == 0.0


def test_boxes_at_and_over_the_border_are_cut_to_the_picture(tmp_path: Path) -> None:
    edges = [[0.0, 0.0, 40.0, 30.0], [100.0, 90.0, 160.0, 120.0], [0.0, 60.0, 160.0, 70.0]]
    module = data(tmp_path, [(120, 160, edges)])
    assert evaluated(module, same)["map"] == pytest.approx(1.0)

    def beyond(boxes: Tensor) -> Tensor:
        """What touches a border of the picture reaches 20 pixels over it; letterbox: 64 x 48, 8 pixels above."""
        low, high = torch.tensor([0.0, 8.0, 0.0, 8.0]), torch.tensor([64.0, 56.0, 64.0, 56.0])
        return boxes - 20.0 * ((boxes - low).abs() < 0.01) + 20.0 * ((boxes - high).abs() < 0.01)

    assert evaluated(module, beyond)["map"] == pytest.approx(1.0)


def crowd(count: int) -> Boxes:
    places = [(x, y) for y in range(0, 640, 25) for x in range(0, 640, 25)][:count]
    return [[x, y, x + 20.0, y + 20.0] for x, y in places]


def test_hundreds_of_objects_count_as_far_as_max_detections_reaches(tmp_path: Path) -> None:
    module = data(tmp_path, [(640, 640, crowd(500)), (640, 640, [])])
    assert evaluated(module, same, max_detections=500)["map"] == pytest.approx(1.0)
    some = evaluated(module, same, max_detections=100)
    # The first hundred, fifty of 250 of each class: precision 1 up to a recall of 0.2, which is 21 of 101 recalls.
    assert some["map_50"] == pytest.approx(21 / 101)
    assert some["f1"] == pytest.approx(2 * 50 / (50 + 250))


def test_pictures_without_objects_and_classes_without_examples(tmp_path: Path) -> None:
    module = data(tmp_path, [(64, 64, []), (64, 64, [[8.0, 8.0, 40.0, 40.0]])])
    values = evaluated(module, same)
    assert values["map"] == values["ap/disc"] == values["f1"] == pytest.approx(1.0)
    assert {"ap/never", "ap/square"} & set(values) == set()


def test_no_object_in_the_whole_split(tmp_path: Path) -> None:
    module = data(tmp_path, [(64, 64, []), (64, 64, [])])
    module.checked = False  # the check refuses such a validation; a test may be so
    assert evaluated(module, same) == {"map": -1.0, "map_50": -1.0, "map_75": -1.0}


def test_a_training_whose_tiles_could_not_be_seen_whole_is_refused(tmp_path: Path) -> None:
    module = data(tmp_path, [(64, 64, [[8, 8, 40, 40]])])
    module.fit = "crop"
    trainer, task = quiet_trainer(), Quiet(NAMES, backbone="lcnet_050", tile=32)
    trainer.datamodule = module
    task.trainer = trainer
    said = r"model\.tile is 32, but fit: crop would not see all of a tile: train with another fit"
    for stage in ("fit", "test", "predict"):
        with pytest.raises(UserError, match=said):
            task.setup(stage)
    task.setup("validate")  # takes no notice of tiles


@pytest.mark.parametrize("tile", [None, 40])
def test_what_is_found_in_the_padding_alone_is_no_detection(tile: int | None, tmp_path: Path) -> None:
    """A picture of 20 x 40 becomes 32 x 64 between two stripes of padding, 16 pixels high each."""
    (batch,) = data(tmp_path, [(20, 40, [[10, 5, 30, 15]])]).val_dataloader()
    task = Quiet(NAMES, **SMALL, tile=tile).eval()
    task.data = {"task": "detection", "image_size": [64, 64], "fit": "letterbox"}
    boxes = torch.tensor([[8.0, 0, 40, 16], [16, 24, 48, 40], [8, 48, 40, 64], [8, 10, 40, 20]])
    decoded = Decoded(boxes, torch.tensor([1.0, 0.9, 0.8, 0.7]), torch.eye(3)[[0, 1, 2, 2]])
    task.network.decode_above = lambda *_: [decoded]
    with torch.inference_mode():
        if tile is None:
            (found,) = task.predict_step(batch, 0)
        else:
            found = task.predict_whole(np.full((20, 40, 3), 90, np.uint8))
    assert found["boxes"].tolist() == [[10, 5, 30, 15], [5, 0, 25, 2.5]]
    assert found["labels"].tolist() == [1, 2]
    assert found["scores"].tolist() == pytest.approx([0.9, 0.7])
