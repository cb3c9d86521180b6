"""YOLODetector from pictures on disk to boxes in the original's pixels."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_boxes import NAMES, SamePictures, data_module, draw_boxes
from quiet import quiet_trainer
from torch.optim import AdamW

from lit_vision.data.detection import DetectionDataModule
from lit_vision.errors import UserError
from lit_vision.losses.yolo import YOLOLoss
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.detection import YOLODetector
from lit_vision.tasks.detection_inference import true_boxes

SMALL: dict[str, Any] = {"backbone": "lcnet_050", "strides": [8], "width": 32, "anchors": "auto"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_boxes(tmp_path_factory.mktemp("shapes"))


def test_overfits_four_pictures_and_predicts_from_the_checkpoint_alone(root: Path, tmp_path: Path) -> None:
    data = data_module(root, SamePictures)
    task = YOLODetector(NAMES, **SMALL, optimizer=partial(AdamW, lr=5e-3, weight_decay=0.0))
    run = quiet_trainer(max_epochs=90, check_val_every_n_epoch=90)
    run.fit(task, data)
    measured = {name: float(value) for name, value in run.callback_metrics.items()}
    assert measured["val/map_50"] > 0.9
    assert {"val/map", "val/map_75", "val/map_small", "val/ap/bar", "val/ap/disc", "val/loss"} <= set(measured)

    run.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load_task(tmp_path / "last.ckpt")
    assert isinstance(loaded, YOLODetector)
    assert torch.equal(loaded.network.anchors, task.network.anchors)  # the clustered ones
    batches = quiet_trainer().predict(loaded, data_module(root, SamePictures).val_dataloader())
    assert batches is not None
    predictions = [prediction for batch in batches for prediction in batch]
    own = data.index.span(0)
    found = predictions[0]
    assert len(found["boxes"]) == 3  # in pixels of the original 120 x 160, in falling order of score
    order = found["boxes"][:, :2].sum(dim=1).argsort()
    truth = torch.from_numpy(np.array(data.index.boxes[own]))  # type: ignore[index]
    by_place = truth[:, :2].sum(dim=1).argsort()
    torch.testing.assert_close(found["boxes"][order], truth[by_place], atol=5.0, rtol=0)
    assert found["labels"][order].tolist() == torch.from_numpy(data.index.labels[own])[by_place].tolist()
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)


def file_objects(data: DetectionDataModule, i: int) -> dict[str, torch.Tensor]:
    """Boxes and labels as the file has them, as a perfect prediction."""
    own = data.index.span(i)
    boxes, labels = np.array(data.index.boxes[own]), data.index.labels[own].astype(np.int64)  # type: ignore[index]
    return {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels), "scores": torch.ones(len(labels))}


class Oracle(YOLODetector):
    """Predicts what the file says."""

    def log(self, *args: Any, **kwargs: Any) -> None: ...

    def log_dict(self, *args: Any, **kwargs: Any) -> None: ...

    def _detections(self, found: Any, batch: Any, rule: Any) -> Any:
        return [file_objects(self.source, int(i)) for i in batch["index"]]  # type: ignore[arg-type]


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop", "native"])
def test_evaluation_measures_against_the_boxes_of_the_file(root: Path, fit: str) -> None:
    """Whatever the network is shown of them: a centre crop hides parts, but nothing is left out of the truth."""
    data = data_module(root, fit=fit, image_size=64)
    task = Oracle(NAMES, **SMALL).eval()
    task.source = data  # type: ignore[assignment]
    task._evaluate(next(iter(data.val_dataloader())), task.metrics["val"], "val")  # type: ignore[arg-type]
    values = task.metrics["val"].compute()  # type: ignore[operator]
    assert values["map"].item() == 1.0
    assert len(torch.cat(task.metrics["val"].truth_labels)) == 6  # type: ignore[arg-type]
    boxes = [file_objects(data, int(i))["boxes"] for i in data.index.indices("val")]
    assert torch.equal(torch.cat(task.metrics["val"].truth_boxes), torch.cat(boxes))  # type: ignore[arg-type]


def test_a_batch_without_the_boxes_of_the_file_is_measured_as_well_as_its_frames_allow(root: Path) -> None:
    batch = next(iter(data_module(root, image_size=64).val_dataloader()))
    own = batch.pop("original_boxes")
    for restored, boxes in zip(true_boxes(batch), own, strict=True):
        torch.testing.assert_close(restored, boxes, atol=1e-3, rtol=0)


def test_anchors_are_clustered_from_training_boxes_in_network_pixels(root: Path) -> None:
    data = data_module(root)
    sizes = data.training_box_sizes()
    scale = 96 / 160
    expected = {(round(w * scale, 3), round(h * scale, 3)) for w, h in ((32, 32), (40, 24), (36, 18))}
    assert {(round(w, 3), round(h, 3)) for w, h in sizes.tolist()} == expected
    task = YOLODetector(NAMES, **SMALL)
    quiet_trainer(max_epochs=1, limit_train_batches=0).fit(task, data)
    found = {(round(w, 3), round(h, 3)) for w, h in task.network.anchors[0].tolist()}
    assert found == expected
    wants_six = YOLODetector(NAMES, **{**SMALL, "strides": [8, 16]})
    with pytest.raises(UserError, match="6 anchors cannot be clustered from 3 different box sizes"):
        quiet_trainer(max_epochs=1).fit(wants_six, data)


def test_image_size_must_be_a_multiple_of_the_stride(root: Path) -> None:
    task = YOLODetector(NAMES, architecture="yolov3-tiny")
    with pytest.raises(UserError, match="100 x 100 must be a multiple of 32"):
        quiet_trainer(max_epochs=1).fit(task, data_module(root, image_size=100))


@pytest.mark.parametrize("settings", [{"multi_scale": 0.5}, {"rect": True}, {"fit": "native"}])
def test_shapes_that_the_data_makes_must_be_multiples_of_the_stride(root: Path, settings: dict[str, Any]) -> None:
    task = YOLODetector(NAMES, architecture="yolov3-tiny", anchors="paper")
    with pytest.raises(UserError, match=r"data\.stride is 16, .* a multiple of 32: set data\.stride: 32"):
        quiet_trainer(max_epochs=1).fit(task, data_module(root, image_size=96, stride=16, **settings))
    trainer = quiet_trainer(max_epochs=0)
    trainer.fit(task, data_module(root, image_size=96, stride=16))  # which makes no such shapes


@pytest.mark.parametrize(
    ("size", "settings", "fits"),
    [
        (32, {"batch_size": 1}, False),
        (64, {"batch_size": 1, "multi_scale": 0.5}, False),
        (32, {"batch_size": 2}, True),
        ([32, 64], {"batch_size": 1}, True),
    ],
)
def test_one_value_per_channel_is_refused(root: Path, size: Any, settings: dict[str, Any], fits: bool) -> None:
    task = YOLODetector(NAMES, backbone="lcnet_050", width=32, strides=[32], head="anchor_free")
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    if fits:
        trainer.fit(task, data_module(root, image_size=size, **settings))
        return
    with pytest.raises(UserError) as refused:
        trainer.fit(task, data_module(root, image_size=size, **settings))
    assert str(refused.value) == (
        "a training batch of one picture of 32 x 32 leaves batch normalisation one value per channel at stride 32: set "
        "data.batch_size to 2 or more, or a larger data.image_size"
    )


def test_a_backbone_of_one_size_says_so_before_training(root: Path) -> None:
    small = {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    settings: dict[str, Any] = {"backbone": "swin_tiny_patch4_window7_224", "head": "anchor_free", "neck": "pan"}
    for size, fits in ((64, True), (96, False)):
        task = YOLODetector(NAMES, **settings, strides=(8, 16, 32), backbone_args=small)
        trainer = quiet_trainer(max_epochs=0)
        if fits:
            trainer.fit(task, data_module(root, image_size=size))
            continue
        with pytest.raises(UserError, match=r"swin_tiny_patch4_window7_224 does not take pictures of 96 x 96 \(Input"):
            trainer.fit(task, data_module(root, image_size=size))


def test_thresholds_travel_and_can_be_changed(root: Path, tmp_path: Path) -> None:
    task = YOLODetector(NAMES, architecture="yolov3-tiny", score_threshold=0.3, nms_threshold=0.6)
    run = quiet_trainer(max_epochs=1)
    run.strategy.connect(task)
    run.save_checkpoint(tmp_path / "new.ckpt")
    loaded = load_task(tmp_path / "new.ckpt", score_threshold=0.7)
    assert isinstance(loaded, YOLODetector)
    assert (loaded.score_threshold, loaded.nms_threshold, loaded.objectness_threshold) == (0.7, 0.6, 0.5)


def test_groups_put_the_neck_with_the_head_and_the_backbone_by_stage() -> None:
    task = YOLODetector(NAMES, architecture="yolov3-tiny", loss=YOLOLoss(law="darknet"))
    inside = {name for name, _ in task.named_parameters() if name.startswith("network.backbone.")}
    assert len(inside) == 3 * 7
    assert list(task.backbones) == ["network.backbone"]
    assert task.loss.box_loss == "mse"


def test_five_channels(root: Path) -> None:
    task = YOLODetector(NAMES, **SMALL, in_channels=5).eval()
    outputs = task(torch.zeros(1, 5, 64, 96, dtype=torch.uint8))
    assert [tuple(output.shape) for output in outputs] == [(1, 21, 8, 12)]


@pytest.mark.parametrize(("name", "value"), [("score_threshold", 1.5), ("nms_threshold", -0.1), ("max_detections", 0)])
def test_thresholds_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"model.{name} is {value}"):
        YOLODetector(NAMES, **SMALL, **{name: value})
