"""What each strategy opens, and that a measured one is decided once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import command, write_experiment

from lit_vision.callbacks import unfreezing_strategy
from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.callbacks.unfreezing_schedule import Plateau
from lit_vision.cli.vision_cli import VisionCLI
from lit_vision.errors import UserError
from lit_vision.transfer.strategies import RECIPES


def unfreezing_of(done: VisionCLI) -> ProgressiveUnfreezing:
    (found,) = [one for one in done.trainer.callbacks if isinstance(one, ProgressiveUnfreezing)]
    return found


def experiment(folder: Path, drawn: Path, **settings: object) -> Path:
    callback = {"class_path": "ProgressiveUnfreezing", "init_args": {"measure": False, **settings}}
    return write_experiment(folder / "tiny.yaml", "classification", drawn, callbacks=[callback], max_epochs=3)


@pytest.mark.parametrize("strategy", list(RECIPES))
def test_a_strategy_opens_what_its_recipe_says(strategy: str, tmp_path: Path, drawn: Path) -> None:
    done = command("fit", experiment(tmp_path, drawn, strategy=strategy), "--runs", str(tmp_path / "runs"))
    callback, recipe = unfreezing_of(done), RECIPES[strategy]  # type: ignore[index]
    assert len(callback.stages.names) == 3
    assert callback.open == len(recipe.at)
    rates = {group["name"]: group["lr_scale"] for group in done.trainer.optimizers[0].param_groups}
    assert rates["network/stage1/decay"] == pytest.approx(recipe.lr_decay**2)


def test_a_given_decay_counts(tmp_path: Path, drawn: Path) -> None:
    path = experiment(tmp_path, drawn, strategy="many_different", lr_decay=0.1)
    done = command("fit", path, "--runs", str(tmp_path / "runs"))
    rates = {group["name"]: group["lr_scale"] for group in done.trainer.optimizers[0].param_groups}
    assert rates["network/stage0/decay"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("other", "value"), [("at", [1]), ("plateau", Plateau()), ("stages", ["layer4"]), ("max_stages", 2)]
)
def test_nothing_else_says_when_stages_open(other: str, value: object) -> None:
    with pytest.raises(UserError, match=f"leave {other} out"):
        ProgressiveUnfreezing(strategy="few_similar", **{other: value})  # type: ignore[arg-type]


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(UserError, match="'few_alike'; use one of few_similar"):
        ProgressiveUnfreezing(strategy="few_alike")  # type: ignore[arg-type]


def test_auto_measures_once_and_keeps_to_it(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second start, a resumed one, reads what the first has decided: were it to measure, this would fail."""
    path = experiment(tmp_path, drawn, strategy="auto")
    first = command("fit", path, "--runs", str(tmp_path / "runs"))
    facts = json.loads((first.folder.path / unfreezing_strategy.FILE).read_text())
    assert facts["case"] in RECIPES
    assert unfreezing_of(first).open == len(facts["recipe"]["at"])
    assert any("random weights" in reason for reason in facts["reasons"])

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(unfreezing_strategy, "measure", fail)
    resumed = command("fit", path, "--resume", str(first.folder.path), "--trainer.max_epochs", "4")
    assert unfreezing_of(resumed).open == unfreezing_of(first).open
    with pytest.raises(AssertionError, match="measured again"):
        command("fit", path, "--runs", str(tmp_path / "others"))


@pytest.mark.slow
def test_two_processes_do_what_rank_0_has_measured(tmp_path: Path, drawn: Path) -> None:
    """RankCheck, on by itself, would stop the run at a stage that only one of them opens."""
    path = experiment(tmp_path, drawn, strategy="auto")
    options = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--runs", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, "-m", "lit_vision", "fit", "-c", str(path), *options],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "runs").rglob(unfreezing_strategy.FILE)
    facts = json.loads(file.read_text())
    said = done.stdout + done.stderr
    assert said.count(f"strategy: {facts['case']}:") == 1  # rank 0 alone measures and says so
    assert said.count(" opens at epoch ") == len(facts["recipe"]["at"])
