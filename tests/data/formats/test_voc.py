from pathlib import Path

import cv2
import numpy as np
import pytest

from lit_vision.data.formats import voc
from lit_vision.errors import UserError


def item(name: str = "cat", box: tuple[object, ...] = (1, 2, 4, 3), difficult: int = 0) -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def make(
    root: Path, stem: str, objects: str = "", size: str = "<width>6</width><height>4</height>", **lists: str
) -> Path:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / f"JPEGImages/{stem}.jpg"), np.zeros((4, 6, 3), np.uint8))
    text = f"<annotation><filename>{stem}.jpg</filename><size>{size}</size>{objects}</annotation>"
    (root / f"Annotations/{stem}.xml").write_text(text)
    for name, content in lists.items():
        (root / f"ImageSets/Main/{name}.txt").write_text(content)
    return root


def test_corners_are_one_based_and_inclusive(tmp_path: Path) -> None:
    index = voc.read(make(tmp_path, "a", item() + item("bus", (1, 1, 6, 4), difficult=1)))
    assert index.boxes is not None
    assert index.boxes.tolist() == [[0, 1, 4, 3], [0, 0, 6, 4]]
    assert index.crowd is not None
    assert index.crowd.tolist() == [False, True]
    assert index.class_names == ("bus", "cat")
    assert index.labels.tolist() == [1, 0]
    assert index.sizes.tolist() == [[4, 6]]
    assert index.splits.tolist() == [-1]


def test_options(tmp_path: Path) -> None:
    make(tmp_path, "a", item(difficult=1) + item("bus", (0, 0, 2, 2)))
    index = voc.read(tmp_path, one_based=False, difficult="keep", classes=["cat"])
    assert index.boxes is not None
    assert index.boxes.tolist() == [[1, 2, 5, 4]]
    assert index.crowd is not None
    assert index.crowd.tolist() == [False]
    assert "1 objects of classes left out" in index.notes[0]
    with pytest.raises(UserError, match="did you mean 'cat'"):
        voc.read(tmp_path, classes=["cats"])


def test_lists_give_splits_and_others_are_counted(tmp_path: Path) -> None:
    for stem in "abc":
        make(tmp_path, stem)
    make(tmp_path, "d", train="b\n", val="a\n", cat_train="d 1\n")
    index = voc.read(tmp_path)
    assert index.files.texts() == ["JPEGImages/b.jpg", "JPEGImages/a.jpg"]
    assert index.splits.tolist() == [0, 1]
    assert index.notes == ("2 files of Annotations are in no list of ImageSets/Main and were left out.",)


def test_images_in_a_folder_beside(tmp_path: Path) -> None:
    make(tmp_path / "voc", "a", train="a\n")
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "voc/JPEGImages/a.jpg").rename(tmp_path / "images/train/a.jpg")
    (tmp_path / "voc/JPEGImages").rmdir()
    index = voc.read(tmp_path / "voc")
    assert index.files.texts() == ["../images/train/a.jpg"]
    assert index.path(0).is_file()


def test_every_bad_record_is_named(tmp_path: Path) -> None:
    objects = (
        item() + item("", (1, 1, 2, 2)) + item(box=("x", 1, 2, 2)) + item(box=(5, 1, 2, 2)) + item(box=(9, 9, 9, 9))
    )
    make(tmp_path, "good", objects + item(box=("nan", 1, 2, 2)) + "<object><name>cat</name></object>")
    make(tmp_path, "broken")
    (tmp_path / "Annotations/broken.xml").write_text("<annotation><object>")
    make(tmp_path, "gone")
    (tmp_path / "JPEGImages/gone.jpg").unlink()
    make(tmp_path, "odd", size="<width>wide</width><height>4</height>")
    make(tmp_path, "last", train="good\nbroken\ngone\nodd\nlast\nnobody\n", val="last\n")
    index = voc.read(tmp_path)
    assert len(index.labels) == 1
    found = "\n".join(index.problems)
    for words in (
        "Annotations/good.xml: object 2: it has no name",
        "Annotations/good.xml: object 3 has no xmin, ymin, xmax, ymax that are numbers",
        "Annotations/good.xml: object 4: its box (5, 1, 2, 2) is inverted or empty: correct or delete it.",
        "Annotations/good.xml: object 5: its box (9, 9, 9, 9) lies wholly outside the image (6 wide, 4 high)",
        "Annotations/good.xml: object 6: its box (nan, 1, 2, 2) has a coordinate that is not a number",
        "Annotations/good.xml: object 7 has no xmin",
        "Annotations/broken.xml is not readable XML",
        "Annotations/gone.xml names the image gone.jpg, which is not in JPEGImages",
        "Annotations/odd.xml has a size that is not a number",
        "ImageSets/Main/train.txt, line 6 names nobody, but there is no Annotations/nobody.xml",
        "ImageSets/Main/val.txt, line 1 names last, which is in another split too",
    ):
        assert words in found
    assert len(index.problems) == 11


def test_no_annotations(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no XML files"):
        voc.read(tmp_path)


@pytest.mark.parametrize("width", ["inf", "1e999", "six"])
def test_sizes_that_are_no_numbers(tmp_path: Path, width: str) -> None:
    index = voc.read(make(tmp_path, "a", item(), f"<width>{width}</width><height>4</height>"))
    assert index.problems == ("Annotations/a.xml has a size that is not a number: correct its width and height.",)


def test_an_object_of_one_pixel(tmp_path: Path) -> None:
    index = voc.read(make(tmp_path, "a", item(box=(6, 4, 6, 4))))
    assert index.boxes is not None
    assert index.boxes.tolist() == [[5, 3, 6, 4]]
