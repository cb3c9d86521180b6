import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from lit_vision.data.formats import masks
from lit_vision.data.rasterise import class_mask
from lit_vision.errors import UserError

PIXELS = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)


def make(root: Path, part: str = "", folder: str = "masks", mask: Image.Image | None = None) -> None:
    for name in ("images", folder):
        (root / name / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "images" / part / "a.jpg"), np.zeros((2, 3, 3), np.uint8))
    (mask or Image.fromarray(PIXELS)).save(root / folder / part / "a.png")


def test_index_masks_by_split(tmp_path: Path) -> None:
    make(tmp_path, "train")
    make(tmp_path, "val")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    index = masks.read(tmp_path)
    assert index.files.texts() == ["images/train/a.jpg", "images/val/a.jpg"]
    assert index.masks is not None
    assert index.masks.texts() == ["masks/train/a.png", "masks/val/a.png"]
    assert index.splits.tolist() == [0, 1]
    assert index.mask_kind == "classes"
    assert class_mask(index, 0, (2, 3)).tolist() == PIXELS.tolist()


def test_split_folders_above(tmp_path: Path) -> None:
    make(tmp_path / "train")
    make(tmp_path / "test")
    index = masks.read(tmp_path, classes=["a"])
    assert index.files.texts() == ["train/images/a.jpg", "test/images/a.jpg"]
    assert index.splits.tolist() == [0, 2]


def test_palette_gives_indices(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS, "P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0] + [1] * (253 * 3))
    make(tmp_path, folder="SegmentationClass", mask=image)
    index = masks.read(tmp_path, classes=["a", "b", "c"])
    assert class_mask(index, 0, (2, 3)).tolist() == PIXELS.tolist()


def test_colors_and_colors_to_ignore(tmp_path: Path) -> None:
    table = np.zeros((256, 3), np.uint8)
    table[[0, 1, 2]] = [[10, 0, 0], [0, 10, 0], [0, 0, 10]]
    make(tmp_path, mask=Image.fromarray(table[PIXELS]))
    colors = [(10, 0, 0), (0, 10, 0), (0, 0, 10)]
    index = masks.read(tmp_path, classes=["a", "b", "c"], colors=colors, ignore_colors=[(0, 0, 0)])
    assert class_mask(index, 0, (2, 3)).tolist() == PIXELS.tolist()
    strict = masks.read(tmp_path, classes=["a", "b", "c"], colors=colors)
    with pytest.raises(UserError, match=r"masks/a.png"):
        class_mask(strict, 0, (2, 3))


def test_ignore_index_becomes_255(tmp_path: Path) -> None:
    make(tmp_path)
    index = masks.read(tmp_path, classes=["a", "b", "c"], ignore_index=1)
    assert class_mask(index, 0, (2, 3)).tolist() == [[0, 255, 2], [2, 255, 255]]


def test_masks_of_0_and_255_with_grey_colors(tmp_path: Path) -> None:
    shades = np.array([[0, 255, 128], [255, 255, 0]], np.uint8)
    make(tmp_path, mask=Image.fromarray(shades))
    options: dict[str, Any] = {"classes": ["background", "cell"], "colors": [(0, 0, 0), (255, 255, 255)]}
    index = masks.read(tmp_path, **options, ignore_colors=[(128, 128, 128)])
    assert class_mask(index, 0, (2, 3)).tolist() == [[0, 1, 255], [1, 1, 0]]
    with pytest.raises(UserError, match=r"1 pixels have colours that are in no class, first \(128, 128, 128\)"):
        class_mask(masks.read(tmp_path, **options), 0, (2, 3))
    with pytest.raises(UserError, match=r"position of one, 0 to 1: set ignore_colors: \[\[128, 128, 128\]\] instead"):
        masks.read(tmp_path, **options, ignore_index=128)


def test_numbers_beyond_the_colors_are_not_ignored_in_silence(tmp_path: Path) -> None:
    make(tmp_path, mask=Image.fromarray(np.array([[0, 1, 2], [7, 1, 255]], np.uint8)))
    colors = [(10, 0, 0), (0, 10, 0)]
    index = masks.read(tmp_path, classes=["a", "b"], colors=colors, ignore_colors=[(0, 0, 10)])
    assert class_mask(index, 0, (2, 3)).tolist() == [[0, 1, 255], [7, 1, 255]]  # 7 is refused by those who see it


def test_missing_partners_are_named(tmp_path: Path) -> None:
    make(tmp_path)
    cv2.imwrite(str(tmp_path / "images/b.png"), np.zeros((2, 3, 3), np.uint8))
    Image.fromarray(PIXELS).save(tmp_path / "masks/c.png")
    index = masks.read(tmp_path, classes=["a", "b", "c"])
    assert len(index) == 1
    assert index.problems[0].startswith("images/b.png has no mask masks/b.png")
    assert index.problems[1].startswith("masks/c.png has no image of its name in images")


def test_mask_suffix(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "masks/a.png").rename(tmp_path / "masks/a_L.png")
    index = masks.read(tmp_path, classes=["a"], mask_suffix="_L")
    assert index.masks is not None
    assert index.masks.texts() == ["masks/a_L.png"]


def test_voc_lists_choose_and_split(tmp_path: Path) -> None:
    make(tmp_path, folder="SegmentationClass")
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    cv2.imwrite(str(tmp_path / "JPEGImages/unsegmented.jpg"), np.zeros((2, 3, 3), np.uint8))
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("a\n")
    index = masks.read(tmp_path, classes=["a"])
    assert index.splits.tolist() == [1]
    assert index.problems == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "class names are missing"),
        ({"classes": ["a", "b"], "colors": [(0, 0, 0)]}, "1 colors for 2 classes"),
        ({"classes": ["a", "b"], "colors": [(0, 0, 0), (0, 0, 0)]}, "stands for two classes"),
        ({"classes": ["a"], "colors": [(0, 0, 300)]}, "not three numbers from 0 to 255"),
        ({"classes": ["a"], "masks": "nowhere"}, "no image and mask folders"),
        ({"classes": ["a"], "ignore_index": -1}, "ignore_index is -1, but the values of masks are 0 to 255"),
        ({"classes": ["a"], "ignore_index": 300}, "ignore_index is 300, but the values of masks are 0 to 255"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, object], words: str) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=words):
        masks.read(tmp_path, **options)  # type: ignore[arg-type]  # wrong on purpose


def test_malformed_classes_file(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "classes.json").write_text('{"classes": [1]}')
    with pytest.raises(UserError, match=r"classes.json is malformed"):
        masks.read(tmp_path)
