"""YOLODetector's other necks, heads and laws: each learns, travels in its checkpoint, and refuses what does not fit."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from drawn_boxes import NAMES, SamePictures, data_module, draw_boxes
from quiet import quiet_trainer
from torch import Tensor, nn
from torch.optim import AdamW

from lit_vision.errors import UserError
from lit_vision.losses.anchor_free import AnchorFreeLoss
from lit_vision.losses.detection_choice import choose_loss
from lit_vision.losses.yolo import YOLOLoss
from lit_vision.networks.stages import divide
from lit_vision.predict import load_for_prediction
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.detection import YOLODetector

FREE: dict[str, Any] = {"backbone": "lcnet_050", "strides": [8], "width": 32, "neck": "pan", "head": "anchor_free"}
STRETCHED: dict[str, Any] = {"head_args": {"scale_x_y": 2.0}, "anchors": "auto", "head": "v3"}
RECIPES: dict[str, dict[str, Any]] = {
    "task_aligned": FREE,
    "v3 neck": {**FREE, "neck": "v3"},
    "plain": {**FREE, "head_args": {"reg_max": 0, "depthwise": True}},
    "simota": {**FREE, "loss": lambda: AnchorFreeLoss(assignment="simota")},
    "varifocal": {**FREE, "loss": lambda: AnchorFreeLoss(classification="varifocal")},
    "modern": {**FREE, **STRETCHED, "loss": lambda: YOLOLoss(law="modern")},
    "focal": {**FREE, **STRETCHED, "loss": lambda: YOLOLoss(law="modern", focal_gamma=1.5, label_smoothing=0.05)},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_boxes(tmp_path_factory.mktemp("shapes"))


@pytest.mark.parametrize(
    "recipe",
    [name if name in ("task_aligned", "modern") else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES],
)
def test_overfits_four_pictures(recipe: str, root: Path) -> None:
    settings = dict(RECIPES[recipe])
    if "loss" in settings:
        settings["loss"] = settings["loss"]()
    task = YOLODetector(NAMES, **settings, optimizer=partial(AdamW, lr=5e-3, weight_decay=0.0))
    run = quiet_trainer(max_epochs=90, check_val_every_n_epoch=90)
    run.fit(task, data_module(root, SamePictures))
    assert float(run.callback_metrics["val/map_50"]) > 0.9


def test_the_checkpoint_alone_makes_the_network_again(root: Path, tmp_path: Path) -> None:
    for settings in (
        {**FREE, "head_args": {"reg_max": 8, "depth": 2}},
        {**FREE, **STRETCHED, "anchors": [[8, 8], [20, 20]], "loss": YOLOLoss(law="modern")},
    ):
        task = YOLODetector(NAMES, **settings).eval()
        run = quiet_trainer(max_epochs=1)
        run.strategy.connect(task)
        run.save_checkpoint(tmp_path / "new.ckpt")
        loaded = load_task(tmp_path / "new.ckpt")
        assert isinstance(loaded, YOLODetector)
        assert type(loaded.loss) is type(task.loss)
        images = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8)
        with torch.no_grad():
            for mine, other in zip(
                task.network.decode(task(images)), loaded.network.decode(loaded(images)), strict=True
            ):
                torch.testing.assert_close(mine, other)


def test_without_anchors_the_score_decides_alone(tmp_path: Path) -> None:
    """There objectness is the best class's probability: 0.5 of it would let no lower score_threshold count."""

    def thresholds(**settings: Any) -> tuple[float, Any]:
        rule = YOLODetector(NAMES, **settings)._rule()
        return rule.objectness, rule.score

    assert thresholds(**FREE, score_threshold=0.2) == (0.2, 0.2)
    assert thresholds(**FREE, score_threshold=0.2, objectness_threshold=0.4) == (0.4, 0.2)
    assert thresholds(**FREE, head_args={"reg_max": 0}) == (0.5, 0.5)
    anchors = {**FREE, "head": "v3", "anchors": "auto"}
    assert thresholds(**anchors, score_threshold=0.2) == (0.5, 0.2)  # the rule of YOLO v3
    run = quiet_trainer(max_epochs=1)
    for settings, expected in ((FREE, 0.3), (anchors, 0.3), ({**FREE, "objectness_threshold": 0.1}, 0.1)):
        saved = YOLODetector(NAMES, **settings)
        saved.data = {"task": "detection"}
        run.strategy.connect(saved)
        run.save_checkpoint(tmp_path / "new.ckpt")
        task: Any = load_for_prediction(tmp_path / "new.ckpt", 0.3, {})
        assert (task.objectness_threshold, task.score_threshold) == (expected, 0.3)


V3 = {**FREE, "head": "v3", "anchors": "auto"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({**FREE, "loss": YOLOLoss()}, "YOLOLoss is for `head: v3`, but the model has `head: anchor_free`.*AnchorFree"),
        ({**V3, "loss": AnchorFreeLoss()}, "AnchorFreeLoss is for `head: anchor_free`"),
        ({**FREE, "anchors": "auto"}, "has no anchors"),
        ({**V3, "loss": YOLOLoss(law="modern")}, "set model.head_args: .scale_x_y: 2.0"),
        ({"architecture": "yolov3-tiny", "loss": YOLOLoss(neighbours=True)}, "scale_x_y"),
        ({"architecture": "yolov3-tiny", "head": "anchor_free"}, "fixed in yolov3-tiny"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        YOLODetector(NAMES, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"window": 4}, "window 4"),
        ({"assignment": "simota", "beta": 4.0}, "alpha and beta are of assignment: task_aligned"),
        ({"ignore_threshold": 70.0}, "AnchorFreeLoss: ignore_threshold is 70.0; give 0 to 1"),
        ({"beta": -1.0}, "AnchorFreeLoss: beta is -1.0; give at least 0"),
        ({"class_gain": float("nan")}, "AnchorFreeLoss: class_gain is nan; give at least 0"),
    ],
)
def test_losses_refuse_values_without_sense(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        AnchorFreeLoss(**settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ignore_threshold": 70.0}, "YOLOLoss: ignore_threshold is 70.0; give 0 to 1"),
        ({"label_smoothing": 1.1}, "YOLOLoss: label_smoothing is 1.1; give 0 to 1"),
        ({"assignment": "ratio", "max_ratio": 0.5}, "YOLOLoss: max_ratio is 0.5; give at least 1"),
        ({"focal_gamma": -2.0}, "YOLOLoss: focal_gamma is -2.0; give at least 0"),
        ({"box_gain": -1.0}, "YOLOLoss: box_gain is -1.0; give at least 0"),
    ],
)
def test_losses_with_anchors_refuse_them_too(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        YOLOLoss(**settings)


def test_the_default_loss_follows_the_head() -> None:
    assert isinstance(choose_loss(None, "v3", SimpleNamespace(scale_x_y=(1.0,))), YOLOLoss)
    assert isinstance(choose_loss(None, "anchor_free", None), AnchorFreeLoss)


def batch_of(boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
    crowd = [torch.zeros(len(own), dtype=torch.bool) for own in boxes]
    image = torch.randint(0, 255, (len(boxes), 3, 64, 64), dtype=torch.uint8)
    return {"image": image, "boxes": boxes, "labels": labels, "crowd": crowd}


class Silent(YOLODetector):
    def log(self, *args: Any, **kwargs: Any) -> None: ...

    def log_dict(self, *args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_parameter_has_a_finite_gradient_with_and_without_objects(recipe: str, precision: str) -> None:
    """DDP stops at parameters that a step has not used."""
    settings = {**RECIPES[recipe], "strides": [8, 16, 32]}
    if "loss" in settings:
        settings["loss"] = settings["loss"]()
    task = Silent(NAMES, **settings).to(memory_format=torch.channels_last)
    none, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    some = [torch.tensor([[4.0, 4.0, 30.0, 20.0]] * 3), none]
    for boxes, labels in (([none, none], [no_labels] * 2), (some, [torch.tensor([0, 1, 1]), no_labels])):
        task.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = task.training_step(batch_of(boxes, labels), 0)  # type: ignore[arg-type]
        assert loss.dtype == torch.float32
        loss.backward()
        assert [n for n, p in task.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())] == []


def test_stages_of_a_csp_detector_open_from_the_neck_to_the_image() -> None:
    task = YOLODetector(NAMES, backbone="csp_n", neck="pan", head="anchor_free")
    found = divide(task.backbones, module=task)
    assert [sorted({name.split(".")[2] for name in names}) for names in found.names] == [
        ["stage4"], ["stage3"], ["stage2"], ["stage1"], ["stem"]
    ]  # fmt: skip
    everything = {name for name, _ in task.named_parameters() if name.startswith("network.backbone.")}
    assert everything == {name for names in found.names for name in names}
    assert isinstance(task.network.neck, nn.Module)
