"""Border targets as the data module gives them: from polygons and label maps, whatever the crop, and faults."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lit_vision.data.augmentation import Augmentation
from lit_vision.data.instances import InstanceDataModule
from lit_vision.errors import UserError
from lit_vision.metrics.instances import InstanceMetrics
from lit_vision.ops.borders import gap_weights, object_radii, touching_border
from lit_vision.ops.instances import split_instances
from lit_vision.types import Int32Array


def write(root: Path, labels: Int32Array) -> Path:
    """A set of one picture with a label map, to train on and to validate on."""
    for split in ("train", "val"):
        for folder, values in (
            ("images", np.zeros((*labels.shape, 3), np.uint8)),
            ("labels", labels.astype(np.uint16)),
        ):
            (root / folder / split).mkdir(parents=True)
            cv2.imwrite(str(root / folder / split / "a.png"), values)
    return root


def sample_of(root: Path, size: tuple[int, int], **settings: Any) -> dict[str, np.ndarray]:
    common: dict[str, Any] = {"fit": "stretch", "augmentation": "none", "num_workers": 0, "image_size": size}
    data = InstanceDataModule(str(root), **{**common, **settings})
    sample: Any = data.dataset("train")[0]
    return {key: value.numpy() for key, value in sample.items() if key not in ("index",)}


def halves(height: int, width: int, at: int) -> Int32Array:
    labels = np.ones((height, width), np.int32)
    labels[:, at:] = 2
    return labels


def test_polygons_give_the_border_of_the_label_map_that_they_paint(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    boxes = [(4, 4, 20, 30), (20, 4, 40, 30), (50, 4, 58, 12)]  # the first two touch
    annotations = [
        {
            "id": k,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        }
        for k, (x1, y1, x2, y2) in enumerate(boxes, 1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": annotations,
    }
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / split / "a.png"), np.zeros((40, 60, 3), np.uint8))
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    sample = sample_of(tmp_path, (40, 60), border_radius=2)
    border = sample["border"] == 1
    assert np.flatnonzero(border[15]).tolist() == [18, 19, 20, 21]
    assert not border[:, 45:].any()
    by_size = sample_of(tmp_path, (40, 60))["border"] == 1
    assert np.array_equal(by_size, touching_border(sample["instances"], object_radii(np.array([416, 520, 64]))))


def test_the_whole_object_decides_on_the_width_not_what_a_crop_leaves(tmp_path: Path) -> None:
    root = write(tmp_path, halves(60, 120, 60))  # 3,600 pixels each: radius 4
    whole = sample_of(root, (60, 120))["border"] == 1
    assert np.flatnonzero(whole[30]).tolist() == list(range(56, 64))
    # The middle 12 pixels: both objects are 12 x 6 there, which alone would ask for a radius of 1 or 2.
    cropped = sample_of(root, (12, 12), fit="native", augmentation="none")
    flips = Augmentation(flip=0.5)
    data = InstanceDataModule(str(root), image_size=(12, 12), fit="native", num_workers=0, augmentation=flips)
    dataset: Any = data.dataset("train", augmented=True)
    widths = set()
    for epoch in range(60):
        sample = dataset[(epoch, 0)]
        if len(sample["labels"]) == 2:
            widths.add(int((sample["border"][6] == 1).sum()))
    assert cropped["border"].shape == (60, 120)  # evaluation sees whole pictures
    assert max(widths) == 8


def test_the_width_follows_the_zoom(tmp_path: Path) -> None:
    root = write(tmp_path, halves(40, 60, 30))  # 1,200 pixels each: a tenth of the side is 3.5
    assert [int((sample_of(root, size)["border"][5] == 1).sum()) for size in ((20, 30), (40, 60))] == [4, 6]


def test_weights_come_only_where_they_are_asked_for(tmp_path: Path) -> None:
    root = write(tmp_path, halves(20, 30, 15))
    assert "border_weight" not in sample_of(root, (20, 30))
    sample = sample_of(root, (20, 30), gap_weight=7, gap_sigma=3)  # no pixel lies just at 3.5 sigma, where it ends
    np.testing.assert_allclose(sample["border_weight"], gap_weights(sample["instances"], 7, 3), rtol=1e-6)
    assert sample["border_weight"].dtype == np.float32


def test_pictures_without_objects_and_with_one_that_fills_them(tmp_path: Path) -> None:
    for name, value in (("none", 0), ("all", 9)):
        root = write(tmp_path / name, np.full((16, 16), value, np.int32))
        if value == 0:
            cv2.imwrite(str(root / "images" / "train" / "b.png"), np.zeros((16, 16, 3), np.uint8))
            cv2.imwrite(str(root / "labels" / "train" / "b.png"), np.ones((16, 16), np.uint16))
        sample = sample_of(root, (16, 16), gap_weight=10)
        assert not (sample["border"] == 1).any()
        assert (sample["border_weight"] == 1).all()
        assert len(sample["labels"]) == int(value > 0)


def test_an_object_in_several_parts_is_one_without_a_border_between_them(tmp_path: Path) -> None:
    labels = np.zeros((20, 40), np.int32)
    labels[4:16, 4:12] = labels[4:16, 14:22] = 5  # a gap of two pixels, which between two objects is a border
    labels[4:16, 24:32] = 9
    sample = sample_of(write(tmp_path, labels), (20, 40), border_radius=2)
    assert sample["instances"].max() == len(sample["labels"]) == 2
    assert np.flatnonzero(sample["border"][10] == 1).tolist() == [22, 23]

    truth, metric = torch.from_numpy(sample["instances"]), InstanceMetrics(1)
    kinds = torch.zeros(2, dtype=torch.int64)
    metric.update(0, truth, kinds, torch.ones(2), truth, kinds)
    assert {name: float(metric.compute()[name]) for name in ("ap", "pq", "split")} == {"ap": 1, "pq": 1, "split": 0}
    metric.reset()
    parts = torch.from_numpy(split_instances(sample["instances"] > 0, sample["border"] == 1, 4))  # each one of its own
    metric.update(0, parts, torch.zeros(3, dtype=torch.int64), torch.ones(3), truth, kinds)
    assert float(metric.compute()["split"]) == 0.5


STARDIST, CELLPOSE = ("images/{}.tif", "masks/{}.tif"), ("{:03}_img.png", "{:03}_masks.png")


@pytest.mark.parametrize("names", [STARDIST, CELLPOSE])
def test_the_folders_of_stardist_and_cellpose_are_taken_as_they_are(tmp_path: Path, names: tuple[str, str]) -> None:
    labels = halves(20, 30, 15)
    for split, count in (("train", 4), ("test", 1)):
        for i in range(count):
            for name, values in zip(names, (np.zeros((20, 30), np.uint8), labels.astype(np.uint16)), strict=True):
                path = tmp_path / split / name.format(i)
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), values)
    data = InstanceDataModule(str(tmp_path), image_size=(20, 30), fit="stretch", num_workers=0, val_fraction=0.25)
    assert data.index.format == "labelmaps"
    assert data.class_names == ["object"]
    assert [len(data.index.indices(split)) for split in ("train", "val", "test")] == [3, 1, 1]
    sample: Any = data.dataset("test")[0]
    np.testing.assert_array_equal(sample["instances"].numpy(), labels)


def test_class_masks_that_are_taken_for_label_maps_are_noted(tmp_path: Path) -> None:
    classes = np.zeros((20, 30), np.uint8)
    classes[2:6, 2:6] = classes[10:14, 2:6] = 1
    classes[2:6, 20:26] = classes[10:14, 20:26] = 2
    for folder, values in (("images", np.zeros((20, 30), np.uint8)), ("masks", classes)):
        for split in ("train", "val"):
            (tmp_path / folder / split).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / folder / split / "a.png"), values)
    notes = InstanceDataModule(str(tmp_path), num_workers=0).index.notes
    assert notes[0] == f"Recognised {tmp_path} as labelmaps: images with label maps in masks/train/."
    assert notes[1].startswith(f"2 of 2 label maps of {tmp_path} have few objects, each in several parts: are they")
    (tmp_path / "classes.json").write_text('{"classes": ["background", "cell", "dirt"]}')
    with pytest.raises(UserError, match="read as masks, does not hold what instances needs"):
        len(InstanceDataModule(str(tmp_path), num_workers=0).index)


def test_settings_out_of_range_are_named(tmp_path: Path) -> None:
    for radius in (0, 256, 1.5, "aut", True, None):
        with pytest.raises(
            UserError, match=rf"data.border_radius is {radius!r}: give auto, or whole pixels from 1 to 255; 2 or 3 are"
        ):
            InstanceDataModule(str(tmp_path), border_radius=radius)  # type: ignore[arg-type]  # wrong on purpose
    assert [InstanceDataModule(str(tmp_path), border_radius=radius).border_radius for radius in (1, 255)] == [1, 255]
    with pytest.raises(UserError, match=r"data.gap_weight is -1 and gap_sigma 5"):
        InstanceDataModule(str(tmp_path), gap_weight=-1)


def test_numbers_are_those_among_all_objects_of_the_picture(tmp_path: Path) -> None:
    labels = np.zeros((20, 60), np.int32)
    labels[:, :10], labels[5:15, 22:28], labels[5:15, 30:36], labels[:, 50:] = 3, 4, 7, 9
    data = InstanceDataModule(str(write(tmp_path, labels)), fit="crop", image_size=20, num_workers=0, batch_size=1)
    batch = next(iter(data.val_dataloader()))  # the middle third alone, which has the second and the third object
    assert [one.tolist() for one in batch["numbers"]] == [[2, 3]]
    assert batch["instances"].unique().tolist() == [0, 1, 2]
