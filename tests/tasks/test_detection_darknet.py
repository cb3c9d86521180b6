"""YOLODetector over Darknet's networks: weights into it, stages that freeze and thaw, checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from darknet_files import draw_weights, three_and_one
from quiet import quiet_trainer
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN
from tiny import command, write_experiment
from torch import nn

from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.darknet import export_darknet
from lit_vision.data.detection import DetectionDataModule
from lit_vision.data.geometry import fit_frame
from lit_vision.data.transforms import restore_boxes
from lit_vision.errors import UserError
from lit_vision.networks.darknet import DarknetYOLO, create_darknet
from lit_vision.networks.darknet_cfg import FOLDER
from lit_vision.networks.darknet_weights import load_weights
from lit_vision.networks.stages import divide
from lit_vision.runs.checkpoints import fill_in
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.detection import YOLODetector

CFG = """\
[net]
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=16
size=3
stride=1
pad=1
activation=leaky
[shortcut]
from=-2
activation=linear
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=8
size=1
activation=leaky
[convolutional]
size=1
filters=14
activation=linear
[yolo]
mask=0,1
anchors=10,13, 26,30
classes=2
num=2
scale_x_y=1.05
ignore_thresh=.6
"""


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    (tmp_path / "a.cfg").write_text(CFG)
    draw_weights(CFG, tmp_path / "a.weights", heads=0.5)
    return tmp_path / "a.cfg"


def detector(cfg: Path, **settings: Any) -> YOLODetector:
    weights = str(cfg.with_suffix(".weights"))
    return YOLODetector(["circle", "square", "triangle"], **{"architecture": str(cfg), "weights": weights, **settings})


def shapes(drawn: Path) -> DetectionDataModule:
    settings: dict[str, Any] = {"image_size": 64, "batch_size": 4, "num_workers": 0, "missing_classes": "note"}
    return DetectionDataModule(str(drawn / "detection"), **settings)


def test_groups_and_stages(cfg: Path) -> None:
    """Layers 0 to 4 are the backbone, and fall into stages by stride; the rest is head."""
    task = detector(cfg, lr_decay=0.5, max_detections=7)
    assert list(task.backbones) == ["network.backbone"]
    found = divide(task.backbones, module=task)
    by_layer = [{int(name.split(".")[3]) for name in names} for names in found.names]
    assert by_layer == [{4}, {1, 2}, {0}]
    head = {name for name, _ in task.named_parameters()} - {name for names in found.names for name in names}
    assert {name.split(".")[3] for name in head} == {"5", "6"}
    assert isinstance(task.network, DarknetYOLO)
    assert (task.loss.ignore_threshold, task.network.ignore_thresholds) == (
        None,
        (0.6,),
    )  # the loss takes the network's
    assert task.network.scale_x_y == (1.05,)


def test_the_freeze_argument(cfg: Path, drawn: Path) -> None:
    data = shapes(drawn)
    task = YOLODetector(data.class_names, architecture=str(cfg), weights=str(cfg.with_suffix(".weights")), freeze=2)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    quiet_trainer(max_steps=2).fit(task, data)
    moved = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    layers = {int(name.split(".")[3]) for name in moved if name.startswith("network.")}
    assert layers == {4, 5, 6}  # and the running statistics of layers 0 to 2 stood still, too


class Open(ProgressiveUnfreezing):
    """Keeps which layers of the backbone train in each epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        named = pl_module.network.backbone.named_parameters()
        self.__dict__.setdefault("seen", []).append({int(n.split(".")[1]) for n, p in named if p.requires_grad})


def test_progressive_unfreezing_opens_it_from_the_head_on(cfg: Path, drawn: Path, tmp_path: Path) -> None:
    data = shapes(drawn)
    task = YOLODetector(data.class_names, architecture=str(cfg), weights=str(cfg.with_suffix(".weights")))
    callback = Open(at=[1, 2, 3], unit="epoch")
    run = quiet_trainer(max_epochs=4, limit_train_batches=1, callbacks=[callback], default_root_dir=tmp_path)
    run.fit(task, data)
    assert callback.__dict__["seen"] == [set(), {4}, {1, 2, 4}, {0, 1, 2, 4}]


def test_a_checkpoint_carries_the_cfg(cfg: Path, tmp_path: Path) -> None:
    task = detector(cfg, bn_eps=1e-4, anchors=[[5, 6], [40, 50]]).eval()
    run = quiet_trainer(max_epochs=1)
    run.strategy.connect(task)
    run.save_checkpoint(tmp_path / "a.ckpt")
    cfg.unlink()
    cfg.with_suffix(".weights").unlink()
    loaded = load_task(tmp_path / "a.ckpt")
    assert isinstance(loaded, YOLODetector)
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        for own, other in zip(task(images), loaded(images), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
    assert {m.eps for m in loaded.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-4}
    assert loaded.network.anchors.tolist() == [[[5.0, 6.0], [40.0, 50.0]]]


@pytest.mark.parametrize("names", [["circle", "square"], ["circle", "square", "triangle"]])
def test_other_anchors_under_heads_that_were_read_are_said_aloud(
    cfg: Path, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Heads of as many classes as the data's are kept: their boxes were learnt in units of the file's anchors."""
    for anchors in ("auto", [[5, 6], [40, 50]], None, "paper"):
        caplog.clear()
        with caplog.at_level("INFO"):
            YOLODetector(names, architecture=str(cfg), weights=str(cfg.with_suffix(".weights")), anchors=anchors)  # type: ignore[arg-type]
        other = len(names) == 2 and anchors not in (None, "paper")
        assert ("learnt with other anchors: leave model.anchors out" in caplog.text) == other


def test_anchors_are_clustered_for_heads_of_different_numbers(drawn: Path, tmp_path: Path) -> None:
    """Their files, too, say how many each head has; the largest are the coarsest head's."""
    (tmp_path / "a.cfg").write_text(three_and_one((FOLDER / "yolov3-tiny.cfg").read_text()))
    data = DetectionDataModule(str(drawn / "detection"), format="coco", image_size=64, batch_size=2, num_workers=0)
    task = YOLODetector(data.class_names, architecture=str(tmp_path / "a.cfg"), anchors="auto")
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(task, data)
    dealt = task.network.anchors
    areas = dealt.prod(dim=2)
    assert (dealt[1, 1:] == 0).all()
    assert 0 < areas[1, 0] < areas[0, 0] < areas[0, 1] < areas[0, 2]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(load_task(tmp_path / "a.ckpt").network.anchors, dealt)
    _, cfg, _ = export_darknet(tmp_path / "a.ckpt", tmp_path / "b.weights")
    again = create_darknet(str(cfg))
    assert torch.equal(again.anchors, dealt)
    load_weights(again, tmp_path / "b.weights")
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for own, other in zip(again.eval()(images), task.network.eval()(images), strict=True):
            assert own.shape[1] == 3 * (5 + len(data.class_names))
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)  # their layouts in memory differ
    with pytest.raises(UserError, match=r"`anchors` has 6 pairs, but .*a\.cfg wants 4: give as many"):
        create_darknet(str(tmp_path / "a.cfg"), anchors=[[k, k] for k in range(1, 7)])


def test_pixels_come_from_0_to_1_as_in_darknet(cfg: Path) -> None:
    preprocess = detector(cfg).preprocess
    assert (preprocess.mean, preprocess.std) == ((0.0,) * 3, (1.0,) * 3)


def test_testing_builds_what_was_trained_without_reading_the_weights_again(drawn: Path, workspace: Path) -> None:
    """Pixel statistics and the slope followed from the weights, and come from the checkpoint then."""
    network = timm.create_model("lcnet_050", features_only=True, out_indices=(2, 3))
    save_file(network.state_dict(), workspace / "own.safetensors")
    experiment = write_experiment(workspace / "a.yaml", "detection", drawn, {"weights": "own.safetensors"})
    trained = command("fit", experiment).model
    (workspace / "own.safetensors").unlink()
    tested = command("test", experiment).model
    assert tested.preprocess.mean == trained.preprocess.mean
    assert tested.preprocess.mean == pytest.approx(IMAGENET_DEFAULT_MEAN)


def test_what_is_said_stays_and_what_followed_is_filled_in() -> None:
    arguments = {"mean": None, "std": [1.0], "backbone_args": {"drop_rate": 0.1}}
    fill_in(arguments, {"mean": [0.5], "std": [0.2], "backbone_args": {"slope": 0.1, "drop_rate": 0.1}})
    assert arguments == {"mean": [0.5], "std": [1.0], "backbone_args": {"slope": 0.1, "drop_rate": 0.1}}
    others = {"backbone_args": {"drop_rate": 0.2}}
    fill_in(others, {"mean": [0.5], "backbone_args": {"slope": 0.1, "drop_rate": 0.1}})
    assert others == {"backbone_args": {"drop_rate": 0.2}}


# --- Darknet's letterbox ---------------------------------------------------------------------------------------------
def darknet_letterbox(boxes: torch.Tensor, size: tuple[int, int], net: int) -> torch.Tensor:
    """`letterbox_image` and `correct_yolo_boxes` of pjreddie's Darknet: whole-number division, then halves kept."""
    height, width = size
    if net / width < net / height:
        new_w, new_h = net, height * net // width
    else:
        new_w, new_h = width * net // height, net
    offset = torch.tensor([(net - new_w) / 2, (net - new_h) / 2] * 2)
    return (boxes - offset) / torch.tensor([new_w / width, new_h / height] * 2)


@pytest.mark.parametrize("size", [(576, 768), (424, 640), (512, 773), (1080, 810), (720, 1280), (333, 500), (500, 333)])
@pytest.mark.parametrize("net", [416, 320, 608])
def test_letterboxed_boxes_come_back_within_a_pixel_of_the_input(size: tuple[int, int], net: int) -> None:
    """Ours rounds the scaled side to the nearest pixel, Darknet down: equal where the division is exact."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator) * net * 0.5 + net * 0.1
    boxes = torch.cat([corner, corner + torch.rand(200, 2, generator=generator) * net * 0.3], dim=1)
    frame = torch.from_numpy(fit_frame("letterbox", size, (net, net))[:2])
    ours = restore_boxes(boxes, frame, torch.tensor([10_000, 10_000]))  # too large a picture: nothing is clipped
    theirs = darknet_letterbox(boxes.double(), size, net).float()
    inside = (theirs >= 0).all(dim=1) & (ours > 0).all(dim=1)
    assert inside.sum() > 50
    pixel = max(size) / net
    difference = (ours - theirs)[inside].abs().max().item()
    short = min(size) * net / max(size)
    if short == int(short) and (net - int(short)) % 2 == 0:
        assert difference < 1e-3
    else:
        assert difference <= 1.0 * pixel
