"""Text files as Windows saves them: in UTF-8 with a byte order mark in front, which is no part of the text."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lit_vision.data.formats import coco, csv, masks, voc, yolo
from lit_vision.data.index import Index

MARK = "utf-8-sig"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for file in ("images/a.png", "images/b.png", "masks/a.png", "masks/b.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / file), np.zeros((10, 20, 3 if file.startswith("images") else 1), np.uint8))
    return tmp_path


def boxes(index: Index) -> list[list[float]]:
    assert index.problems == ()
    assert index.boxes is not None
    found: list[list[float]] = index.boxes.tolist()
    return found


def test_yolo(pictures: Path) -> None:
    """The YAML is found by its keys, of which the first stands behind the mark."""
    (pictures / "labels").mkdir()
    (pictures / "labels/a.txt").write_text("0 0.5 0.5 0.5 1\n", MARK)
    (pictures / "train.txt").write_text("images/a.png\nimages/b.png\n", MARK)
    (pictures / "data.yaml").write_text("names: [cat]\ntrain: train.txt\n", MARK)
    index = yolo.read(pictures)
    assert index.class_names == ("cat",)
    assert boxes(index) == [[5, 0, 15, 10]]


def test_coco(pictures: Path) -> None:
    image = {"id": 1, "file_name": "images/a.png", "width": 20, "height": 10}
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 0, 10, 10]}
    content = {"images": [image], "annotations": [row], "categories": [{"id": 1, "name": "cat"}]}
    (pictures / "instances_train.json").write_text(json.dumps(content), MARK)
    assert boxes(coco.read(pictures)) == [[5, 0, 15, 10]]


def test_voc(pictures: Path) -> None:
    corners = "<xmin>6</xmin><ymin>1</ymin><xmax>15</xmax><ymax>10</ymax>"
    text = f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
    (pictures / "Annotations").mkdir()
    (pictures / "images").rename(pictures / "JPEGImages")
    (pictures / "Annotations/a.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}', MARK)
    (pictures / "ImageSets/Main").mkdir(parents=True)
    (pictures / "ImageSets/Main/train.txt").write_text("a\n", MARK)
    assert boxes(voc.read(pictures)) == [[5, 0, 15, 10]]


def test_csv(pictures: Path) -> None:
    (pictures / "labels.csv").write_text("path,label\nimages/a.png,cat\nimages/b.png,dog\n", MARK)
    assert csv.read(pictures).class_names == ("cat", "dog")


def test_classes_of_masks(pictures: Path) -> None:
    (pictures / "classes.json").write_text('{"classes": ["sky", "road"]}', MARK)
    assert masks.read(pictures).class_names == ("sky", "road")
