from pathlib import Path

import cv2
import numpy as np
import pytest

from lit_vision.data.formats import folder
from lit_vision.errors import UserError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))


def test_splits_classes_and_natural_order(tmp_path: Path) -> None:
    for name in ("train/red fox/10.png", "train/red fox/2.png", "train/bear/a.JPG", "val/bear/b.png"):
        picture(tmp_path / name)
    index = folder.read(tmp_path)
    assert index.class_names == ("bear", "red fox")
    assert index.files.texts() == [
        "train/bear/a.JPG",
        "train/red fox/2.png",
        "train/red fox/10.png",
        "val/bear/b.png",
    ]
    assert index.labels.tolist() == [0, 1, 1, 0]
    assert index.splits.tolist() == [0, 0, 0, 1]
    assert index.boxes is None


def test_without_splits_a_class_may_be_called_train(tmp_path: Path) -> None:
    picture(tmp_path / "train/1.png")
    picture(tmp_path / "bus/1.png")
    index = folder.read(tmp_path)
    assert index.class_names == ("bus", "train")
    assert index.splits.tolist() == [-1, -1]


def test_classes_option_chooses_and_orders(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / name / "1.png")
    index = folder.read(tmp_path, classes=["c", "a"])
    assert [index.files.text(i) for i in range(2)] == ["c/1.png", "a/1.png"]
    assert index.labels.tolist() == [0, 1]
    assert any("b" in note for note in index.notes)
    with pytest.raises(UserError, match=r"'aa'.*did you mean 'a'"):
        folder.read(tmp_path, classes=["aa"])


def test_other_files_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a/1.png")
    picture(tmp_path / "b/1.png")
    (tmp_path / "a/notes.txt").write_text("x")
    (tmp_path / "a/.hidden.png").write_text("x")
    index = folder.read(tmp_path)
    assert len(index) == 2
    assert "1 files" in index.notes[0]
    assert "a/notes.txt" in index.notes[0]


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder per class"):
        folder.read(tmp_path)


def test_links_that_lead_back_are_not_followed_and_others_are(tmp_path: Path) -> None:
    for name in ("root/a/1.png", "root/b/2.png", "elsewhere/3.png"):
        picture(tmp_path / name)
    (tmp_path / "root/a/loop").symlink_to(tmp_path / "root")
    (tmp_path / "root/b/more").symlink_to(tmp_path / "elsewhere")
    assert folder.read(tmp_path / "root").files.texts() == ["a/1.png", "b/2.png", "b/more/3.png"]
