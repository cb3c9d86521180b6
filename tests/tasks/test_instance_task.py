"""InstanceSegmenter from pictures on disk to a label map in the original's pixels."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pairs import NAMES, TINY, data_module, perfect
from quiet import quiet_trainer
from torch.optim import AdamW

from lit_vision.data.augmentation import Augmentation
from lit_vision.errors import UserError
from lit_vision.losses.border import BorderLoss
from lit_vision.ops.borders import touching_border
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.instances import InstanceSegmenter


def test_a_sample_has_objects_classes_and_the_border_between_them(root: Path) -> None:
    data = data_module(root)
    sample = data.dataset("val")[0]
    instances, mask, border = (sample[key].numpy() for key in ("instances", "mask", "border"))
    assert data.class_names == NAMES
    assert sample["labels"].tolist() == [0, 1, 0]
    assert instances.dtype == np.int32
    assert np.unique(instances).tolist() == [0, 1, 2, 3]  # the file's 7 became 3
    assert (instances == 1).sum() == 16 * 12
    for number, label in enumerate(sample["labels"].tolist(), 1):
        assert (mask[instances == number] == 1 + label).all()
    padding = np.ones((64, 64), bool)
    padding[8:56] = False
    for target in (mask, border):
        assert np.array_equal(target == 255, padding)
    assert np.array_equal(border == 1, touching_border(instances, 2) & ~padding)
    assert ((border == 1) & (instances > 0)).sum() == 16 * 4  # two pixels on either side of the common edge
    assert not (border[instances == 3] == 1).any()  # the object that stands alone has none


def test_the_border_has_the_same_width_whatever_the_zoom(root: Path) -> None:
    widths = []
    for size in (48, 96):
        sample = data_module(root, image_size=(size, size * 4 // 3), border_radius=3).dataset("val")[0]
        inside = (sample["border"] == 1) & (sample["instances"] > 0)
        widths.append(int(inside.any(0).sum()))
    assert widths == [6, 6]


def test_objects_that_leave_the_picture_are_renumbered(root: Path) -> None:
    data = data_module(root, fit="native", image_size=(24, 24), augmentation=Augmentation(flip=0.5))
    dataset = data.dataset("train", augmented=True)
    counts = set()
    for epoch in range(12):
        sample = dataset[(epoch, 0)]
        numbers = sample["instances"][sample["instances"] > 0].unique().tolist()
        assert numbers == list(range(1, len(sample["labels"]) + 1))
        counts.add(len(numbers))
        assert set(sample["mask"].unique().tolist()) - {0, 255} == {1 + label for label in sample["labels"].tolist()}
    assert counts >= {1, 2}


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "native"])
def test_perfect_networks_score_one(root: Path, fit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = InstanceSegmenter(NAMES, **TINY)
    batch = next(iter(data_module(root, fit=fit).val_dataloader()))
    monkeypatch.setattr(task, "forward", lambda images, **_: perfect(batch))
    monkeypatch.setattr(task, "log_loss", lambda *_: None)
    for prediction, mask in zip(task.validation_step(batch, 0), batch["mask"], strict=True):
        assert (prediction["instances"][mask == 255] == 0).all()  # pictures of the run show no objects in the padding
    values = {key: float(value) for key, value in task.metrics["val"].compute().items()}
    assert values == {name: float(name not in ("count_error", "merged", "split")) for name in values}
    assert len(values) == 15


def test_predictions_come_back_in_the_original_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = InstanceSegmenter(NAMES, **TINY)
    batch = next(iter(data_module(root, image_size=96).val_dataloader()))  # 48 x 64 enlarged to 72 x 96
    monkeypatch.setattr(task, "forward", lambda images, **_: perfect(batch))
    predictions = task.predict_step(batch, 0)
    for i, prediction in enumerate(predictions):
        truth = cv2.imread(str(root / "labels" / "val" / f"{i}.png"), cv2.IMREAD_UNCHANGED).astype(int)
        found = prediction["instances"].numpy()
        assert found.shape == (48, 64)
        assert found.dtype == np.int32
        assert len(prediction["labels"]) == len(prediction["scores"]) == found.max() == 3
        for number, value in ((1, 1), (2, 2), (3, 7)):
            k = np.bincount(found[truth == value]).argmax()
            union = ((found == k) | (truth == value)).sum()
            assert ((found == k) & (truth == value)).sum() / union > 0.9, number
        assert sorted(prediction["labels"].tolist()) == sorted([0, 1, i % 2])
        assert prediction["scores"].min() > 0.8


def test_no_object_is_predicted_where_nothing_was_seen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = InstanceSegmenter(NAMES, **TINY)
    batch = next(iter(data_module(root, fit="crop", image_size=(32, 64)).val_dataloader()))  # rows 8 to 40 of 48
    monkeypatch.setattr(task, "forward", lambda images, **_: perfect(batch))
    for prediction, mask in zip(task.predict_step(batch, 0), batch["mask"], strict=True):
        found = prediction["instances"].numpy()
        assert (mask[[0, -1]] > 0).any()  # objects that the crop cuts
        assert not found[:8].any()
        assert not found[40:].any()
        assert np.mean((found[8:40] > 0) == (mask.numpy() > 0)) > 0.98


def test_without_the_border_network_touching_objects_merge(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = InstanceSegmenter(NAMES, **TINY)
    batch = next(iter(data_module(root).val_dataloader()))
    monkeypatch.setattr(task, "forward", lambda images: (perfect(batch)[0], torch.full((2, 1, 64, 64), -10.0)))
    assert [int(p["instances"].max()) for p in task.predict_step(batch, 0)] == [2, 2]


def test_min_area_is_counted_in_the_networks_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 16 x 12 pixels in the file less the border, 24 x 18 in the network's frame at 1.5 times the size
    counts = []
    for area in (200, 700):
        task = InstanceSegmenter(NAMES, min_area=area, **TINY)
        batch = next(iter(data_module(root, image_size=96).val_dataloader()))
        monkeypatch.setattr(task, "forward", lambda images, batch=batch: perfect(batch))
        counts.append(int(task.predict_step(batch, 0)[0]["instances"].max()))
    assert counts[0] == 3
    assert counts[1] <= 1


def test_learns_saves_and_loads(root: Path, tmp_path: Path) -> None:
    data = data_module(root)
    task = InstanceSegmenter(data.class_names, optimizer=partial(AdamW, lr=1e-2), **TINY)
    before = quiet_trainer().validate(task, data, verbose=False)[0]["val/ap_50"]
    fitted = quiet_trainer(max_steps=40, check_val_every_n_epoch=10**6)
    fitted.fit(task, data)
    after = quiet_trainer().validate(task, data, verbose=False)[0]
    assert before < 0.2
    assert after["val/ap_50"] > 0.7
    assert after["val/count_error"] <= 1
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load_task(tmp_path / "last.ckpt", border_threshold=0.2)
    assert isinstance(loaded, InstanceSegmenter)
    assert loaded.separation == replace(task.separation, border_threshold=0.2)
    with pytest.raises(
        UserError, match=r"last\.ckpt do not fit with border_decoder='fpn', border_decoder_args=None: leave out"
    ):
        load_task(tmp_path / "last.ckpt", border_decoder="fpn", border_decoder_args=None)
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        for ours, theirs in zip(loaded(batch["image"]), task.eval()(batch["image"]), strict=True):
            assert torch.equal(ours, theirs)


def test_the_two_networks_may_differ(tmp_path: Path) -> None:
    other = {"border_decoder": "fpn", "border_encoder": "resnet10t"}
    task = InstanceSegmenter(NAMES, **TINY, **other)
    assert task.border_network.network.name == "fpn-tu-resnet10t"
    again = InstanceSegmenter(**task.hparams)
    again.load_state_dict(task.state_dict())
    for prefix, backbone in task.backbones.items():
        assert task.get_submodule(prefix) is backbone
    same = InstanceSegmenter(NAMES, **TINY)
    assert same.border_network.network.name == same.network.network.name


def test_weight_of_a_border_pixel_is_not_a_file_of_weights() -> None:
    task = InstanceSegmenter(NAMES, **TINY, border_pixel_weight=7)
    assert task.border_loss.border_pixel_weight == 7
    with pytest.raises(UserError, match=r"there is no file nowhere\.pth"):
        InstanceSegmenter(NAMES, **TINY, border_weights="nowhere.pth")


def test_thresholds_out_of_range_are_named() -> None:
    with pytest.raises(UserError, match=r"model.border_threshold is 1.5"):
        InstanceSegmenter(NAMES, border_threshold=1.5, **TINY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_area": -5}, r"model\.min_area is -5"),
        ({"regrow": "dilate"}, r"model\.regrow is 'dilate': give one of nearest, watershed, none"),
        ({"border_lr_factor": -1}, r"model\.border_lr_factor is -1"),
        ({"border_pixel_weight": 3, "border_loss": BorderLoss(5)}, r"model\.border_pixel_weight is of the default"),
        ({"tta_scales": []}, r"model\.tta_scales is \[\]"),
        ({"tile": 0}, "tile is 0 and tile_overlap 0.25"),
        ({"tile_overlap": 1.5}, "tile is null and tile_overlap 1.5"),
    ],
)
def test_settings_without_sense_are_refused_before_a_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        InstanceSegmenter(NAMES, **settings, **TINY)


@pytest.mark.parametrize("settings", [{}, {"tile": 64}])
def test_tiles_without_a_checkpoint_s_facts_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"tiles need model\.tile, and a task of a checkpoint"):
        InstanceSegmenter(NAMES, **settings, **TINY).predict_whole(np.zeros((8, 8, 3), np.uint8))
