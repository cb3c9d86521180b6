"""Whether a run has anything left to do, what has changed since it began, and its metrics.csv."""

from pathlib import Path
from typing import Any

import pytest

from lit_vision.runs.metrics_file import drop_rows
from lit_vision.runs.resume import changes, checkpoints, finished

EARLY = {"finished": {"max_epochs": 9, "max_steps": -1, "early": True}}
FULL = {"finished": {"max_epochs": 2, "max_steps": -1, "early": False}}


# --- finished ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "trainer", "reason"),
    [
        ({"epochs": 2, "step": 12, "run": FULL}, {"max_epochs": 2}, "all 2 epochs are done"),
        ({"epochs": 2, "step": 12, "run": FULL}, {"max_epochs": 1}, "all 2 epochs are done"),
        ({"epochs": 2, "step": 12, "run": FULL}, {"max_epochs": 3}, None),
        ({"epochs": 2, "step": 12, "run": None}, {"max_epochs": 2}, "all 2 epochs are done"),
        ({"epochs": 1, "step": 8, "run": None}, {"max_epochs": 2}, None),
        ({"epochs": 999, "step": 8, "run": None}, {}, None),
        ({"epochs": 1000, "step": 8, "run": None}, {}, "all 1000 epochs are done"),  # Lightning's own limit
        ({"epochs": 1, "step": 8, "run": None}, {"max_steps": 8}, "all 8 steps are done"),
        ({"epochs": 5000, "step": 8, "run": None}, {"max_steps": 9}, None),
        ({"epochs": 5000, "step": 8, "run": None}, {"max_time": "00:01:00:00"}, None),
        ({"epochs": 4, "step": 12, "run": EARLY}, {"max_epochs": 9}, "a callback ended it early, after 12 steps"),
        ({"epochs": 4, "step": 12, "run": EARLY}, {"max_epochs": 10}, None),
    ],
)
def test_finished(header: dict[str, Any], trainer: dict[str, Any], reason: str | None) -> None:
    found = finished(header, trainer)
    assert found is None if reason is None else str(found).startswith(f"{reason}; raise --trainer.max_")


# --- what has changed -------------------------------------------------------------------------------------------
def test_changes_are_named_as_on_the_command_line() -> None:
    before = {"model": {"class_path": "A", "init_args": {"lr": 1, "sizes": [1, 2]}}, "trainer": {"callbacks": None}}
    now = {"model": {"class_path": "A", "init_args": {"lr": 2, "sizes": [1, 3]}}, "trainer": {"callbacks": None}}
    assert changes(before, now) == ["model.lr 1 -> 2", "model.sizes [1, 2] -> [1, 3]"]
    assert changes(now, now) == []


def test_callbacks_are_compared_one_by_one() -> None:
    one, two = {"class_path": "A", "init_args": {"n": 1}}, {"class_path": "B", "init_args": {}}
    before, now = ({"trainer": {"callbacks": found}} for found in ([one], [one, two]))
    assert changes(before, now) == ["trainer.callbacks.1.class_path None -> B"]


def test_where_the_run_lies_is_no_change() -> None:
    assert changes({"ckpt_path": None, "run_dir": "a", "resume": "auto"}, {"ckpt_path": "b", "runs": "c"}) == []


# --- files ------------------------------------------------------------------------------------------------------
def test_last_and_previous_come_before_the_others(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("best", "epoch=3", "last", "previous"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").touch()
    (tmp_path / "checkpoints" / "last.ckpt.partial").touch()
    assert [path.stem for path in checkpoints(tmp_path)] == ["last", "previous", "best", "epoch=3"]
    assert checkpoints(tmp_path / "nowhere") == []


ROWS = "a,step\n1.0,0\n2.0,1\n,1\n3.0,2\n"


@pytest.mark.parametrize(
    ("text", "first", "kept"),
    [
        (ROWS, 2, "a,step\n1.0,0\n2.0,1\n,1\n"),
        (ROWS, 1, "a,step\n1.0,0\n"),
        (ROWS, 0, "a,step\n"),
        (ROWS, 3, ROWS),
        (ROWS + "4.0,", 3, ROWS),  # torn in the middle of a row
        (ROWS + "4.0,3", 3, ROWS),
        (ROWS + "0.5,0\n", 2, ROWS + "0.5,0\n"),  # never a row before an earlier step's
    ],
)
def test_rows_after_the_checkpoint_are_dropped(text: str, first: int, kept: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    dropped = drop_rows(path, first)
    assert path.read_text() == kept
    assert dropped == len(text.splitlines()) - len(kept.splitlines())
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_missing_and_headless_files(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert drop_rows(path, 0) == 0
    path.write_text("a,st")
    assert drop_rows(path, 0) == 0
    assert not path.exists()
