"""k folds in one command: which commands are run, what is counted, how it goes on, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from resuming import left
from scipy import stats
from tiny import command, write_experiment

from lit_vision.__main__ import main
from lit_vision.cli.vision_cli import run
from lit_vision.data.splits import split
from lit_vision.errors import UserError
from lit_vision.runs import evidence, folder
from lit_vision.runs.folds_file import newest, read


class InProcess:
    """In place of the launcher's processes: the same commands in this one, as a user's words; fails where told."""

    def __init__(self) -> None:
        self.done: list[list[str]] = []
        self.groups: list[str | None] = []
        self.fails: dict[int, int] = {}  # number of the command -> its exit code

    def __call__(self, launcher: Any, words: list[str], **environment: str) -> int:
        self.done.append(words)
        self.groups.append(environment.get("WANDB_RUN_GROUP"))
        if (code := self.fails.get(len(self.done))) is not None:
            return code
        run(words[0], [*self._config(words), *words[1:]])
        return 0

    def _config(self, words: list[str]) -> list[str]:
        return [] if "-c" in words else ["-c", str(Path(words[words.index("--run_dir") + 1]) / "config.yaml")]

    @property
    def names(self) -> list[str]:
        """What was run, such as "fit 0" and "validate best 0"."""
        found = []
        for words in self.done:
            which = f" {words[words.index('--ckpt_path') + 1]}" if words[0] == "validate" else ""
            found.append(f"{words[0]}{which} {words[words.index('--run_dir') + 1][-1]}")
        return found


@pytest.fixture
def launched(workspace: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """The experiment tiny.yaml, and what is run of it."""
    write_experiment(Path("tiny.yaml"), "classification", drawn, data={"batch_size": 8, "val_fraction": 0.0})
    stand_in = InProcess()
    monkeypatch.setattr("lit_vision.cli.launcher.Launcher.run", lambda *args, **more: stand_in(*args, **more))
    return stand_in


def folds_folder() -> Path:
    (found,) = Path("runs/tiny").iterdir()
    return found


# --- the flow ---------------------------------------------------------------------------------------------------
def test_each_fold_is_a_run_and_all_pictures_are_seen_once(
    launched: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "-c", "tiny.yaml", "--folds", "2", "--trainer.max_epochs", "1"]) == 0
    assert launched.names == ["fit 0", "validate last 0", "fit 1", "validate last 1"]  # best is last: the same step
    path = folds_folder()
    assert path.name.startswith("folds2-")
    assert launched.groups[0] == launched.groups[2] == f"tiny-{path.name}"  # one W&B group
    seen = [evidence.read(path / f"fold{k}" / "validate" / "per_image.npz") for k in range(2)]
    assert [len(one) for one in seen] == [8, 8]  # the test split's ten are in none
    assert len({*seen[0].files, *seen[1].files}) == 16
    config = yaml.safe_load((path / "fold1" / "config.yaml").read_text())
    assert (config["data"]["init_args"]["folds"], config["data"]["init_args"]["fold"]) == (2, 1)
    assert config["experiment"] == "tiny"
    content = json.loads((path / "folds.json").read_text())
    values = [fold["last"] for fold in content["runs"]]
    told = [json.loads((path / f"fold{k}" / "validate" / "metrics.json").read_text()) for k in range(2)]
    assert values == [one["metrics"]["val/accuracy"] for one in told]
    assert content["metric"] == "val/accuracy"
    summary = content["summary"]
    low, high = (
        stats.t.interval(0.95, 1, np.mean(values), stats.sem(values)) if values[0] != values[1] else (values[0],) * 2
    )
    assert (summary["mean"], summary["low"], summary["high"]) == pytest.approx((np.mean(values), low, high))
    assert summary["pooled"]["value"] == pytest.approx(np.mean(values))  # of two folds of one size
    assert summary["pooled"]["pictures"] == 16
    assert "Student's t, 1 degrees of freedom" in capsys.readouterr().out


def test_best_is_shown_beside_last(launched: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", "tiny.yaml", "--folds", "2", "--trainer.max_epochs", "3", "--ckpt_path", "best"]) == 0
    content = json.loads((folds_folder() / "folds.json").read_text())
    assert content["summary"]["reported"] == "best"
    assert content["summary"]["mean"] == pytest.approx(np.mean([fold["best"] for fold in content["runs"]]))
    for fold in content["runs"]:
        assert fold["best"] >= fold["last"]
        told = json.loads((folds_folder() / f"fold{fold['fold']}" / "validate" / "metrics.json").read_text())
        assert told["checkpoint"].endswith("best.ckpt")  # the evidence that stays is of what is reported
        assert told["metrics"]["val/accuracy"] == fold["best"]
    assert (
        "best was chosen on the fold that it is measured on, which flatters it; last was not" in capsys.readouterr().out
    )


def test_a_failing_fold_ends_with_its_code_and_keeps_the_others(
    launched: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    launched.fails = {3: 2}
    assert main(["fit", "-c", "tiny.yaml", "--folds", "2"]) == 2
    path = folds_folder()
    assert f"continue with `lit-vision fit --resume {path}`" in capsys.readouterr().err
    weights = (path / "fold0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    launched.fails, launched.done = {}, []
    assert main(["fit", "--resume", str(path)]) == 0
    assert launched.names == ["fit 1", "validate last 1"]  # the first fold is not touched
    assert (path / "fold0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == weights
    assert launched.done[0][:3] == ["fit", "-c", "tiny.yaml"]  # the words are those of the first start
    launched.done = []
    assert (
        main(["fit", "-c", "tiny.yaml", "--folds", "2", "--resume", "auto"]) == 0
    )  # all is done: only the table again
    assert launched.done == []


def test_nothing_is_left_of_folds_that_failed_at_once(launched: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    launched.fails = {1: 2}
    assert main(["fit", "-c", "tiny.yaml", "--folds", "2"]) == 2
    assert capsys.readouterr().err == ""  # the command has said why
    assert not list(Path("runs/tiny").glob("folds2-*/*"))


def test_a_stopped_command_stops_the_folds(launched: InProcess) -> None:
    launched.fails = {3: 143}
    assert main(["fit", "-c", "tiny.yaml", "--folds", "2"]) == 143
    assert launched.names == ["fit 0", "validate last 0", "fit 1"]


def test_run_dir_names_the_folder_begun_or_continued(launched: InProcess) -> None:
    launched.fails = {2: 1}
    words = ["fit", "-c", "tiny.yaml", "--folds", "2", "--run_dir", "mine", "--resume", "auto"]
    assert main(words) == 1
    assert not Path("runs").exists()
    launched.fails = {}
    assert main(words) == 0
    assert read(Path("mine")).summary["mean"] >= 0
    assert launched.names.count("fit 0") == 1


def test_folds_are_not_taken_for_runs(launched: InProcess) -> None:
    single = command("fit", Path("tiny.yaml")).folder.path
    main(["fit", "-c", "tiny.yaml", "--folds", "2"])
    assert list(folder.newest_first(Path("runs/tiny"))) == [single]
    assert folder.find_checkpoint("best", Path("runs"), "tiny").parent.parent == single
    path = newest(Path("runs"), "tiny", 2)
    assert path is not None
    assert newest(Path("runs"), "tiny", 3) is None
    tested = run("test", ["-c", str(path / "fold1" / "config.yaml"), "--run_dir", str(path / "fold1")])
    assert tested.folder.path == path / "fold1"  # each is a run as any other


# --- what is refused --------------------------------------------------------------------------------------------
WRONG = [
    ("fit -c tiny.yaml --folds 1", "--folds is 1, but there must be 2 or more, such as 5"),
    ("fit -c tiny.yaml --folds many", "lit-vision fit: argument --folds: invalid int value: 'many'"),
    ("fit -c tiny.yaml --folds 3 --data.fold 1", "data.fold is set by --folds, for each fold in turn: leave it out"),
    ("fit -c folds.yaml --folds 3", "data.fold is set by --folds, for each fold in turn: leave it out"),
    ("fit --folds 3", "fit --folds needs an experiment: lit-vision fit -c experiments/<task>/<name>.yaml --folds 5"),
    (
        "test -c tiny.yaml --folds 3",
        "--folds belongs to fit; to test one fold, name it with --run_dir <folder of folds>/fold0",
    ),
    (
        "fit -c tiny.yaml --folds 3 --ckpt_path a.ckpt",
        "--ckpt_path is a.ckpt; with --folds it is last or best: which one is reported",
    ),
    (
        "fit -c tiny.yaml --folds 3 --resume runs",
        "--resume runs: there is no folds.json in it; with --folds it takes auto or a folder of folds",
    ),
    ("fit -c tiny.yaml --folds 3 --resume old", "old has 2 folds, but --folds is 3: leave --folds out"),
    (
        "fit -c tiny.yaml --folds 2 --run_dir old",
        "old holds folds already; continue them with --resume old, or name another folder",
    ),
    ("fit -c tiny.yaml --folds 2 --resume torn", "torn/folds.json is damaged: begin new folds, or mend it"),
    ("fit -c tiny.yaml --fodls 3", "unknown option --fodls; did you mean 'folds'?"),
    ("fit -c tiny.yaml --folds 3 --traner.max_epochs 3", "unknown option --traner.max_epochs; did you mean 'trainer'?"),
]


@pytest.mark.parametrize(("line", "sentence"), WRONG, ids=[line for line, _ in WRONG])
def test_refused_before_anything_begins(
    line: str, sentence: str, launched: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(Path("tiny.yaml").read_text())
    content["data"]["init_args"] |= {"folds": 2, "fold": 0}
    Path("folds.yaml").write_text(yaml.safe_dump(content))
    for name, text in (("old", None), ("torn", "{")):
        Path(name).mkdir()
        whole = {"experiment": "tiny", "words": [], "runs": [{"fold": 0}, {"fold": 1}]}
        Path(name, "folds.json").write_text(text or json.dumps(whole))
    assert main(line.split()) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert launched.done == []


def test_launchers_of_several_processes_are_refused(
    launched: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["fit", "-c", "tiny.yaml", "--folds", "2"]) == 2
    assert "start it once, not by torchrun or srun" in capsys.readouterr().err


def test_fraction_gives_way_to_the_folds(launched: InProcess) -> None:
    launched.fails = {1: 2}
    main(["fit", "-c", "tiny.yaml", "--folds", "2", "--data.val_fraction", "0.3"])
    words = launched.done[0]
    assert words[len(words) - words[::-1].index("--data.val_fraction")] == "0"


def test_more_folds_than_pictures_of_a_class(launched: InProcess, drawn: Path) -> None:
    from lit_vision.data.formats import read as read_data

    index = read_data(drawn / "classification", "auto")
    counts = np.bincount(index.labels[index.splits != 2])
    with pytest.raises(UserError, match=rf"folds is {counts.min() + 1}, but class \w+ has {counts.min()} images in"):
        split(index, folds=int(counts.min()) + 1, fold=0)
    assert len(split(index, folds=int(counts.min()), fold=0)) == len(index)
    assert len(split(index, folds=int(counts.min()) + 1, fold=0, stratify=False)) == len(index)


# --- real processes ---------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_sigterm_in_a_fold_and_back_to_the_uncut_end(workspace: Path, drawn: Path) -> None:
    write_experiment(Path("tiny.yaml"), "classification", drawn, data={"batch_size": 4}, max_epochs=8)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    start = [sys.executable, "-m", "lit_vision", "fit"]
    process = subprocess.Popen([*start, "-c", "tiny.yaml", "--folds", "2", "--run_dir", "cut"], env=environment)
    second = Path("cut/fold1/checkpoints/last.ckpt")
    try:
        while not second.is_file():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 143
    finally:
        process.kill()
    assert not read(Path("cut")).runs[1].trained
    first = Path("cut/fold0/checkpoints/last.ckpt").stat().st_mtime_ns
    subprocess.run([*start, "--resume", "cut"], env=environment, check=True, timeout=900)
    assert Path("cut/fold0/checkpoints/last.ckpt").stat().st_mtime_ns == first
    run("fit", ["-c", "tiny.yaml", "--data.folds", "2", "--data.fold", "1", "--run_dir", "whole"])
    assert left(Path("cut/fold1")) == left(Path("whole"))
    assert all(fold.finished for fold in read(Path("cut")).runs)
