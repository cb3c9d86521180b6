import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lit_vision.data import FILES_CHECKED
from lit_vision.data.check import Task, check
from lit_vision.data.formats import read
from lit_vision.data.index import Index
from lit_vision.data.rasterise import class_mask
from lit_vision.errors import DataError


def picture(path: Path, values: object = 0, size: tuple[int, int] = (8, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.broadcast_to(np.asarray(values, np.uint8), size).copy())
    return path


def problems(index: Index, task: Task) -> list[str]:
    with pytest.raises(DataError) as error:
        check(index, task)
    return list(error.value.problems)


def fingerprint(root: Path) -> dict[str, tuple[str, int]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def classes(root: Path) -> Path:
    for part in ("train", "val"):
        for name in "ab":
            picture(root / part / name / "1.png")
    return root


def masks(root: Path) -> Path:
    for part in ("train", "val"):
        picture(root / "images" / part / "1.png")
        picture(root / "masks" / part / "1.png", np.arange(80).reshape(8, 10) % 2)
    (root / "classes.json").write_text('{"classes": ["a", "b"]}')
    return root


def coco(root: Path, **row: object) -> Path:
    for number, part in enumerate(("train", "val")):
        picture(root / "images" / part / "1.png")
        image = {"id": 1, "file_name": "1.png", "width": 10, "height": 8}
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]} | (row if number == 0 else {})
        data = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(data))
    return root


def test_a_sound_data_set_passes_and_nothing_is_touched(tmp_path: Path) -> None:
    root = masks(tmp_path)
    before = fingerprint(root)
    calls: list[tuple[int, int]] = []
    index = check(read(root), "segmentation", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    assert index.sizes.tolist() == [[8, 10], [8, 10]]
    assert fingerprint(root) == before


def test_the_launches_of_a_rehearsal_look_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = masks(tmp_path / "set")
    first = check(read(root), "segmentation")
    monkeypatch.setenv(FILES_CHECKED, str(tmp_path / "files.npz"))
    index = read(root)
    picture(root / "masks/val/1.png", size=(9, 9))
    assert len(problems(index, "segmentation")) == 1  # what has problems is not kept
    picture(root / "masks/val/1.png")
    for _ in range(2):
        assert check(index, "segmentation").sizes.tolist() == first.sizes.tolist()
        (root / "masks/val/1.png").unlink(missing_ok=True)  # the second time nothing is opened


def test_bad_files_are_all_named(tmp_path: Path) -> None:
    root = classes(tmp_path)
    index = read(root)
    (root / "train/a/1.png").unlink()
    (root / "train/b/1.png").write_bytes(b"")
    whole = (root / "val/a/1.png").read_bytes()
    (root / "val/a/1.png").write_bytes(whole[: len(whole) // 2])
    (root / "val/b/1.png").write_text("not an image")
    before = fingerprint(root)
    found = problems(index, "classification")
    assert len(found) == 4
    for name, problem in zip(("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"), found, strict=True):
        assert name in problem
    assert fingerprint(root) == before


def test_mask_of_another_size(tmp_path: Path) -> None:
    path = picture(masks(tmp_path) / "masks/train/1.png", 1, (8, 9))
    found = problems(read(tmp_path), "segmentation")
    assert found == [f"{path} is 9 x 8, but its image is 10 x 8: make the mask as large as the image."]


def test_mask_values_beyond_the_classes(tmp_path: Path) -> None:
    values = np.zeros((8, 10), np.uint8)
    values[0, :3] = (1, 2, 255)
    path = picture(masks(tmp_path) / "masks/train/1.png", values)
    found = problems(read(tmp_path), "segmentation")
    assert found[0].startswith(f"{path} has the value 2, but there are 2 classes, 0 to 1: correct the mask")
    assert len(found) == 1
    assert check(read(tmp_path, ignore_index=2), "segmentation").ignore_index == 2


def test_classes_the_training_split_never_shows(tmp_path: Path) -> None:
    root = classes(tmp_path)
    (root / "train/b/1.png").unlink()
    found = problems(read(root), "classification")
    assert len(found) == 1
    assert "the training split never shows b: add examples" in found[0]
    index = check(read(root), "classification", missing_classes="note")
    assert "never shows b" in index.notes[-1]


def test_mask_classes_never_shown(tmp_path: Path) -> None:
    picture(masks(tmp_path) / "masks/train/1.png", 0)
    assert "the training split never shows b" in problems(read(tmp_path), "segmentation")[0]


def test_masks_of_0_and_255_are_told_what_255_means(tmp_path: Path) -> None:
    root = masks(tmp_path)
    for part in ("train", "val"):
        picture(root / "masks" / part / "1.png", np.where(np.arange(10) < 3, 255, 0))
    found = problems(read(tmp_path), "segmentation")
    assert found == [
        f"{tmp_path}: the training split never shows b: add examples, draw the splits anew, or set the option classes "
        "to the others. 30 % of its pixels are 255 = not known; where 255 is a class, set options: {colors: [[0, 0, "
        "0], [255, 255, 255]]}."
    ]
    found = problems(read(tmp_path, classes=["a", "b", "c"]), "segmentation")
    assert found[0].endswith("give the option colors a grey for each class, [255, 255, 255] for that one.")
    found = problems(read(tmp_path, colors=[[0, 0, 0], [255, 0, 0]]), "segmentation")
    assert found[0].endswith("since colors count in no others, or where all are grey in grey ones.")
    index = check(read(tmp_path, colors=[[0, 0, 0], [255, 255, 255]]), "segmentation")
    assert np.bincount(class_mask(index, 0, (8, 10)).ravel()).tolist() == [56, 24]
    picture(tmp_path / "masks/train/1.png", 0)
    assert problems(read(tmp_path), "segmentation")[0].endswith("or set the option classes to the others.")


def test_empty_split_and_duplicates(tmp_path: Path) -> None:
    index = read(classes(tmp_path))
    assert any("no images in its val split" in text for text in problems(index.with_splits([0] * 4), "classification"))
    assert any(
        "no images in its train split" in text for text in problems(index.with_splits([1] * 4), "classification")
    )
    assert any("any split" in text for text in problems(index.with_splits([-1] * 4), "classification"))
    assert len(check(index.with_splits([2] * 4), "classification")) == 4
    (tmp_path / "x.csv").write_text("path,label,split\ntrain/a/1.png,a,train\n./train/a/1.png,a,val\n")
    found = problems(read(tmp_path, "csv"), "classification")
    assert found == ["./train/a/1.png is there twice, in the train and the val split: keep one of them."]


def test_problems_of_the_reader_and_of_the_files_come_together(tmp_path: Path) -> None:
    root = coco(tmp_path, bbox=[3, 3, -1, 2])
    (root / "images/val/1.png").write_bytes(b"")
    found = problems(read(root), "detection")
    assert len(found) == 3
    assert found[0].startswith("annotations/instances_train.json: annotation 1 of 1.png: its box")
    assert "images/val/1.png" in found[1]
    assert "never shows cat" in found[2]


def test_sizes_that_contradict_the_image(tmp_path: Path) -> None:
    root = coco(tmp_path)
    picture(root / "images/train/1.png", size=(10, 8))
    found = problems(read(root), "detection")
    assert found[0].startswith(f"{root / 'images/train/1.png'} is 8 x 10 (upright), but its annotations are for 10 x 8")


def test_boxes_are_checked_once_sizes_are_known(tmp_path: Path) -> None:
    for part, box in (("train", (20, 1, 22, 2)), ("val", (1, 1, 11, 8))):
        picture(tmp_path / f"JPEGImages/{part}.png")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        xml = f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
        (tmp_path / f"Annotations/{part}.xml").write_text(xml)
    index = read(tmp_path, "voc")
    found = problems(index.with_splits([0, 1]), "detection")
    assert found[0].startswith("JPEGImages/train.png: object 1: its box (19, 0, 22, 2) lies wholly outside the image")
    assert len(found) == 1
    index = check(index.with_splits([-1, 2]), "detection")
    assert index.boxes is not None
    assert index.boxes[1].tolist() == [0, 0, 10, 8]
    assert "1 of 2 boxes stuck out" in index.notes[-1]


def test_a_format_that_lacks_what_the_task_needs(tmp_path: Path) -> None:
    assert "read as coco, does not hold what instances needs" in problems(read(coco(tmp_path)), "instances")[0]
    masks = replace(read(tmp_path), boxes=None, mask_kind="classes")  # boxes would do: their objects are cut out
    assert "does not hold what classification needs" in problems(masks, "classification")[0]
    outlined = coco(tmp_path, segmentation=[[1, 1, 3, 1, 3, 3]])
    assert "1 of 2 objects have no outline, the first in images/val/1.png" in problems(read(outlined), "instances")[0]


def test_label_maps_and_object_files(tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / f"maps/images/{part}/1.png")
        picture(tmp_path / f"maps/labels/{part}/1.png", 1)
        picture(tmp_path / f"files/{part}/x/images/1.png")
        picture(tmp_path / f"files/{part}/x/masks/1.png", 255)
    assert len(check(read(tmp_path / "maps", "labelmaps"), "instances")) == 2
    assert len(check(read(tmp_path / "files"), "instances")) == 2
    wrong = picture(tmp_path / "maps/labels/train/1.png", 1, (3, 3))
    assert problems(read(tmp_path / "maps", "labelmaps"), "instances")[0].startswith(f"{wrong} is 3 x 3")
    empty = picture(tmp_path / "files/val/x/masks/1.png", 0)
    assert problems(read(tmp_path / "files"), "instances")[0].startswith(f"{empty} has no pixel that is not 0")


def test_twenty_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    for k in range(25):
        picture(tmp_path / "train/a" / f"{k}.png").write_bytes(b"")
        picture(tmp_path / "val/a" / f"{k}.png")
    with pytest.raises(DataError) as error:
        check(read(tmp_path, "folder"), "classification")
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 5 more problems"


@pytest.mark.parametrize(
    ("names", "fault"), [('["a", "a"]', "'a' is empty or there twice"), ('["a", " "]', "' ' is empty")]
)
def test_class_names_that_cannot_be_told_apart(tmp_path: Path, names: str, fault: str) -> None:
    root = masks(tmp_path)
    (root / "classes.json").write_text(f'{{"classes": {names}}}')
    assert any(fault in problem for problem in problems(read(root), "segmentation"))


def test_a_data_set_without_objects_has_no_classes(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages/a.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    assert any(
        "has no classes, since it has no objects" in problem for problem in problems(read(tmp_path), "detection")
    )


def test_objects_that_were_left_out_are_not_called_missing(tmp_path: Path) -> None:
    root = coco(tmp_path, segmentation=[[1, 1, 2]])
    found = problems(read(root), "instances")
    assert all("malformed" in problem for problem in found if "never shows" not in problem)
    assert not any("does not hold what instances needs" in problem for problem in found)


@pytest.mark.parametrize("crowd", [0, 1])
def test_a_class_that_only_crowds_show_is_not_shown(tmp_path: Path, crowd: int) -> None:
    index = read(coco(tmp_path, iscrowd=crowd))
    if crowd:
        assert any("the training split never shows" in problem for problem in problems(index, "detection"))
    else:
        check(index, "detection")


def test_masks_that_were_given_as_label_maps_are_noted(tmp_path: Path) -> None:
    parts = np.zeros((8, 10), np.uint8)
    parts[1:3, 1:3], parts[5:7, 6:9] = 255, 255
    for k, part in enumerate(("train", "train", "val")):
        picture(tmp_path / "images" / part / f"{k}.png")
        picture(tmp_path / "labels" / part / f"{k}.png", parts)
    found = check(read(tmp_path, "labelmaps", classes=["cell"]), "instances")
    assert [note for note in found.notes if note.startswith(f"3 of 3 label maps of {tmp_path} have few objects, each")]
    for k, part in enumerate(("train", "train")):
        picture(tmp_path / "labels" / part / f"{k}.png", np.where(np.arange(10) < 5, parts, parts // 2))
    found = check(read(tmp_path, "labelmaps", classes=["cell"]), "instances")
    assert not any("few objects" in note for note in found.notes)


def coco_split(root: Path, part: str, boxes: int, **row: object) -> None:
    picture(root / "images" / part / "1.png")
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}
    images = [{"id": 1, "file_name": "1.png", "width": 10, "height": 8}]
    data = {"images": images, "annotations": [{"id": k, **box, **row} for k in range(boxes)]}
    data["categories"] = [{"id": 1, "name": "cat"}]
    (root / f"annotations/instances_{part}.json").write_text(json.dumps(data))


@pytest.mark.parametrize("crowds", [0, 1])
def test_a_validation_without_objects_judges_no_detection(tmp_path: Path, crowds: int) -> None:
    coco_split(coco(tmp_path), "val", boxes=crowds, iscrowd=1)
    assert problems(read(tmp_path), "detection") == [
        f"{tmp_path}: none of the 1 images of the val split shows an object, so that training could not be judged: add "
        "their annotations, or draw the splits anew (folds or split_files)."
    ]
    assert len(check(read(tmp_path), "classification")) == 2  # whose backgrounds are cut out of such images


def test_a_test_split_of_background_is_noted(tmp_path: Path) -> None:
    coco_split(coco(tmp_path), "test", boxes=0)
    said = "None of the 1 images of the test split shows an object: a test has no mean average precision."
    assert check(read(tmp_path), "detection").notes[-1] == said
    coco_split(tmp_path, "test", boxes=1)
    assert said not in check(read(tmp_path), "detection").notes


def test_where_nothing_is_labelled_one_sentence_says_so(tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / "images" / part / "1.png")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    assert problems(read(tmp_path), "detection") == [
        f"{tmp_path}: none of the 2 images has a label file; that of the first, images/train/1.png, was looked for at "
        "labels/train/1.txt: put them there."
    ]
