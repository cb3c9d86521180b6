"""A stage that does not pay is taken back: as if it had never opened, averages and moments included."""

from pathlib import Path
from typing import Any

import pytest
import unfreezing_net as net
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging

from lit_vision.callbacks import unfreezing
from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.callbacks.unfreezing_schedule import Gain

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
