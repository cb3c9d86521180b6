"""All four tasks on two real processes: killed and stopped in mid-epoch, they end with the bits of an uncut run."""

from pathlib import Path
from typing import Any

import pytest
from resuming import left
from tiny import TASKS, write_experiment

from lit_vision.data.shapes import draw_shapes
from lit_vision.rehearsal_report import Evidence
from lit_vision.rehearse import main

UNFREEZING: dict[str, Any] = {"class_path": "ProgressiveUnfreezing", "init_args": {"at": [1], "max_stages": 2}}
SAMPLES = {"classification": {"batch_size": 4, "num_workers": 1}}
OTHERS = {"batch_size": 2, "num_workers": 1}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("drawn") / "set", train=16, val=8, test=2, size=64)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_broken_run_equals_uncut_one(
    task: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SERVICE", "of-a-process-around-this-one")
    data = SAMPLES.get(task, OTHERS)
    experiment = write_experiment(
        tmp_path / "tiny.yaml", task, pictures, data=data, max_epochs=3, callbacks=[UNFREEZING]
    )
    folder = tmp_path / "rehearsal"
    assert main(["-c", str(experiment)], seed=1, folder=folder) == 0  # kill -9 after step 3, SIGTERM after 9
    (whole,), (broken,) = (Evidence(folder / run).run_folders for run in ("whole", "broken"))
    assert left(broken) == left(whole)  # buffers, moments, schedules and all rows of metrics.csv
    assert left(whole)["step"] == 12
    trained = {line["trainable"] for places in Evidence(folder / "broken").batches[0].values() for line in places}
    assert len(trained) == 2  # a stage has opened on the way
