import csv
import json
from pathlib import Path

import cv2
import pytest
import yaml

from lit_vision.errors import UserError
from lit_vision.quickstart import EXPERIMENTS, GOALS, Goal, Outcome, example_pictures, main, table_of


def test_one_complete_experiment_for_each_goal() -> None:
    assert {path.stem for path in EXPERIMENTS.glob("*.yaml")} == {goal.task for goal in GOALS}
    for goal in GOALS:
        experiment = yaml.safe_load((EXPERIMENTS / f"{goal.task}.yaml").read_text())
        assert set(experiment) == {"seed_everything", "model", "data", "trainer"}
        assert experiment["seed_everything"] == 0
        assert experiment["data"]["init_args"]["root"].endswith(f"shapes/{goal.task}")


def test_floors_are_those_promised() -> None:
    assert {goal.metric: goal.floor for goal in GOALS} == {
        "test/accuracy": 0.95,
        "test/miou": 0.80,
        "test/ap_50": 0.75,
        "test/map_50": 0.75,
    }


def test_table_says_what_missed_its_floor() -> None:
    outcomes = [Outcome(Goal("a", "test/x", 0.5), value, 1.0, Path("runs/a")) for value in (0.5, 0.4999)]
    assert [one.reached for one in outcomes] == [True, False]
    table = table_of(outcomes)
    assert list(table.columns[2].cells) == ["[green]0.500[/green]", "[red]0.500[/red]"]
    assert [column.header for column in table.columns] == ["task", "metric", "value", "floor", "seconds", "run folder"]


def test_experiments_missing_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_vision.quickstart.EXPERIMENTS", tmp_path / "none")
    with pytest.raises(UserError, match="runs from a checkout"):
        main(tmp_path)


@pytest.mark.slow
def test_every_task_trains_tests_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    options = [
        "--trainer.max_epochs=1",
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.limit_train_batches=2",
        "--data.num_workers=0",
    ]
    monkeypatch.setattr("lit_vision.quickstart.PICTURES", {"train": 40, "val": 12, "test": 12, "size": 96})
    outcomes = main(tmp_path, options=options)
    assert [one.goal for one in outcomes] == list(GOALS)
    for one in outcomes:
        pictures = list((one.folder / "predict" / "pictures").rglob("*.jpg"))
        assert len(pictures) == (24 if one.goal.task == "classification" else 12)
        for name in ("first_batch.jpg", "val_epoch_000.jpg", "test.jpg"):
            assert cv2.imread(str(one.folder / "pictures" / name)) is not None
        reported = json.loads((one.folder / "test" / "metrics.json").read_text())["metrics"]
        assert reported[one.goal.metric] == one.value
    with (outcomes[0].folder / "predict" / "predictions.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 25
    pictures = example_pictures(outcomes, tmp_path / "docs")
    assert all(0 < path.stat().st_size < 60_000 for path in pictures)
