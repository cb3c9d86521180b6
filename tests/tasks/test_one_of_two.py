"""Networks that go on from an earlier run, and that open apart from each other."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import NAMES, TINY, data_module
from quiet import quiet_trainer
from torch.optim import AdamW

from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.errors import UserError
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.classification import TransferClassifier
from lit_vision.tasks.instances import InstanceSegmenter

FAST = partial(AdamW, lr=1e-2)


def fit(task: InstanceSegmenter, root: Path, steps: int = 1, **settings: Any) -> Any:
    trainer = quiet_trainer(max_steps=steps, check_val_every_n_epoch=10**6, limit_val_batches=0, **settings)
    trainer.fit(task, data_module(root))
    return trainer


def test_pixels_that_are_normalised_otherwise_are_refused(root: Path, tmp_path: Path) -> None:
    """The weights would load, and be wrong in silence."""
    first = str(tmp_path / "first.ckpt")
    fit(InstanceSegmenter(NAMES, optimizer=FAST, **TINY), root).save_checkpoint(first)
    with pytest.raises(
        UserError, match=r"first.ckpt was trained on pixels of mean \[0.485, 0.456, 0.406\], but this run"
    ):
        InstanceSegmenter(NAMES, train="border", start_from=first, mean=[0.5] * 3, **TINY)
    with pytest.raises(
        UserError, match=r"std \[0.229, .*\], but this run has \[0.25, 0.25, 0.25\]: set model.std: \[0.229"
    ):
        InstanceSegmenter(NAMES, start_from=first, std=[0.25] * 3, **TINY)
    same = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    InstanceSegmenter(NAMES, start_from=first, **same, **TINY)

    second = str(tmp_path / "second.ckpt")
    fit(InstanceSegmenter(NAMES, optimizer=FAST, mean=[0.5] * 3, **TINY), root).save_checkpoint(second)
    with pytest.raises(UserError, match=r"was trained on pixels of mean \[0.5, 0.5, 0.5\], but this run has \[0.485, "):
        InstanceSegmenter(NAMES, start_from=second, shared_encoder=True, **TINY)
    InstanceSegmenter(NAMES, start_from=second, mean=[0.5] * 3, **TINY)


def test_a_checkpoint_knows_what_pixels_its_encoders_saw(root: Path, tmp_path: Path) -> None:
    """Also those that came with a file of weights, which prediction does not read again."""
    encoder = TINY["encoder"]
    for name, mean in (("one", [0.1, 0.2, 0.3]), ("two", [0.4, 0.5, 0.6])):
        classifier = TransferClassifier(["a", "b"], backbone=encoder, mean=mean, std=[0.25] * 3)
        facts = {"task": "TransferClassifier", "class_names": ["a", "b"], "data": {}}
        state = {"state_dict": classifier.state_dict(), "hyper_parameters": dict(classifier.hparams)}
        torch.save({**state, "lit_vision": facts}, tmp_path / f"{name}.ckpt")
    files = {"weights": str(tmp_path / "one.ckpt"), "border_weights": str(tmp_path / "two.ckpt")}
    fit(InstanceSegmenter(NAMES, optimizer=FAST, **files, **TINY), root).save_checkpoint(tmp_path / "both.ckpt")
    found: Any = load_task(tmp_path / "both.ckpt")
    assert (found.preprocess.mean, found.border_preprocess.mean) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert found.preprocess.std == found.border_preprocess.std == (0.25, 0.25, 0.25)
    same = {"mean": [0.1, 0.2, 0.3], "std": [0.25] * 3}
    with pytest.raises(UserError, match=r"of mean \[0.4, 0.5, 0.6\], .* set model.border_mean: \[0.4, 0.5, 0.6\]"):
        InstanceSegmenter(NAMES, start_from=str(tmp_path / "both.ckpt"), **same, **TINY)
    InstanceSegmenter(NAMES, start_from=str(tmp_path / "both.ckpt"), **same, border_mean=[0.4, 0.5, 0.6], **TINY)
    with pytest.raises(UserError, match=r"shared_encoder is true: .* border_mean and border_std out"):
        InstanceSegmenter(NAMES, shared_encoder=True, border_mean=[0.5] * 3, **TINY)


@pytest.mark.parametrize("shared", [False, True])
def test_other_classes_redraw_the_last_layer_of_the_pixels(
    root: Path, tmp_path: Path, shared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    first, settings = str(tmp_path / "first.ckpt"), {"shared_encoder": shared, **TINY}
    earlier = InstanceSegmenter(NAMES, optimizer=FAST, **settings)
    fit(earlier, root).save_checkpoint(first)
    before = {name: value for name, value in earlier.state_dict().items() if "network." in name}
    head = [f"network.network.segmentation_head.0.{name}" for name in ("weight", "bias")]
    for train, names in (("both", ["cell"]), ("pixels", ["a", "b", "c"]), ("both", ["red", "green"])):
        caplog.clear()
        with caplog.at_level("INFO"):
            task = InstanceSegmenter(names, train=train, start_from=first, **settings)  # type: ignore[arg-type]
        now = task.state_dict()
        drawn = [] if len(names) == 2 else head
        assert [name for name in before if before[name].shape != now[name].shape] == drawn
        assert all(torch.equal(before[name], now[name]) for name in before if name not in drawn)
        assert f"weights of network and border_network from {first}; of network all" in caplog.text
    assert "; of network all, the last layer too, whose classes have other names here: blue / green" in caplog.text
    with pytest.raises(UserError, match="has other networks"):
        InstanceSegmenter(["cell"], start_from=first, encoder="resnet10t")


@pytest.mark.parametrize("asked", ["both", "border"])
def test_a_border_that_was_never_trained_is_not_used(
    root: Path, tmp_path: Path, asked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = str(tmp_path / "first.ckpt")
    fit(InstanceSegmenter(NAMES, train="pixels", optimizer=FAST, **TINY), root).save_checkpoint(first)
    task = InstanceSegmenter(NAMES, train=asked, optimizer=FAST, **TINY)
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    said = (
        f"model.train is {asked}, but the checkpoint is of a run with train: pixels: it is used as one, and objects "
        "are found without borders"
    )
    with caplog.at_level("INFO"):
        trainer = quiet_trainer()
        figures = trainer.test(task, data_module(root), ckpt_path=first, verbose=False)[0]
        assert said in caplog.messages
        assert "test/border_loss" not in figures
        assert task.eval()(images)[1].unique().tolist() == [-30]
        trainer.save_checkpoint(tmp_path / "again.ckpt")
        loaded: Any = load_task(tmp_path / "again.ckpt")
        assert loaded.trained == "pixels"
        caplog.clear()
        loaded = load_task(first, train=asked, border_threshold=0.2)
        assert said in caplog.messages
    assert loaded(images)[1].unique().tolist() == [-30]
    assert torch.equal(loaded(images)[0], task(images)[0])
    assert loaded.separation.border_threshold == 0.2


def test_what_tests_pixels_alone_trains_what_it_was_asked_to(root: Path, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first.ckpt"), str(tmp_path / "second.ckpt")
    fit(InstanceSegmenter(NAMES, train="pixels", optimizer=FAST, **TINY), root).save_checkpoint(first)
    task: Any = load_task(first, train="both", optimizer=FAST)
    assert task.trained == "pixels"
    before = task.border_network.state_dict()["network.segmentation_head.0.weight"].clone()
    fit(task, root).save_checkpoint(second)
    assert (task.trained, task.hparams["train"]) == ("both", "both")
    assert not torch.equal(before, task.border_network.state_dict()["network.segmentation_head.0.weight"])
    again: Any = load_task(second)
    assert again.trained == "both"
    # Of one task after the other, each checkpoint counts by itself; and one of pixels goes on where it was cut.
    for file, trained in ((first, "pixels"), (second, "both")):
        quiet_trainer().validate(task, data_module(root), ckpt_path=file, verbose=False)
        assert task.trained == trained
    pixels = InstanceSegmenter(NAMES, train="pixels", optimizer=FAST, **TINY)
    quiet_trainer(max_steps=2, limit_val_batches=0).fit(pixels, data_module(root), ckpt_path=first)
    assert pixels.trainer.global_step == 2


def test_networks_of_one_kind_open_apart(root: Path, tmp_path: Path) -> None:
    task = InstanceSegmenter(NAMES, optimizer=FAST, **TINY)
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    thaw = ProgressiveUnfreezing(at=[1], unit="step", stages=["border_network", "network"])
    fit(task, root, steps=2, callbacks=[thaw], default_root_dir=tmp_path)
    moved = {name for name, p in task.named_parameters() if not torch.equal(before[name], p)}
    pixels, border = ({name for name in moved if name.startswith(prefix)} for prefix in task.backbones)
    assert border
    assert not pixels
