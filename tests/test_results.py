import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from lit_vision.errors import UserError
from lit_vision.results import Results, result_names
from lit_vision.types import UInt8Array

IMAGE: UInt8Array = np.zeros((30, 50, 3), np.uint8)
NAMES = ["cat", "dog"]


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_names_keep_folders_and_never_collide() -> None:
    assert result_names(["a/x.jpg", "b/x.jpg", "y.png"]) == ["a/x", "b/x", "y"]
    assert result_names(["x.jpg", "x.png", "x.jpg.bmp"]) == ["x.jpg-2", "x.png", "x.jpg"]
    assert result_names(["../up.jpg", "/root/r.png"]) == ["up", "root/r"]
    many = ["x.jpg", "X.JPG", "x.png", "d/x.jpg", "x.jpg.jpg", "x.jpg"]
    names = [name.casefold() for name in result_names(many)]
    assert len(set(names)) == len(names)


def test_classification_rows(tmp_path: Path) -> None:
    with Results(tmp_path, "classification", NAMES) as results:
        results.write(Path("in/a,b.jpg"), "a,b", IMAGE, {"probabilities": torch.tensor([0.25, 0.75])})
        results.write(Path("in/c.jpg"), "c", IMAGE, {"probabilities": torch.tensor([0.9, 0.1])})
    assert rows_of(tmp_path / "predictions.csv") == [
        ["path", "label", "probability", "cat", "dog"],
        ["in/a,b.jpg", "dog", "0.750000", "0.250000", "0.750000"],
        ["in/c.jpg", "cat", "0.900000", "0.900000", "0.100000"],
    ]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["a,b.jpg", "c.jpg"]


def test_several_labels_or_none(tmp_path: Path) -> None:
    with Results(tmp_path, "classification", NAMES, threshold=0.5) as results:
        for name, values in (("both", [0.5, 0.75]), ("none", [0.25, 0.125])):
            results.write(Path(name), name, IMAGE, {"probabilities": torch.tensor(values)})
    assert [row[1:3] for row in rows_of(tmp_path / "predictions.csv")[1:]] == [
        ["cat|dog", "0.500000|0.750000"],
        ["", ""],
    ]


def test_mask_is_an_index_picture_with_a_palette(tmp_path: Path) -> None:
    mask = torch.zeros(30, 50, dtype=torch.int64)
    mask[10:20, 5:9] = 1
    with Results(tmp_path, "segmentation", NAMES) as results:
        results.write(Path("x.jpg"), "sub/x", IMAGE, {"mask": mask, "confidence": torch.ones(30, 50)})
    with Image.open(tmp_path / "masks" / "sub" / "x.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), mask.numpy())
        shown = np.asarray(image.convert("RGB"))[15, 6].tolist()
    facts = json.loads((tmp_path / "classes.json").read_text())
    assert facts["classes"] == NAMES
    assert facts["colors"][1] == shown


def test_instances_are_coco_and_a_label_map(tmp_path: Path) -> None:
    instances = torch.zeros(30, 50, dtype=torch.int32)
    instances[2:5, 3:9] = 1
    instances[10:20, 40:50] = 2
    prediction = {"instances": instances, "labels": torch.tensor([1, 0]), "scores": torch.tensor([0.5, 0.25])}
    with Results(tmp_path, "instances", NAMES) as results:
        results.write(Path("a.jpg"), "a", IMAGE, {**prediction, "labels": torch.tensor([0, 0])})
        results.write(Path("b.jpg"), "b", IMAGE, prediction)
    labels = cv2.imread(str(tmp_path / "labels" / "b.png"), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, instances.numpy())
    coco = COCO(str(tmp_path / "predictions.json"))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["a.jpg", "b.jpg"]
    found = coco.loadAnns(coco.getAnnIds(imgIds=2))
    assert [one["bbox"] for one in found] == [[3, 2, 6, 3], [40, 10, 10, 10]]
    assert [(one["category_id"], one["score"], one["area"]) for one in found] == [(2, 0.5, 18), (1, 0.25, 100)]
    np.testing.assert_array_equal(coco.annToMask(found[1]), instances.numpy() == 2)
    assert rows_of(tmp_path / "objects.csv") == [
        ["path", "label", "object", "score", "area", "x", "y", "left", "top", "width", "height"],
        ["a.jpg", "cat", "1", "0.500000", "18", "6.00", "3.50", "3", "2", "6", "3"],
        ["a.jpg", "cat", "2", "0.250000", "100", "45.00", "15.00", "40", "10", "10", "10"],
        ["b.jpg", "dog", "1", "0.500000", "18", "6.00", "3.50", "3", "2", "6", "3"],
        ["b.jpg", "cat", "2", "0.250000", "100", "45.00", "15.00", "40", "10", "10", "10"],
    ]


def test_label_maps_are_tiff_where_asked_for(tmp_path: Path) -> None:
    instances = torch.tensor([[0, 1], [1, 1]], dtype=torch.int32)
    prediction = {"instances": instances, "labels": torch.tensor([1]), "scores": torch.tensor([0.5])}
    with Results(tmp_path, "instances", NAMES, label_maps="tiff") as results:
        results.write(Path("a.jpg"), "a", np.zeros((2, 2, 3), np.uint8), prediction)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "labels" / "a.tif"), cv2.IMREAD_UNCHANGED), instances)
    with pytest.raises(UserError, match="label_maps is tiff for detection: instances alone have label maps"):
        Results(tmp_path / "other", "detection", NAMES, label_maps="tiff")
    assert not (tmp_path / "other").exists()


def test_boxes_are_coco_and_csv(tmp_path: Path) -> None:
    boxes = torch.tensor([[1.0, 2.0, 11.5, 22.25]])
    prediction = {"boxes": boxes, "labels": torch.tensor([1]), "scores": torch.tensor([0.75])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
    with Results(tmp_path, "detection", NAMES) as results:
        results.write(Path("empty.jpg"), "empty", IMAGE, nothing)
        results.write(Path("full.jpg"), "full", IMAGE, prediction)
    assert rows_of(tmp_path / "predictions.csv") == [
        ["path", "label", "score", "x1", "y1", "x2", "y2"],
        ["full.jpg", "dog", "0.750000", "1.00", "2.00", "11.50", "22.25"],
    ]
    coco = COCO(str(tmp_path / "predictions.json"))
    assert coco.getImgIds() == [1, 2]
    assert coco.getAnnIds(imgIds=1) == []
    assert coco.loadAnns(coco.getAnnIds(imgIds=2))[0]["bbox"] == [1.0, 2.0, 10.5, 20.25]
    assert len(coco.loadRes(coco.dataset["annotations"]).anns) == 1


def test_files_are_readable_after_an_interruption(tmp_path: Path) -> None:
    boxes = torch.tensor([[1.0, 2.0, 11.0, 22.0]])
    prediction = {"boxes": boxes, "labels": torch.tensor([0]), "scores": torch.tensor([0.5])}

    def interrupted() -> None:
        with Results(tmp_path, "detection", NAMES) as results:
            results.write(Path("x"), "x", IMAGE, prediction)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(json.loads((tmp_path / "predictions.json").read_text())["annotations"]) == 1


def test_outlines_of_objects_without_pixels_and_at_the_edges(tmp_path: Path) -> None:
    instances = torch.zeros(30, 50, dtype=torch.int32)
    instances[29, 49], instances[:, 0] = 1, 3  # object 2 lies under the others
    with Results(tmp_path, "instances", NAMES) as results:
        labels, scores = torch.tensor([0, 1, 0]), torch.tensor([0.5, 0.5, 0.5])
        results.write(Path("a.jpg"), "a", IMAGE, {"instances": instances, "labels": labels, "scores": scores})
        empty = {"instances": instances * 0, "labels": labels[:0], "scores": scores[:0]}
        results.write(Path("b.jpg"), "b", IMAGE, empty)
    coco = COCO(str(tmp_path / "predictions.json"))
    assert [(one["bbox"], one["area"]) for one in coco.loadAnns([1, 2, 3])] == [
        ([49, 29, 1, 1], 1),
        ([0, 0, 0, 0], 0),
        ([0, 0, 1, 30], 30),
    ]
    for one, number in zip(coco.loadAnns([1, 2, 3]), (1, 2, 3), strict=True):
        np.testing.assert_array_equal(coco.annToMask(one), instances.numpy() == number)
    assert coco.getAnnIds(imgIds=2) == []


def test_a_name_that_is_no_utf8_stands_in_the_table_with_escapes(tmp_path: Path) -> None:
    prediction = {"instances": torch.zeros(30, 50, dtype=torch.int32), "labels": torch.zeros(1, dtype=torch.int64)}
    prediction["instances"][3:6, 4:9] = 1
    with Results(tmp_path, "instances", NAMES) as results:
        path = Path(os.fsdecode(b"caf\xe9.png"))
        results.write(path, path.stem, IMAGE, {**prediction, "scores": torch.tensor([0.5])})
    assert [row[0] for row in rows_of(tmp_path / "objects.csv")] == ["path", "caf\\udce9.png"]
    assert json.loads((tmp_path / "predictions.json").read_text())["images"][0]["file_name"] == str(path)
