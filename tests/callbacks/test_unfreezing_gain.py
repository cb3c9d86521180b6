"""A stage that does not pay is taken back: as if it had never opened, averages and moments included."""

from pathlib import Path
from typing import Any

import pytest
import torch
import unfreezing_net as net
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from unfreezing_net import train

from lit_vision.callbacks import unfreezing
from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.callbacks.unfreezing_schedule import Gain, Plateau

AVERAGES: dict[str, Any] = {
    "none": list,
    "EMA": lambda: [EMAWeightAveraging(decay=0.7)],
    "mean of all": lambda: [WeightAveraging()],
}


def taken_back(
    tmp_path: Path, average: str, optimizer: str = "adamw", epochs: int = 6, **options: Any
) -> tuple[net.Staged, ProgressiveUnfreezing]:
    """Stage 0 opens at epoch 2, has two epochs, is taken back, and the head trains on alone."""
    callback = ProgressiveUnfreezing(at=[2], gain=Gain(patience=2, min_gain=100.0))
    others = [*AVERAGES[average](), *options.pop("others", [])]
    module = net.Staged(optimizer)
    net.fit(module, [callback, *others], epochs, str(tmp_path), **options)
    return module, callback


def never_opened(tmp_path: Path, average: str, optimizer: str = "adamw") -> net.Staged:
    """Four epochs of the head alone."""
    module = net.Staged(optimizer)
    net.fit(module, [ProgressiveUnfreezing(at=[]), *AVERAGES[average]()], 4, str(tmp_path))
    return module


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("optimizer", net.OPTIMIZERS)
def test_what_is_taken_back_leaves_no_trace(tmp_path: Path, average: str, optimizer: str) -> None:
    """Weights, averages and moments are those from before: two epochs less of the head alone end with the same bits."""
    module, callback = taken_back(tmp_path, average, optimizer)
    assert callback.stopped
    assert net.fingerprint(module) == net.fingerprint(never_opened(tmp_path, average, optimizer))


@pytest.mark.parametrize("part", ["optimizers", "averages"])
def test_without_this_part_it_does(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    back = unfreezing.put_back
    now = {"averages": lambda trainer, module: unfreezing.kept(trainer, module)["averages"]}
    now["optimizers"] = lambda trainer, module: unfreezing.kept(trainer, module)["optimizers"]

    def all_but_one(trainer: Any, module: Any, state: Any) -> None:
        back(trainer, module, {**state, part: now[part](trainer, module)})

    monkeypatch.setattr(unfreezing, "put_back", all_but_one)
    module, _ = taken_back(tmp_path, "EMA")
    assert net.fingerprint(module) != net.fingerprint(never_opened(tmp_path, "EMA"))


@pytest.mark.parametrize("stop", [3, 4, 5])  # in the trial, just after the verdict, later
def test_a_restart_does_not_change_what_is_taken_back(tmp_path: Path, stop: int) -> None:
    whole, _ = taken_back(tmp_path, "EMA")
    keep = ModelCheckpoint(dirpath=tmp_path, filename="stopped")
    taken_back(tmp_path, "EMA", epochs=stop, others=[keep], enable_checkpointing=True)
    module, callback = taken_back(tmp_path, "EMA", ckpt_path=keep.best_model_path)
    assert callback.stopped
    assert net.fingerprint(module) == net.fingerprint(whole)


def test_a_stage_that_does_not_pay_is_taken_back(tmp_path: Path) -> None:
    gain = Gain(patience=1, min_gain=100.0)
    callback = ProgressiveUnfreezing(at=[2, 3, 4], gain=gain)
    module, watch, _trainer = train(tmp_path, callback, epochs=6)
    assert watch.trainable[:: net.STEPS] == [2, 2, 5, 2, 2, 2]
    assert callback.stopped
    assert callback.open == 0
    pretrained = net.Staged()
    for name, parameter in module.backbone.named_parameters():
        assert torch.equal(parameter, pretrained.backbone.get_parameter(name))
    assert [event["event"] for event in callback.record.history if event["event"] != "value"] == [
        "start",
        "open",
        "rollback",
    ]


class Counting(net.Staged):
    """Its metric grows by one each epoch."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/epoch", float(self.current_epoch))
        self.log("val/still", 1.0)


def test_plateau_and_gain_each_follow_their_own_metric(tmp_path: Path) -> None:
    plateau = Plateau(monitor="val/still", patience=1)
    gain = Gain(monitor="val/epoch", patience=1, min_gain=0.5)
    _, watch, _ = train(tmp_path, ProgressiveUnfreezing(plateau=plateau, gain=gain), Counting(), epochs=5)
    assert watch.trainable[:: net.STEPS] == [2, 2, 5, 8, 11]  # what stands still opens, what grows keeps it open


def test_a_stage_that_pays_stays(tmp_path: Path) -> None:
    callback = ProgressiveUnfreezing(at=[1, 2, 3], gain=Gain(monitor="val/epoch", patience=1, min_gain=0.5))
    _, watch, _ = train(tmp_path, callback, Counting(), epochs=6)
    assert watch.trainable[:: net.STEPS] == [2, 5, 8, 11, 11, 11]
    assert not callback.stopped
