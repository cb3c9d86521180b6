import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from lit_vision.data.convert import convert
from lit_vision.data.formats import labelmaps
from lit_vision.data.rasterise import rasterise
from lit_vision.errors import UserError

MAP = np.array([[0, 7, 7, 0], [300, 300, 0, 2]], np.uint16)


def picture(path: Path, pixels: np.ndarray) -> None:  # type: ignore[type-arg]  # any depth
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())  # cv2.imwrite takes no name that is no UTF-8


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_label_maps_are_renumbered(tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "images/train/a.png", np.zeros((2, 4, 3), np.uint8))
    (tmp_path / "labels/train").mkdir(parents=True)
    if kind == "png":
        picture(tmp_path / "labels/train/a.png", MAP)
    else:
        tifffile.imwrite(tmp_path / "labels/train/a.tif", MAP)
    index = labelmaps.read(tmp_path)
    assert index.class_names == ("object",)
    assert index.splits.tolist() == [0]
    instances, labels, crowd = rasterise(index, 0, (2, 4))
    assert instances.tolist() == [[0, 2, 2, 0], [3, 3, 0, 1]]
    assert labels.tolist() == [0, 0, 0]
    assert not crowd.any()


def test_class_by_vote(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png", np.zeros((2, 4, 3), np.uint8))
    picture(tmp_path / "labels/a.png", MAP)
    # Object 7: one vote for class 1, ignored 255; object 300: two for class 0; object 2: class 1.
    picture(tmp_path / "classes/a.png", np.array([[0, 2, 255, 0], [1, 1, 0, 2]], np.uint8))
    index = labelmaps.read(tmp_path, classes=["round", "long"])
    assert rasterise(index, 0, (2, 4))[1].tolist() == [1, 1, 0]
    picture(tmp_path / "classes/a.png", np.zeros((2, 4), np.uint8))
    with pytest.raises(UserError, match=r"classes/a.png gives object 2 no class: paint"):
        rasterise(index, 0, (2, 4))
    picture(tmp_path / "classes/a.png", np.array([[0, 3, 2, 0], [3, 1, 0, 2]], np.uint8))  # 3 is no class: no vote
    assert rasterise(index, 0, (2, 4))[1].tolist() == [1, 1, 0]
    picture(tmp_path / "classes/a.png", np.array([[0, 2, 2, 0], [3, 3, 0, 2]], np.uint8))
    with pytest.raises(UserError, match=r"gives object 300 no class, but the value 3, and there are 2 classes: paint"):
        rasterise(index, 0, (2, 4))


def test_several_classes_need_class_masks(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png", np.zeros((2, 4, 3), np.uint8))
    picture(tmp_path / "instances/a.png", MAP)
    with pytest.raises(UserError, match="no folder classes/"):
        labelmaps.read(tmp_path, classes=["a", "b"])
    (tmp_path / "classes").mkdir()
    assert labelmaps.read(tmp_path, classes=["a", "b"]).problems == (
        "instances/a.png has no class mask classes/a.png: add it.",
    )


def test_class_masks_lie_beside_the_label_maps(tmp_path: Path) -> None:
    for root, names in (
        (tmp_path / "a", "{}/train/1.png"),
        (tmp_path / "b", "train/{}/1.png"),
        (tmp_path / "c", "{}/1.png"),
    ):
        for folder in ("images", "labels", "classes"):
            picture(root / names.format(folder), np.ones((2, 4), np.uint8))
        index = labelmaps.read(root, classes=["x", "y"])
        assert index.problems == ()
        assert index.class_masks is not None
        assert index.class_masks.texts() == [names.format("classes")]


def test_one_file_per_object(tmp_path: Path) -> None:
    for name in ("x1", "x2"):
        picture(tmp_path / f"stage1_train/{name}/images/{name}.png", np.zeros((2, 4, 3), np.uint8))
    (tmp_path / "stage1_train/x2/masks").mkdir()
    left, right = np.zeros((2, 2, 4), np.uint8)
    left[:, 0], right[:, 1:] = 255, 255
    picture(tmp_path / "stage1_train/x1/masks/1.png", left)
    picture(tmp_path / "stage1_train/x1/masks/2.png", right)
    index = labelmaps.read(tmp_path, classes=["nucleus"])
    assert index.files.texts() == ["stage1_train/x1/images/x1.png", "stage1_train/x2/images/x2.png"]
    assert index.offsets.tolist() == [0, 2, 2]
    assert rasterise(index, 0, (2, 4))[0].tolist() == [[1, 2, 2, 2], [1, 2, 2, 2]]
    assert rasterise(index, 1, (2, 4))[0].max() == 0
    with pytest.raises(UserError, match="name one class, not 2"):
        labelmaps.read(tmp_path, classes=["a", "b"])


def test_two_images_in_a_sample(tmp_path: Path) -> None:
    for name in ("1", "2"):
        picture(tmp_path / f"x/images/{name}.png", np.zeros((2, 4, 3), np.uint8))
    (tmp_path / "x/masks").mkdir()
    assert labelmaps.read(tmp_path).problems == ("x/images holds 2 images: there must be exactly one.",)


def test_a_folder_of_masks_in_stardists_layout(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b")[: 1 + (split == "train")]:
            for folder in ("images", "masks"):
                (tmp_path / split / folder).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / split / "images" / f"{name}.tif", np.zeros((2, 4), np.uint16))
            tifffile.imwrite(tmp_path / split / "masks" / f"{name}.tif", MAP)
    index = labelmaps.read(tmp_path)
    assert index.files.texts() == ["train/images/a.tif", "train/images/b.tif", "test/images/a.tif"]
    assert index.splits.tolist() == [0, 0, 2]
    assert index.problems == ()
    assert rasterise(index, 2, (2, 4))[0].tolist() == [[0, 2, 2, 0], [3, 3, 0, 1]]
    assert labelmaps.found(tmp_path) is None  # they may hold classes, too
    assert labelmaps.found_in_masks(tmp_path) == "images with label maps in train/masks/"
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"]}')
    assert labelmaps.found_in_masks(tmp_path) is None


def test_a_sample_may_be_named_as_a_split(tmp_path: Path) -> None:
    for name in ("test_1", "test_2"):
        picture(tmp_path / f"{name}/images/{name}.png", np.zeros((2, 4), np.uint8))
        picture(tmp_path / f"{name}/masks/0.png", np.ones((2, 4), np.uint8))
    assert labelmaps.read(tmp_path).files.texts() == ["test_1/images/test_1.png", "test_2/images/test_2.png"]
    assert labelmaps.found_in_masks(tmp_path) is None


@pytest.mark.parametrize(("image", "mask"), [("{}_img", "{}_masks"), ("{}", "{}_masks"), ("{}_img", "{}_img_masks")])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_label_maps_beside_their_images_as_cellposes(tmp_path: Path, image: str, mask: str, kind: str) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name in ("000", "001"):
            picture(tmp_path / split / f"{image.format(name)}.png", np.zeros((2, 4), np.uint8))
            file = tmp_path / split / f"{mask.format(name)}.{kind}"
            picture(file, MAP) if kind == "png" else tifffile.imwrite(file, MAP)
            for other in ("_flows.tif", "_cp_masks.png"):  # which Cellpose writes beside them
                tifffile.imwrite(tmp_path / split / f"{image.format(name)}{other}", np.zeros((3, 2, 4), np.float32))
            (tmp_path / split / f"{image.format(name)}_seg.npy").write_bytes(b"")
    assert labelmaps.found(tmp_path) == "label maps named as their images in train/, with _masks after it"
    index = labelmaps.read(tmp_path)
    assert index.files.texts() == [f"{s}/{image.format(n)}.png" for s in ("train", "test") for n in ("000", "001")]
    assert index.splits.tolist() == [0, 0, 2, 2]
    assert index.problems == ()
    assert rasterise(index, 3, (2, 4))[0].tolist() == [[0, 2, 2, 0], [3, 3, 0, 1]]
    assert index.notes[0].startswith("4 files of train were left out, whose names end in _cp_masks or")
    with pytest.raises(UserError, match="beside its images, which say no class: name one class"):
        labelmaps.read(tmp_path, classes=["a", "b"])


def test_what_lies_alone_in_a_folder_of_both_is_named(tmp_path: Path) -> None:
    for name in ("1", "1_cp_masks", "2_img", "3_cp_masks"):
        picture(tmp_path / f"{name}.png", np.zeros((2, 4), np.uint8))
    index = labelmaps.read(tmp_path, mask_suffix="_cp_masks")
    assert index.files.texts() == ["1.png"]
    assert index.problems == (
        "2_img.png has no mask 2_cp_masks.png: add it or remove the image.",
        "3_cp_masks.png has no image of its name beside it: add it or remove it.",
    )


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no label maps"):
        labelmaps.read(tmp_path)


@pytest.mark.parametrize("files", [False, True])
def test_names_that_are_no_utf8(tmp_path: Path, files: bool) -> None:
    name = os.fsdecode(b"caf\xe9")
    if files:
        image, mask = f"{name}/images/{name}.png", f"{name}/masks/{name}.png"
    else:
        image, mask = f"images/train/{name}.png", f"labels/train/{name}.png"
    picture(tmp_path / image, np.zeros((2, 4, 3), np.uint8))
    picture(tmp_path / mask, np.array([[0, 0, 7, 7], [0, 0, 7, 7]], np.uint8))
    index = labelmaps.read(tmp_path)
    assert index.files.texts() == [image]
    assert index.path(0).is_file()
    assert rasterise(index, 0, (2, 4))[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    convert(tmp_path, tmp_path.parent / f"{tmp_path.name}_coco", "coco", "labelmaps")
    assert [path.name for path in tmp_path.parent.glob(f"{tmp_path.name}_coco/images/**/*.png")] == ["caf_.png"]
