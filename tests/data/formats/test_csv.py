from pathlib import Path

import pytest

from lit_vision.data.formats import csv
from lit_vision.errors import UserError


def write(root: Path, text: str) -> Path:
    (root / "labels.csv").write_text(text, "utf-8")
    return root


def test_single_labels_splits_and_groups(tmp_path: Path) -> None:
    root = write(tmp_path, 'path,label,split,plate\n"a, b.jpg",cat,train,p1\nc.jpg,dog,valid,p2\n')
    index = csv.read(root, group_column="plate")
    assert index.files.texts() == ["a, b.jpg", "c.jpg"]
    assert index.class_names == ("cat", "dog")
    assert index.splits.tolist() == [0, 1]
    assert index.groups is not None
    assert index.groups.texts() == ["p1", "p2"]
    assert not index.multi_label


def test_several_labels(tmp_path: Path) -> None:
    index = csv.read(write(tmp_path, "path,label\na.jpg,x|y\nb.jpg,\nc.jpg, y \n"), images="pictures")
    assert index.multi_label
    assert index.offsets.tolist() == [0, 2, 2, 3]
    assert index.labels.tolist() == [0, 1, 1]
    assert index.files.text(0) == "pictures/a.jpg"
    assert index.problems == ()


def test_numbers_sort_as_numbers(tmp_path: Path) -> None:
    assert csv.read(write(tmp_path, "path,label\na,10\nb,9\n")).class_names == ("9", "10")
    assert csv.read(write(tmp_path, "path,label\na,10\nb,9\nc,x\n")).class_names == ("10", "9", "x")


def test_bad_lines_are_all_named(tmp_path: Path) -> None:
    root = write(
        tmp_path, "path,label,split\na.jpg,,train\n,cat,train\nb.jpg,cat,trian\nc.jpg,cat,train,9\nd.jpg,cat,\n"
    )
    index = csv.read(root)
    assert index.files.texts() == ["d.jpg"]
    text = "\n".join(index.problems)
    assert "labels.csv, line 2: a.jpg has 0 labels" in text
    assert "labels.csv, line 3: the cell 'path' is empty" in text
    assert "labels.csv, line 4: unknown split 'trian'; write train, val or test." in text
    assert "labels.csv, line 5: more cells" in text
    assert len(index.problems) == 4


def test_missing_column_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels.csv has no column 'label'.*did you mean 'labels'"):
        csv.read(write(tmp_path, "path,labels\na,b\n"))


def test_several_files_need_a_choice(tmp_path: Path) -> None:
    write(tmp_path, "path,label\na,b\n")
    (tmp_path / "other.csv").write_text("path,label\nc,d\n")
    with pytest.raises(UserError, match=r"several CSV files: set file to one of labels.csv, other.csv"):
        csv.read(tmp_path)
    assert csv.read(tmp_path, file="other.csv").class_names == ("d",)
    assert csv.read(tmp_path / "other.csv").files.texts() == ["c"]


def test_other_delimiters_are_recognised_in_the_sentence(tmp_path: Path) -> None:
    root = write(tmp_path, "path;label\na.jpg;cat\n")
    with pytest.raises(UserError, match="no column 'path' in its first line: set the option delimiter to ';'"):
        csv.read(root)
    assert csv.read(root, delimiter=";").class_names == ("cat",)
