"""A detector trained with averaged weights (EMA): what is validated, saved, continued, tested and predicted with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import CutOffError
from tiny import RECORD, command, recorded, write_experiment
from torch import Tensor, nn

from lit_vision.tasks.checkpoints import load_task

DECAY = 0.7
EMA = {"class_path": "EMAWeightAveraging", "init_args": {"decay": DECAY}}
MODEL = {"warmup": 0.0, "evaluation_threshold": 0.0005}


def averaged(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """In double precision; counters are the last step's."""
    average = {name: value.double() for name, value in steps[0].items()}
    for step in steps[1:]:
        average = {name: DECAY * average[name] + (1 - DECAY) * value.double() for name, value in step.items()}
    return average


def experiment(folder: Path, drawn: Path, name: str, epochs: int, *callbacks: Any) -> Path:
    trainer: dict[str, Any] = {"max_epochs": epochs, "callbacks": list(callbacks)}
    return write_experiment(folder / f"{name}.yaml", "detection", drawn, model=MODEL, **trainer)


def test_checkpoint_metrics_and_predictions_are_of_the_average_statistics_included(
    workspace: Path, drawn: Path
) -> None:
    fitted = command("fit", experiment(workspace, drawn, "ema", 3, EMA, RECORD))
    steps = recorded(fitted).weights
    expected = averaged(steps)
    file = fitted.folder.checkpoints / "last.ckpt"
    saved = torch.load(file, weights_only=True)["state_dict"]
    norms = [name for name, module in fitted.model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    statistics = [f"{name}.{kind}" for name in norms for kind in ("running_mean", "running_var")]
    assert len(statistics) > 20
    for names, least in ((list(dict(fitted.model.named_parameters())), 1e-4), (statistics, 1e-3)):
        assert max(float((saved[name].double() - expected[name]).abs().max()) for name in names) < 1e-6
        assert max(float((saved[name] - steps[-1][name]).abs().max()) for name in names) > least  # not the last step's
    validated = command("validate", workspace / "ema.yaml", "--ckpt_path", str(file))
    own = {name: value for name, value in fitted.metrics.items() if name.startswith("val/")}
    assert {name: validated.metrics[name] for name in own} == pytest.approx(own, abs=1e-6)
    assert load_task(file).class_thresholds == validated.model.class_thresholds  # type: ignore[attr-defined]

    batch = next(iter(fitted.datamodule.val_dataloader()))
    task = load_task(file)
    plain = load_task(file)
    plain.load_state_dict({name: value.to(saved[name].dtype) for name, value in expected.items()})
    with torch.inference_mode():
        for one, other in zip(task._infer(batch["image"]), plain(batch["image"]), strict=True):  # type: ignore[attr-defined]
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_run_that_was_cut_goes_on_to_the_same_average(workspace: Path, drawn: Path) -> None:
    whole = command("fit", experiment(workspace, drawn, "whole", 3, EMA), "--run_dir", "whole")
    cut = {"class_path": "resuming.Cut", "init_args": {"step": 2}}
    with pytest.raises(CutOffError):
        command("fit", experiment(workspace, drawn, "cut", 3, EMA, cut), "--run_dir", "cut")
    first = torch.load("cut/checkpoints/last.ckpt", weights_only=True)
    assert first["epoch"] == 0
    again = command("fit", experiment(workspace, drawn, "cut", 3, EMA), "--resume", "cut")
    ends = [torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True) for name in ("whole", "cut")]
    assert [end["epoch"] for end in ends] == [2, 2]
    assert all(torch.equal(value, ends[1]["state_dict"][name]) for name, value in ends[0]["state_dict"].items())
    assert ends[0]["lit_vision"] == ends[1]["lit_vision"]  # thresholds of the classes among them
    assert again.metrics["val/map"] == whole.metrics["val/map"]
