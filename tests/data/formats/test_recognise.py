import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lit_vision.data.formats import read, recognise
from lit_vision.errors import UserError


def picture(path: Path, depth: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((4, 6), depth))


def folder(root: Path) -> None:
    picture(root / "train/a/1.png")
    picture(root / "train/b/1.png")


def csv(root: Path) -> None:
    (root / "x.csv").write_text("path,label\na.png,cat\n")


def masks(root: Path) -> None:
    picture(root / "images/a.png")
    picture(root / "masks/a.png")
    (root / "classes.json").write_text('{"classes": ["a"]}')


def masks_in_labels(root: Path) -> None:
    masks(root)
    (root / "masks").rename(root / "labels")


def labelmaps(root: Path) -> None:
    picture(root / "images/train/a.png")
    picture(root / "labels/train/a.png", np.uint16)


def labelmaps_with_classes(root: Path) -> None:
    labelmaps(root)
    picture(root / "classes/train/a.png")
    (root / "classes.json").write_text('{"classes": ["a"]}')


def object_files(root: Path) -> None:
    picture(root / "1/images/1.png")
    picture(root / "1/masks/1.png")


def coco(root: Path) -> None:
    picture(root / "train/a.png")
    image = {"id": 1, "file_name": "a.png", "width": 6, "height": 4}
    data = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (root / "train/_annotations.coco.json").write_text(json.dumps(data))


def voc(root: Path) -> None:
    picture(root / "JPEGImages/a.png")
    (root / "Annotations").mkdir()
    (root / "Annotations/a.xml").write_text("<annotation><filename>a.png</filename></annotation>")


def yolo(root: Path) -> None:
    picture(root / "images/train/a.png")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [a]\n")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (folder, "folder"),
        (csv, "csv"),
        (masks, "masks"),
        (masks_in_labels, "masks"),
        (labelmaps, "labelmaps"),
        (labelmaps_with_classes, "labelmaps"),
        (object_files, "labelmaps"),
        (coco, "coco"),
        (voc, "voc"),
        (yolo, "yolo"),
    ],
)
def test_each_layout_is_recognised_and_told(tmp_path: Path, make, name: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path)
    assert recognise(tmp_path) == name
    index = read(tmp_path)
    assert index.format == name
    assert index.notes[0].startswith(f"Recognised {tmp_path} as {name}: ")
    assert len(index) > 0
    assert not index.problems
    assert not any("Recognised" in note for note in read(tmp_path, name).notes)


def test_ambiguity_is_refused(tmp_path: Path) -> None:
    coco(tmp_path)
    yolo(tmp_path)
    with pytest.raises(UserError, match=r"as coco \(.*\) and as yolo \(data.yaml\): set format to coco or yolo"):
        recognise(tmp_path)
    assert read(tmp_path, "coco").format == "coco"


def test_unknown_layout_lists_what_was_looked_for(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/1.png")
    with pytest.raises(UserError, match=r"fits no known layout.*folder: .*csv: .*yolo: data.yaml"):
        read(tmp_path)


def test_wrong_names_offer_the_nearest(tmp_path: Path) -> None:
    csv(tmp_path)
    with pytest.raises(UserError, match="no format 'cvs': did you mean 'csv'"):
        read(tmp_path, "cvs")
    with pytest.raises(UserError, match="csv has no option 'delimeter': did you mean 'delimiter'"):
        read(tmp_path, delimeter=";")
    with pytest.raises(UserError, match="option classes of the format csv is 'cat': Expected `list"):
        read(tmp_path, classes="cat")
    with pytest.raises(UserError, match="There is no folder"):
        read(tmp_path / "gone")
