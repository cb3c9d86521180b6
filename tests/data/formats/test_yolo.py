from pathlib import Path

import cv2
import numpy as np
import pytest

from lit_vision.data.formats import yolo
from lit_vision.data.formats.yolo_files import label_path
from lit_vision.data.index import NO_SEGMENT, POLYGONS
from lit_vision.errors import UserError

YAML = "path: .\ntrain: images/train\nnames: [cat, dog]\n"


def make(root: Path, labels: str | None, yaml: str = YAML, stem: str = "a", split: str = "train") -> Path:
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    (root / "labels" / split).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "images" / split / f"{stem}.png"), np.zeros((50, 100, 3), np.uint8))
    if labels is not None:
        (root / "labels" / split / f"{stem}.txt").write_text(labels)
    (root / "data.yaml").write_text(yaml)
    return root


def test_boxes_and_polygons_in_pixels(tmp_path: Path) -> None:
    index = yolo.read(make(tmp_path, "1 0.5 0.5 0.2 0.4\n0 0.1 0.2 0.3 0.2 0.3 0.6\n\n"))
    assert index.boxes is not None
    assert index.boxes.tolist() == [[40, 15, 60, 35], [10, 10, 30, 30]]
    assert index.labels.tolist() == [1, 0]
    assert index.segment_kinds is not None
    assert index.segments is not None
    assert index.segment_kinds.tolist() == [NO_SEGMENT, POLYGONS]
    assert np.frombuffer(index.segments.raw(1), np.float32).tolist() == [10, 10, 30, 10, 30, 30]
    assert index.sizes.tolist() == [[50, 100]]
    assert index.files.texts() == ["images/train/a.png"]


def test_missing_and_empty_label_files_are_ordinary(tmp_path: Path) -> None:
    make(tmp_path, None, stem="a")
    index = yolo.read(make(tmp_path, "", stem="b"))
    assert index.offsets.tolist() == [0, 0, 0]
    assert index.problems == ()
    assert index.notes == (
        "1 of 2 images have no label file and count as empty of objects: the first is images/train/a.png, whose labels "
        "would be in labels/train/a.txt.",
    )


def test_not_one_label_file_is_a_problem_that_says_where_they_would_be(tmp_path: Path) -> None:
    make(tmp_path, None, stem="a")
    index = yolo.read(make(tmp_path, None, stem="b"))
    assert index.notes == ()
    assert index.problems == (
        f"{tmp_path}: none of the 2 images has a label file; that of the first, images/train/a.png, was looked for at "
        "labels/train/a.txt: put them there.",
    )


@pytest.mark.parametrize("entry", ["images/train", "./images/train/", "[images/train]"])
def test_a_split_that_repeats_another_is_left_out(tmp_path: Path, entry: str) -> None:
    """As in coco128.yaml; val and test as one set are common, too."""
    make(tmp_path, "0 0.5 0.5 1 1\n", split="other")
    index = yolo.read(make(tmp_path, "0 0.5 0.5 1 1\n", YAML + f"val: {entry}\ntest: images/other\n"))
    assert index.splits.tolist() == [0, 2]
    assert index.notes == ("data.yaml: val names the same images as train, and is left out.",)
    index = yolo.read(make(tmp_path, "0 0.5 0.5 1 1\n", YAML + "val: images/other\ntest: images/other\n"))
    assert index.splits.tolist() == [0, 1]
    assert index.notes == ("data.yaml: test names the same images as val, and is left out.",)


def test_a_missing_test_split_is_no_problem_but_of_a_test(tmp_path: Path) -> None:
    """Roboflow's data.yaml names one always."""
    sentence = "data.yaml: test is ../test/images, but there is no folder or .txt list ../test/images: correct it."
    index = yolo.read(make(tmp_path, "0 0.5 0.5 1 1\n", YAML + "test: ../test/images\n"))
    assert (index.problems, index.notes, index.absent_test) == ((), (sentence,), sentence)
    index = yolo.read(make(tmp_path, "0 0.5 0.5 1 1\n", YAML + "test: [images/train, ../test/images]\n"))
    assert (index.problems, index.notes, index.absent_test) == ((sentence,), (), "")  # of a part one would not know


def test_names_as_dict_lists_of_folders_and_list_files(tmp_path: Path) -> None:
    make(tmp_path, "0 0.5 0.5 1 1\n", split="one")
    make(tmp_path, None, split="two")
    yaml = "train: [images/one, images/two]\nval: val.txt\nnames: {1: dog, 0: cat}\nnc: 2\n"
    make(tmp_path, "1 0.5 0.5 1 1\n", yaml, stem="b", split="three")
    (tmp_path / "val.txt").write_text("./images/three/b.png\n\n")
    index = yolo.read(tmp_path)
    assert index.class_names == ("cat", "dog")
    assert index.files.texts() == ["images/one/a.png", "images/two/a.png", "images/three/b.png"]
    assert index.splits.tolist() == [0, 0, 1]
    assert index.labels.tolist() == [0, 1]


def test_path_of_another_machine_is_the_yaml_folder(tmp_path: Path) -> None:
    index = yolo.read(make(tmp_path, None, YAML.replace("path: .", "path: /not/on/this/machine")))
    assert len(index) == 1


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    lines = [
        "0 0.5 0.5 0.2 0.2",
        "2 0.5 0.5 0.2 0.2",
        "x 0 0 0 0",
        "0.5 0.5 0.5 0.2 0.2",
        "0 0.5 0.5 0.2",
        "0 1 1 1 1 1",
    ]
    lines += ["0 320 240 10 10", "0 nan 0.5 0.1 0.1", "0 0.5 0.5 0 0.1", "0 1.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1"]
    index = yolo.read(make(tmp_path, "\n".join(lines)))
    assert len(index.labels) == 1
    expected = [
        "class 2 is not in names, which has 0 to 1",
        "'x 0 0 0 0' holds something that is not a number",
        "the class 0.5 is not a whole number",
        "4 numbers are neither a box",
        "6 numbers are neither a box",
        "320 is not a fraction",
        "a coordinate is not a number",
        "the box's width 0 and height 0.1 must be above 0",
        "the box lies wholly outside the image",
        "class -1 is not in names",
    ]
    assert len(index.problems) == len(expected)
    for number, (problem, words) in enumerate(zip(index.problems, expected, strict=True), 2):
        assert problem.startswith(f"labels/train/a.txt, line {number}: ")
        assert words in problem


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("train: images/train\n", "data.yaml has no names"),
        ("names: [a, a]\ntrain: images/train\n", "names has 'a' twice"),
        ("names: {0: a, 2: b}\ntrain: images/train\n", "keys of names must be 0 to 1"),
        ("names: [a]\nnc: 2\ntrain: images/train\n", "nc is 2 but names has 1"),
        ("names: [a]\n", "neither train nor val"),
        ("names: [a\ntrain: x", "data.yaml is not YAML"),
        ("names: 3\ntrain: images/train\n", "names must be a list"),
        ("names: [{a: 1}]\ntrain: images/train\n", "names must be a list"),
        ("names: [a]\nkpt_shape: [17, 2]\ntrain: images/train\n", "pose data set"),
    ],
)
def test_bad_yaml(tmp_path: Path, yaml: str, words: str) -> None:
    make(tmp_path, None, yaml)
    with pytest.raises(UserError, match=words):
        yolo.read(tmp_path, data="data.yaml")


def test_missing_folder_is_a_problem(tmp_path: Path) -> None:
    index = yolo.read(make(tmp_path, None, YAML + "val: images/nowhere\n"))
    assert index.problems[0].startswith("data.yaml: val is images/nowhere, but there is no folder")


def test_the_last_images_folder_becomes_labels() -> None:
    assert label_path(Path("/images/x/images/train/a.b.jpg")) == Path("/images/x/labels/train/a.b.txt")
    assert label_path(Path("/x/a.jpg")) == Path("/x/a.txt")


def test_class_names_stay_as_they_are_written(tmp_path: Path) -> None:
    """YAML would make false, true, 1 and None of them."""
    yaml = YAML.replace("[cat, dog]", "[no, yes, 01, null, 'a: b']")
    assert yolo.read(make(tmp_path, None, yaml)).class_names == ("no", "yes", "01", "null", "a: b")
    assert yolo.read(make(tmp_path, None, YAML + "nc: '2'\n")).class_names == ("cat", "dog")


def test_label_files_without_an_image_are_told(tmp_path: Path) -> None:
    make(tmp_path, "0 0.5 0.5 1 1\n")
    for name in ("ghost.txt", "classes.txt"):
        (tmp_path / "labels/train" / name).write_text("0 0.5 0.5 1 1\n")
    notes = yolo.read(tmp_path).notes
    assert notes == ("1 label files have no image and were left out, the first is labels/train/ghost.txt.",)
    (tmp_path / "labels/train/ghost.txt").unlink()
    assert yolo.read(tmp_path).notes == ()


def test_lists_with_a_dot_are_relative_to_themselves(tmp_path: Path) -> None:
    make(tmp_path, "0 0.5 0.5 1 1\n", "train: lists/one.txt\nval: lists/two.txt\nnames: [cat, dog]\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/one.txt").write_text("./../images/train/a.png\n")
    (tmp_path / "lists/two.txt").write_text("images/train/a.png\n")
    index = yolo.read(tmp_path)
    assert [path.is_file() for path in (index.path(0), index.path(1))] == [True, True]
    assert index.labels.tolist() == [0, 0]
