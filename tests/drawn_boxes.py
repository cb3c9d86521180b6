"""COCO data of drawn discs and bars, small enough to be learnt by heart in seconds."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lit_vision.data.detection import DetectionDataModule

NAMES = ["bar", "disc"]


def draw_boxes(root: Path) -> Path:
    """Four pictures to train of 120 x 160 and 160 x 120 with three objects each, and two to validate."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        (root / "images" / split).mkdir(parents=True)
        coco: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        coco["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
        for i in range(count):
            height, width = ((120, 160), (160, 120))[i % 2]
            image = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
            for k, (x, y) in enumerate([(10, 12), (65, 20), (30, 75)]):
                label = (i + k) % 2
                w, h = (32, 32) if label else ((40, 24), (36, 18))[k % 2]
                x, y = x + int(rng.integers(8)), y + int(rng.integers(8))
                if label:
                    cv2.circle(image, (x + 16, y + 16), 15, (230, 60, 30), -1)
                else:
                    cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), (30, 60, 230), -1)
                row = {"id": len(coco["annotations"]) + 1, "image_id": i + 1, "category_id": label + 1, "iscrowd": 0}
                coco["annotations"].append({**row, "bbox": [x, y, w, h], "area": w * h})
            coco["images"].append({"id": i + 1, "file_name": f"{i}.png", "height": height, "width": width})
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), image)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
    return root


class SamePictures(DetectionDataModule):
    """Validates on the pictures it trains on."""

    def val_dataloader(self) -> Any:
        return self._loader(self.dataset("train"))


def data_module(
    root: Path, kind: type[DetectionDataModule] = DetectionDataModule, **settings: Any
) -> DetectionDataModule:
    common = {"image_size": 96, "batch_size": 4, "num_workers": 0, "augmentation": "none"}
    return kind(str(root), **{**common, **settings})
