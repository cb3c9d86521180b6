"""Objects of a detection set as pictures to classify: what is cut out, what is background, who is in which split."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lit_vision.callbacks.feature_key import data_key, is_random
from lit_vision.data.classification import ClassificationDataModule
from lit_vision.data.crops import ObjectCrops, crops_of, cut_out, jittered, whole_pixels, with_margin
from lit_vision.data.decode import read_image
from lit_vision.data.detection import DetectionDataModule
from lit_vision.errors import DataError, UserError
from lit_vision.ops.boxes import iou

NAMES = ("bar", "disc")


def write_set(root: Path, pictures: int = 6, names: tuple[str, ...] = NAMES, crowd: bool = False) -> Path:
    """COCO data of 40 x 60 pictures: an object of each class, its pixels 100 + class, on 9; red says which picture."""
    (root / "images").mkdir(parents=True)
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    coco["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
    for i in range(pictures):
        image = np.full((40, 60, 3), 9, np.uint8)
        for k in range(len(names)):
            x, y, w, h = 4 + 24 * k, 10, 12 + 4 * k, 8
            image[y : y + h, x : x + w] = 100 + k
            row = {"id": len(coco["annotations"]) + 1, "image_id": i + 1, "category_id": k + 1, "area": w * h}
            coco["annotations"].append({**row, "bbox": [x, y, w, h], "iscrowd": int(crowd and k == 1 and i == 0)})
        image[..., 2] = i  # OpenCV's order: red
        cv2.imwrite(str(root / "images" / f"{i}.png"), image)
        coco["images"].append({"id": i + 1, "file_name": f"{i}.png", "height": 40, "width": 60})
    (root / "instances.json").write_text(json.dumps(coco))
    return root


def module(root: Path, crops: ObjectCrops | None = None, **settings: Any) -> ClassificationDataModule:
    common = {"image_size": 16, "fit": "stretch", "batch_size": 4, "num_workers": 0, "augmentation": "none"}
    return ClassificationDataModule(str(root), crops, **{**common, "val_fraction": 0.34, **settings})


def test_objects_and_backgrounds_are_cut_out_without_files(tmp_path: Path) -> None:
    data = module(write_set(tmp_path), ObjectCrops(background=3))
    assert data.class_names == ["bar", "disc", "background"]
    assert data.class_counts == [4, 4, 12]
    samples = [data.dataset("val")[k] for k in range(len(data.dataset("val")))]
    assert [int(sample["label"]) for sample in samples] == [0, 1, 2, 2, 2] * 2
    for sample in samples[:2]:  # all pixels are the object's own
        assert sample["image"][1:].unique().tolist() == [100 + int(sample["label"])]
    boxes = data.index.boxes
    assert boxes is not None
    truth = torch.tensor([[4.0, 10, 16, 18], [28, 10, 44, 18]])
    empty = torch.from_numpy(boxes[data.index.labels == 2])
    assert float(iou(empty, truth).max()) < 0.3
    assert bool((empty[:, :2] >= 0).all() and (empty[:, 2] <= 60).all() and (empty[:, 3] <= 40).all())
    sizes = {tuple(side) for side in (empty[:, 2:] - empty[:, :2]).tolist()}
    assert {side for side in sizes if side in {(12.0, 8.0), (16.0, 8.0)}}  # of the objects' own sizes
    assert len({tuple(box) for box in empty.tolist()}) > 12


def test_crops_of_a_picture_are_all_in_its_split(tmp_path: Path) -> None:
    write_set(tmp_path)
    data = module(tmp_path, seed=3)
    pictures = DetectionDataModule(str(tmp_path), val_fraction=0.34, seed=3, num_workers=0)
    for split in ("train", "val"):
        files = {pictures.index.files.text(int(i)) for i in pictures.index.indices(split)}  # type: ignore[arg-type]
        assert {data.index.files.text(int(i)) for i in data.index.indices(split)} == files  # type: ignore[arg-type]
    reds = {int(sample["image"][0].unique()) for sample in (data.dataset("val")[k] for k in range(6))}
    assert reds == {int(Path(data.dataset("val").path(k)).stem) for k in range(6)}  # pixels of their own file


def test_crops_are_a_function_of_the_seed(tmp_path: Path) -> None:
    write_set(tmp_path)
    first, again, other = (module(tmp_path, seed=seed).index.boxes for seed in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_crowds_are_neither_objects_nor_background(tmp_path: Path) -> None:
    index = DetectionDataModule(str(write_set(tmp_path, crowd=True)), val_fraction=0.34, num_workers=0).index
    found = crops_of(index, ObjectCrops(background=20), 0)
    assert found.boxes is not None
    assert (np.bincount(found.labels)[:2]).tolist() == [6, 5]
    own = torch.from_numpy(found.boxes[(found.labels == 2) & (np.array(found.files.texts()) == "images/0.png")])
    assert len(own) > 5
    assert float(iou(own, torch.tensor([[28.0, 10, 44, 18]])).max()) < 0.3


def test_background_lies_in_no_crowd_region_however_large(tmp_path: Path) -> None:
    """The left half of each picture is one: crops have a tenth of its area, so their IoU with it says little."""
    index = DetectionDataModule(str(write_set(tmp_path)), val_fraction=0.34, num_workers=0).index
    assert index.boxes is not None
    region = np.array([0, 0, 30, 40], np.float32)
    boxes = np.where(index.labels[:, None] == 0, region, [44, 30, 56, 38]).astype(np.float32)
    found = crops_of(replace(index, boxes=boxes, crowd=index.labels == 0), ObjectCrops(background=20), 0)
    assert found.boxes is not None
    empty = found.boxes[found.labels == 2]
    assert len(empty) > 20
    inside = np.clip(30 - empty[:, 0], 0, empty[:, 2] - empty[:, 0]) / (empty[:, 2] - empty[:, 0])
    assert inside.max() < 0.4  # a third, and what rounding to whole pixels adds


def test_margin_and_jitter_show_what_surrounds_an_object(tmp_path: Path) -> None:
    assert with_margin(np.array([10, 20, 30, 60], np.float32), 0.25).tolist() == [5, 10, 35, 70]
    assert whole_pixels(np.array([-3.2, 1.6, 99, 2.4], np.float32), (40, 60)) == [0, 2, 60, 3]
    rng = np.random.default_rng(0)
    box = np.array([100, 100, 140, 120], np.float32)
    moved = np.array([jittered(box, 0.1, rng) for _ in range(500)])
    centres = (moved[:, :2] + moved[:, 2:]) / 2 - [120, 110]
    assert 3.5 < np.abs(centres[:, 0]).max() <= 4.0
    assert 1.7 < np.abs(centres[:, 1]).max() <= 2.0
    widths, heights = (moved[:, 2:] - moved[:, :2]).T
    assert 40 / 1.1 - 1e-3 <= widths.min() < 37.5
    assert 42.5 < widths.max() <= 44 + 1e-3
    np.testing.assert_allclose(widths / heights, 2, rtol=1e-4)

    write_set(tmp_path)
    data = module(tmp_path, ObjectCrops(background=0, jitter=0.4))
    training, evaluation = data.dataset("train", augmented=True), data.dataset("val")
    assert any(9 in training[(epoch, 0)]["image"][1].unique().tolist() for epoch in range(6))
    assert torch.equal(training[(2, 0)]["image"], training[(2, 0)]["image"])
    assert evaluation[0]["image"][1].unique().tolist() == [100]


def test_frames_are_those_of_the_file(tmp_path: Path) -> None:
    sample = module(write_set(tmp_path)).dataset("val")[0]
    corner = sample["frame"] @ torch.tensor([[4.0, 16.0], [10.0, 18.0], [1.0, 1.0]])  # of the bar's box
    torch.testing.assert_close(corner, torch.tensor([[0.0, 16.0], [0.0, 16.0]]))
    assert sample["size"].tolist() == [40, 60]


def test_each_crop_has_a_name_and_a_picture(tmp_path: Path) -> None:
    data = module(write_set(tmp_path), ObjectCrops(background=1))
    assert [data.name_of(i) for i in range(3)] == ["images/0.png#1", "images/0.png#2", "images/0.png#3"]
    assert data.picture_of(1).shape == (8, 16, 3)


def test_kept_features_know_of_crops(tmp_path: Path) -> None:
    write_set(tmp_path)
    one, two, three = (module(tmp_path, ObjectCrops(margin=m, jitter=j)) for m, j in ((0, 0), (0.2, 0), (0, 0.1)))
    keys = {data_key(data.dataset("train", augmented=True), 4) for data in (one, two, three)}
    assert len(keys) == 3
    assert [is_random(data.dataset("train", augmented=True)) for data in (one, three)] == [False, True]


def test_one_class_needs_a_background(tmp_path: Path) -> None:
    write_set(tmp_path, names=("bar",))
    assert module(tmp_path).class_names == ["bar", "background"]
    with pytest.raises(DataError, match="one class only: set data"):
        _ = module(tmp_path, ObjectCrops(background=0)).index


def test_faults_are_named(tmp_path: Path, drawn: Path) -> None:
    with pytest.raises(UserError, match="has no boxes: leave it out"):
        _ = ClassificationDataModule(str(drawn / "classification"), ObjectCrops()).index
    with pytest.raises(UserError, match="background is -1"):
        ObjectCrops(background=-1)
    with pytest.raises(UserError, match=r"jitter 0\.7"):
        ObjectCrops(jitter=0.7)
    with pytest.raises(UserError, match="cache_gib is -1"):
        ObjectCrops(cache_gib=-1)
    index = DetectionDataModule(str(write_set(tmp_path)), val_fraction=0.34, num_workers=0).index
    with pytest.raises(UserError, match="has a class background of its own"):
        crops_of(replace(index, class_names=("background", "disc")), ObjectCrops(), 0)


def test_what_sticks_out_of_a_picture_is_grey() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    assert cut_out(image, (1, 0, 3, 2))[..., 0].tolist() == [[1, 2], [5, 6]]
    assert cut_out(image, (-1, 2, 1, 5), fill=77)[..., 0].tolist() == [[77, 8], [77, 77], [77, 77]]
    assert cut_out(image, (3, -2, 6, 1), fill=77)[..., 0].tolist() == [[77] * 3, [77] * 3, [3, 77, 77]]


@pytest.mark.parametrize(("cache_gib", "decoded"), [(1.0, 4), (0.0, None)])
def test_a_photo_in_memory_is_decoded_once_for_all_its_crops(
    cache_gib: float, decoded: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a shuffled epoch, whose crops are the same with and without it."""
    write_set(tmp_path)
    read: list[Path] = []

    def count(path: Path, *settings: Any) -> Any:
        read.append(path)
        return read_image(path, *settings)

    monkeypatch.setattr("lit_vision.data.dataset.read_image", count)
    data = module(tmp_path, ObjectCrops(background=2, jitter=0.2, cache_gib=cache_gib), augmentation="default")
    plain = module(tmp_path, ObjectCrops(background=2, jitter=0.2, cache_gib=0), augmentation="default")
    kept, fresh = (one.dataset("train", augmented=True) for one in (data, plain))
    order = np.random.default_rng(0).permutation(len(kept)).tolist() * 2
    read.clear()
    shown = [kept[(1, k)] for k in order]
    assert len(read) == decoded if decoded else len(read) > 20
    for k, sample in zip(order, shown, strict=True):
        assert torch.equal(sample["image"], fresh[(1, k)]["image"])
        assert int(sample["label"]) == int(fresh[(1, k)]["label"])


def test_a_split_whose_pictures_give_no_crops_is_named(tmp_path: Path) -> None:
    """Both pictures of the validation show no object, and there is no background to be cut out."""
    write_set(tmp_path, pictures=4)
    content = json.loads((tmp_path / "instances.json").read_text())
    data = module(tmp_path, ObjectCrops(background=0), stratify=False)
    empty = {int(Path(data.index.files.text(int(i))).stem) + 1 for i in data.index.indices("val")}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] not in empty]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    # Drawn without looking at the classes, the splits are the same as before.
    with pytest.raises(DataError, match=r"val split show no object.*data\.crops\.background"):
        _ = module(tmp_path, ObjectCrops(background=0), stratify=False).index
