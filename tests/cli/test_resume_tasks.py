"""Each of the four tasks, on drawn pictures with its own augmentation: a cut run ends with the uncut one's bits."""

from pathlib import Path
from typing import Any

import pytest
from resuming import CutOffError, hash_of, left
from tiny import TASKS, command, write_experiment

MODELS: dict[str, dict[str, Any]] = {"classification": {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1}}
THIRD_STEP = {"class_path": "RunCheckpoints", "init_args": {"every_n_train_steps": 3}}
CUT = {"class_path": "resuming.Cut", "init_args": {"step": 4}}


def experiment(
    path: Path, task: str, drawn: Path, workers: int, *callbacks: dict[str, Any], epochs: int = 2, **data: Any
) -> Path:
    return write_experiment(
        path,
        task,
        drawn,
        model=MODELS.get(task),
        data={"batch_size": 2, "num_workers": workers, **data},
        max_epochs=epochs,
        limit_val_batches=1 if task == "classification" else 0,
        log_every_n_steps=1,
        callbacks=[THIRD_STEP, *callbacks],
    )


@pytest.mark.parametrize("task", TASKS)
def test_cut_run_equals_uncut(task: str, workspace: Path, drawn: Path) -> None:
    """Cut after the third step: in the middle of an epoch; continued with two workers where there were none."""
    whole = command("fit", experiment(workspace / "whole.yaml", task, drawn, 0))
    with pytest.raises(CutOffError):
        command("fit", experiment(workspace / "cut.yaml", task, drawn, 0, CUT))
    experiment(workspace / "cut.yaml", task, drawn, 2 if task == "classification" else 0)
    again = command("fit", workspace / "cut.yaml", "--resume", "auto")
    assert again.trainer.global_step == whole.trainer.global_step >= 4
    assert left(again.folder.path) == left(whole.folder.path)


@pytest.mark.slow
def test_without_augmentation_it_would_be_another_run(workspace: Path, drawn: Path) -> None:
    """The negative control: the pictures of the continued part count."""
    whole = command("fit", experiment(workspace / "whole.yaml", "segmentation", drawn, 0))
    with pytest.raises(CutOffError):
        command("fit", experiment(workspace / "cut.yaml", "segmentation", drawn, 0, CUT))
    experiment(workspace / "cut.yaml", "segmentation", drawn, 0, augmentation="none")
    again = command("fit", workspace / "cut.yaml", "--resume", "auto")
    assert left(again.folder.path)["state_dict"] != left(whole.folder.path)["state_dict"]


UNFREEZING: dict[str, dict[str, Any]] = {
    "by step": {"at": [2, 5], "unit": "step"},
    "by epoch": {"at": [1], "unit": "epoch"},
    "plateau": {"plateau": {"patience": 1}},
    "gain": {"at": [2, 5], "unit": "step", "gain": {"patience": 1}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNFREEZING)
def test_cut_run_that_thaws_equals_uncut(name: str, workspace: Path, drawn: Path) -> None:
    """Cut after the first opening; the next one comes after the restart."""
    thaw = {"class_path": "ProgressiveUnfreezing", "init_args": UNFREEZING[name]}
    epochs, cut = (5, {**CUT, "init_args": {"step": 15}}) if name == "plateau" else (2, CUT)
    whole = command("fit", experiment(workspace / "whole.yaml", "classification", drawn, 0, thaw, epochs=epochs))
    with pytest.raises(CutOffError):
        command("fit", experiment(workspace / "cut.yaml", "classification", drawn, 0, thaw, cut, epochs=epochs))
    experiment(workspace / "cut.yaml", "classification", drawn, 0, thaw, epochs=epochs)
    again = command("fit", workspace / "cut.yaml", "--resume", "auto")
    assert left(again.folder.path) == left(whole.folder.path)
    states = [
        next(one.state_dict() for one in done.trainer.callbacks if type(one).__name__ == "ProgressiveUnfreezing")
        for done in (whole, again)
    ]
    assert states[0]["open"] > 0
    assert hash_of(states[0]) == hash_of(states[1])
