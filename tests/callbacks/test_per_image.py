"""What a test leaves of each picture gives the task's own metric again, whatever the task."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import TASKS, command, write_experiment

from lit_vision.metrics.weighted import METRICS, weighted
from lit_vision.runs.evidence import Evidence, read

EXACT = {"classification": 6e-8, "segmentation": 1e-9, "instances": 1e-9, "detection": 1e-9}  # accuracy is a float32


def values_of(evidence: Evidence) -> dict[str, float]:
    whole = np.ones((1, len(evidence)))
    common, by_class = METRICS[evidence.kind]
    names = [*common, *(f"{one}/{name}" for one in by_class for name in evidence.class_names)]
    if "outline/counts" not in evidence.arrays:  # outlines are compared in the test alone
        names = [name for name in names if not name.startswith("boundary_")]
    args = (evidence.arrays, evidence.class_names)
    return {name: float(weighted(evidence.kind, name, *args)(whole)[0]) for name in names}


@pytest.fixture(scope="module", params=TASKS)
def tested(request: pytest.FixtureRequest, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A task, and its run folder after fit, test and validate."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model = {"freeze": None} if task != "detection" else {"evaluation_threshold": 0.0}
        experiment = write_experiment(folder / "e.yaml", task, drawn, model=model, max_epochs=3)
        run = command("fit", experiment).folder.path.resolve()
        command("test", experiment)
        command("validate", experiment)
    return task, run


@pytest.mark.parametrize("split", ["test", "validate"])
def test_every_metric_comes_out_again(tested: tuple[str, Path], split: str) -> None:
    task, run = tested
    told = json.loads((run / split / "metrics.json").read_text())
    stage = {"test": "test", "validate": "val"}[split]
    logged = {name.removeprefix(f"{stage}/"): value for name, value in told["metrics"].items()}
    evidence = read(run / split / "per_image.npz")
    found = values_of(evidence)
    compared = [name for name in found if name in logged]
    assert {name: found[name] for name in compared} == pytest.approx(
        {name: logged[name] for name in compared}, abs=EXACT[task]
    )
    assert evidence.metric in compared
    assert told["monitor"] == f"val/{evidence.metric}"
    missing = set(found) - set(compared)
    assert {name for name in missing if not np.isnan(found[name])} <= {"top5"}  # logged above five classes only
    left_out = set(logged) - set(found) - {name for name in logged if "loss" in name}
    of_maps = {"pixel_iou", "border_iou"}  # of the networks, before there are objects
    assert left_out <= {"f1", "ms_per_picture"} | of_maps  # times are of this run, not of its pictures


def test_pictures_are_those_of_the_split_in_its_order(tested: tuple[str, Path], drawn: Path) -> None:
    task, run = tested
    evidence = read(run / "test" / "per_image.npz")
    images = sorted(path for path in (drawn / task).rglob("*.jpg") if "test" in path.relative_to(drawn).parts)
    assert sorted(evidence.files) == [path.relative_to(drawn / task).as_posix() for path in images]
    assert len(evidence) == (10 if task == "classification" else 5)
    assert evidence.facts["checkpoint"].endswith("checkpoints/best.ckpt")
    assert evidence.facts["image_size"] == [64, 64]
    if task != "classification":
        assert len(set(evidence.labels.tolist())) == 5


def test_training_keeps_nothing(tested: tuple[str, Path]) -> None:
    _, run = tested
    found = {str(path.relative_to(run)) for path in run.rglob("per_image.*")}
    assert found == {"test/per_image.npz", "validate/per_image.npz"}
