"""`lit-vision advise` as a user calls it: the advice, and an experiment that fit runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import TASKS, write_experiment

from lit_vision.__main__ import main
from lit_vision.networks.backbones import create_classifier
from lit_vision.transfer.advice import HEAD_LR, LEAST_EPOCHS, LEAST_STEPS, LR

BACKBONES = {"classification": "test_resnet", "segmentation": "lcnet_050", "instances": "lcnet_050"}


def weights_of(task: str, folder: Path) -> str:
    file = folder / "weights.pth"
    torch.save(create_classifier(BACKBONES.get(task, "lcnet_050"), 10).state_dict(), file)
    return str(file)


@pytest.mark.parametrize("task", TASKS)
def test_the_experiment_that_it_writes_runs(
    task: str, tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_experiment(Path("mine.yaml"), task, drawn, model={"weights": weights_of(task, tmp_path)})
    assert main(["advise", "-c", str(path), "--images", "10", "--data.batch_size", "3"]) == 0
    said = capsys.readouterr().out
    assert "training pictures: little data" in said
    assert "random weights" in said
    assert "mine_advised.yaml" in said
    text = Path("mine_advised.yaml").read_text()
    assert text.startswith("# Written by lit-vision advise.\n# ")
    written = yaml.safe_load(text)
    callback = written["trainer"]["callbacks"][-1]
    assert callback["class_path"] == "ProgressiveUnfreezing"
    assert callback["init_args"]["unit"] == "fraction"
    assert written["data"]["init_args"]["batch_size"] == 3  # what was said on the command line counts
    if task == "classification":  # whose lengths and rates were measured: 150 steps of a head alone, or of more
        steps = max(len(list((drawn / task / "train").rglob("*.jpg"))) // 3, 1)
        assert written["trainer"]["max_epochs"] == max(LEAST_EPOCHS, -(-LEAST_STEPS // steps))
        rate = written["model"]["init_args"]["optimizer"]["init_args"]["lr"]
        assert rate == (LR if callback["init_args"]["at"] else HEAD_LR)
    else:
        assert written["trainer"]["max_epochs"] == 1  # the user's own
    assert written["model"]["init_args"]["optimizer"]["init_args"]["weight_decay"] == 0.05  # torch's own is 0.01
    assert not Path("runs").exists()
    assert main(["fit", "-c", "mine_advised.yaml", "--trainer.max_epochs", "1", "--wandb", "off"]) == 0


def test_an_earlier_advice_is_kept(tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_experiment(
        Path("mine.yaml"), "classification", drawn, model={"weights": weights_of("classification", tmp_path)}
    )
    Path("mine_advised.yaml").write_text("mine: 1\n")
    assert main(["advise", "-c", str(path), "--images", "10"]) == 0
    assert Path("mine_advised.old").read_text() == "mine: 1\n"


@pytest.mark.parametrize(
    "optimizer",
    [
        {"class_path": "SGD", "init_args": {"lr": 0.001, "weight_decay": 0.05, "momentum": 0.9}},
        {"class_path": "AdamW", "init_args": {"lr": 0.5, "weight_decay": 0.01, "betas": [0.8, 0.9]}},
    ],
)
def test_the_users_optimizer_stays(
    optimizer: dict[str, Any], tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a value is that of the task's default; AdamW alone gets the rate that was measured for it."""
    monkeypatch.chdir(tmp_path)
    model = {"weights": weights_of("classification", tmp_path), "optimizer": optimizer}
    path = write_experiment(Path("mine.yaml"), "classification", drawn, model=model)
    assert main(["advise", "-c", str(path), "--images", "10"]) == 0
    found = yaml.safe_load(Path("mine_advised.yaml").read_text())
    rate = found["model"]["init_args"]["optimizer"]["init_args"].pop("lr")
    expected = dict(optimizer["init_args"])
    own = expected.pop("lr")
    assert rate == own if optimizer["class_path"] == "SGD" else rate in (HEAD_LR, LR)
    assert found["model"]["init_args"]["optimizer"]["init_args"] == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "has no pretrained weights"),
        (["--images", "3"], "give at least 10"),
        (["--output", "nowhere/a.yaml"], "there is no folder nowhere"),
        (["--output", "mine.yaml"], "name another file"),
        (["--imges", "20"], "unknown option --imges"),
    ],
)
def test_what_cannot_be_advised_is_said_in_a_sentence(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    drawn: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_experiment(Path("mine.yaml"), "classification", drawn)
    assert main(["advise", "-c", str(path), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.yaml"]
