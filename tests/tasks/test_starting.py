"""New runs that begin with the whole network of an earlier one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quiet import quiet_trainer

from lit_vision.errors import UserError
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.classification import TransferClassifier
from lit_vision.tasks.detection import YOLODetector
from lit_vision.tasks.segmentation import SemanticSegmenter

OWN: dict[str, Any] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
CSP: dict[str, Any] = {"backbone": "csp_n", "neck": "pan", "head": "anchor_free"}
SMALL: dict[str, Any] = {"decoder": "unet", "encoder": "test_resnet", "decoder_args": {"decoder_channels": [8] * 5}}
TASKS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "classifier": (TransferClassifier, {"backbone": "test_resnet"}),
    "segmenter": (SemanticSegmenter, SMALL),
    "detector without anchors": (YOLODetector, CSP),
    "detector with anchors": (YOLODetector, {"backbone": "csp_n", "anchors": [[k, k] for k in range(4, 22, 2)]}),
    "detector of a .cfg": (YOLODetector, {"architecture": "yolov3-tiny"}),
}


def saved(task: Any, path: Path) -> str:
    for tensor in task.network.state_dict().values():  # as no constructor leaves it
        if tensor.is_floating_point() and tensor.ndim:
            tensor.add_(0.01 * torch.rand_like(tensor))
    run = quiet_trainer()
    run.strategy.connect(task)
    run.save_checkpoint(path)
    return str(path)


@pytest.mark.parametrize("name", TASKS)
def test_the_same_classes_give_the_same_network(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind, settings = TASKS[name]
    earlier = kind(["a", "b", "c"], **settings, **OWN)
    file = saved(earlier, tmp_path / "earlier.ckpt")
    plain = {key: value for key, value in settings.items() if key != "anchors"}  # they come with the heads
    torch.manual_seed(1)
    with caplog.at_level("INFO"):
        task = kind(["a", "b", "c"], start_from=file, **plain)
    for key, value in earlier.network.state_dict().items():
        assert torch.equal(task.network.state_dict()[key], value), key
    assert list(task.preprocess.mean) == OWN["mean"]
    assert list(task.preprocess.std) == OWN["std"]
    assert (task.hparams["mean"], task.hparams["std"]) == (OWN["mean"], OWN["std"])
    assert "earlier.ckpt: all" in caplog.text
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    given, expected = (one.eval()(images) for one in (task, earlier))
    torch.testing.assert_close(given, expected, rtol=0, atol=0)
    # The checkpoint of the new run needs the earlier one no more.
    again = saved(task, tmp_path / "new.ckpt")
    Path(file).unlink()
    loaded: Any = load_task(again)
    for key, value in task.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value), key
    assert list(loaded.preprocess.mean) == OWN["mean"]


@pytest.mark.parametrize("name", TASKS)
def test_other_classes_redraw_the_last_layer_alone(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind, settings = TASKS[name]
    earlier = kind(["a", "b", "c"], **settings, **OWN)
    file = saved(earlier, tmp_path / "earlier.ckpt")
    plain = {key: value for key, value in settings.items() if key != "anchors"}  # they come along
    with caplog.at_level("INFO"):
        task = kind(["a", "d"], start_from=file, **plain)
    before, now = earlier.network.state_dict(), task.network.state_dict()
    redrawn = [key for key in now if not torch.equal(now[key].flatten()[:1], before[key].flatten()[:1])]
    changed = [key for key in now if now[key].shape != before[key].shape]
    assert changed
    assert set(redrawn) <= set(changed)
    assert f"all but {len(changed)} tensors of the last layer" in caplog.text
    assert "drawn anew for (a, d) instead of (a, b, c)" in caplog.text
    assert list(task.preprocess.mean) == OWN["mean"]


def test_what_does_not_fit_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = saved(YOLODetector(["a"], **CSP), tmp_path / "earlier.ckpt")
    with pytest.raises(UserError, match=r"earlier.ckpt has another network, first in network\..*config.yaml"):
        YOLODetector(["a"], start_from=file, **{**CSP, "neck": "v3"})
    with pytest.raises(UserError, match=r"earlier.ckpt has another network, first in network\.backbone"):
        YOLODetector(["a", "b"], start_from=file, **{**CSP, "backbone": "csp_s"})  # of other widths
    with pytest.raises(UserError, match="is of a YOLODetector, but the model is a TransferClassifier"):
        TransferClassifier(["a"], "test_resnet", start_from=file)
    with pytest.raises(UserError, match=r"earlier.ckpt brings all weights: leave out weights: .*earlier.ckpt"):
        YOLODetector(["a"], start_from=file, weights=file, **CSP)
    with pytest.raises(UserError, match=r"no .weights file of Darknet, .* a checkpoint of ours goes into `start_from`"):
        YOLODetector(["a"], architecture="yolov3-tiny", weights=file)
    missing = r"model\.start_from gone\.ckpt does not exist: give the checkpoint, also where its run is resumed"
    with pytest.raises(UserError, match=missing):
        YOLODetector(["a"], start_from="gone.ckpt", **CSP)
    with caplog.at_level("INFO"):
        YOLODetector(["z"], start_from=file, **CSP)
    assert "classes have other names here: a / z" in caplog.text


def test_a_backbone_alone_brings_its_statistics(tmp_path: Path) -> None:
    file = saved(YOLODetector(["a"], **CSP, **OWN), tmp_path / "earlier.ckpt")
    assert list(YOLODetector(["a", "b"], weights=file, **CSP).preprocess.mean) == OWN["mean"]
    assert list(YOLODetector(["a"], weights=file, **CSP, in_channels=1).preprocess.mean) == [pytest.approx(0.2)]
    assert list(YOLODetector(["a"], weights=file, **CSP, mean=[0.0] * 3).preprocess.mean) == [0.0] * 3
    assert list(TransferClassifier(["a", "b"], "csp_n", weights=file).preprocess.std) == OWN["std"]


def test_anchors_that_are_given_take_the_place_of_those_that_come_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learnt, others = ([[k + wider, k] for k in range(4, 22, 2)] for wider in (0, 3))
    earlier = YOLODetector(["a"], backbone="csp_n", anchors=learnt)
    file = saved(earlier, tmp_path / "earlier.ckpt")
    built = {"given": others, "paper": "paper", "same": earlier.network.anchors.flip(0).flatten(0, 1).tolist()}
    said = "the heads that were read learnt with other anchors: leave model.anchors out to keep them"
    for name, anchors in built.items():
        caplog.clear()
        with caplog.at_level("INFO"):
            task = YOLODetector(["a"], backbone="csp_n", anchors=anchors, start_from=file)
        assert torch.equal(task.network.anchors, YOLODetector(["a"], backbone="csp_n", anchors=anchors).network.anchors)
        assert (said in caplog.messages) is (name != "same")
    redrawn = YOLODetector(["a", "b"], backbone="csp_n", anchors=others, start_from=file)
    assert sorted(redrawn.network.anchors.flatten(0, 1).tolist()) == sorted(others)


def test_settings_that_no_weight_shows_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide: dict[str, Any] = {"backbone": "csp_n", "head_args": {"scale_x_y": 2.0}}
    file = saved(YOLODetector(["a"], **wide), tmp_path / "earlier.ckpt")
    end = "the network computes otherwise than the one that learnt these weights"
    with caplog.at_level("INFO"):
        YOLODetector(["a"], **wide, start_from=file)
        load_task(file)
        assert end not in caplog.text
        YOLODetector(["a"], backbone="csp_n", bn_eps=0.001, start_from=file)
        load_task(file, head_args=None)
        load_task(file, anchors="auto")
    assert (
        f"model.head_args is null ({{'scale_x_y': 2.0}} in {file}), model.bn_eps is 0.001 (null in {file}): {end}"
        in (caplog.messages)
    )
    assert f"model.head_args is null ({{'scale_x_y': 2.0}} in the checkpoint): {end}" in caplog.messages
    unused = "model.anchors has no effect: the checkpoint brings the anchors that its heads learnt with"
    assert caplog.messages[-1] == unused


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        (
            "classifier",
            {"backbone_args": {"act_layer": "gelu"}},
            "model.backbone_args is {'act_layer': 'gelu'} (null in",
        ),
        (
            "segmenter",
            {"decoder_args": {**SMALL["decoder_args"], "decoder_interpolation": "nearest"}},
            "decoder_args is",
        ),
    ],
)
def test_so_they_are_for_each_task(
    name: str, settings: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind, usual = TASKS[name]
    file = saved(kind(["a", "b"], **usual), tmp_path / "earlier.ckpt")
    with caplog.at_level("INFO"):
        kind(["a", "b"], start_from=file, **usual)
        assert "computes otherwise" not in caplog.text
        kind(["a", "b"], start_from=file, **{**usual, **settings})
    assert said in caplog.text
    assert "the network computes otherwise than the one that learnt these weights" in caplog.text
