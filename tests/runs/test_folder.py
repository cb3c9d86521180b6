"""Run folders: names, ids, which one is the newest, and what a kill leaves."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lit_vision.errors import UserError
from lit_vision.runs import folder as run_folder
from lit_vision.runs.checkpoints import AtomicCheckpointIO
from lit_vision.runs.folder import RUN_DIR, RunFolder, existing, find_checkpoint, inherited, new, of_checkpoint


def make_run(runs: Path, name: str, *checkpoints: str) -> Path:
    folder = runs / "toy" / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "id").write_text(name[-8:] + "\n")
    for checkpoint in checkpoints:
        (folder / "checkpoints" / f"{checkpoint}.ckpt").touch()
    return folder


def test_names_are_time_and_id(tmp_path: Path) -> None:
    folders = [new(tmp_path, "toy") for _ in range(200)]
    for folder in folders:
        assert folder.path.parent == tmp_path / "toy"
        assert re.fullmatch(r"\d{8}-\d{6}-[a-z0-9]{8}", folder.path.name)
        assert folder.path.name.endswith(folder.id)
    assert len({folder.id for folder in folders}) == 200
    assert list(tmp_path.iterdir()) == []  # nothing is made before something is written


def test_id_survives_whatever_the_folder_is_called(tmp_path: Path) -> None:
    first = existing(tmp_path / "mine", "toy")
    first.create()
    again = existing(tmp_path / "mine", "toy")
    assert again == first
    assert re.fullmatch(r"[a-z0-9]{8}", again.id)
    renamed = (tmp_path / "mine").rename(tmp_path / "20260101-000000-aaaaaaaa")
    assert existing(renamed).id == first.id


def test_newest_run_with_a_checkpoint_counts(tmp_path: Path) -> None:
    make_run(tmp_path, "20260101-120000-aaaaaaaa", "best", "last")
    newest = make_run(tmp_path, "20260301-120000-bbbbbbbb", "best", "last")
    make_run(tmp_path, "20260401-120000-cccccccc")  # failed before its first checkpoint
    (tmp_path / "toy" / "notes").mkdir()
    assert find_checkpoint("best", tmp_path, "toy") == newest / "checkpoints" / "best.ckpt"
    assert find_checkpoint("last", tmp_path, "toy") == newest / "checkpoints" / "last.ckpt"
    older = tmp_path / "toy" / "20260101-120000-aaaaaaaa"
    assert find_checkpoint("last", tmp_path, "toy", run_dir=older) == older / "checkpoints" / "last.ckpt"


def test_an_older_runs_best_is_not_taken_for_the_newest(tmp_path: Path) -> None:
    make_run(tmp_path, "20260101-120000-aaaaaaaa", "best", "last")
    newest = make_run(tmp_path, "20260301-120000-bbbbbbbb", "last")
    with pytest.raises(UserError, match=re.escape(f"the newest run, {newest}, has only checkpoints/last.ckpt")):
        find_checkpoint("best", tmp_path, "toy")


@pytest.mark.parametrize("which", ["best", "last", "nowhere.ckpt"])
def test_no_checkpoint_is_an_error(which: str, tmp_path: Path) -> None:
    """Trap 2: never a start from scratch."""
    with pytest.raises(UserError, match=r"there is no checkpoint in|checkpoint not found: nowhere.ckpt"):
        find_checkpoint(which, tmp_path, "toy")


def test_run_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path, "20260101-120000-aaaaaaaa", "best")
    expected = RunFolder(folder, "toy", "aaaaaaaa")
    assert of_checkpoint(folder / "checkpoints" / "best.ckpt") == expected
    monkeypatch.chdir(folder / "checkpoints")
    assert of_checkpoint(Path("best.ckpt")) == expected
    (tmp_path / "loose.ckpt").touch()
    assert of_checkpoint(tmp_path / "loose.ckpt") is None


def test_launched_processes_use_rank_zeros_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR, "")  # so that it is put back
    folder = new(tmp_path, "toy")
    folder.announce()
    assert inherited() is None  # rank 0 itself: its next run is another
    monkeypatch.setenv("LOCAL_RANK", "1")
    child = inherited()
    assert child is not None
    assert (child.path, child.experiment, child.id) == (folder.path, "toy", folder.id)


@pytest.mark.parametrize(("name", "value"), [("RANK", "3"), ("LOCAL_RANK", "3"), ("SLURM_PROCID", "3")])
def test_rank_is_what_the_launcher_says(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(other, raising=False)
    assert run_folder.rank() == 0
    monkeypatch.setenv(name, value)
    assert run_folder.rank() == 3


def test_checkpoint_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def torn(checkpoint: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


@pytest.mark.slow
def test_sigkill_loses_nothing_written(workspace: Path) -> None:
    """A training killed in the middle: rows and the last whole checkpoint stay, and the run can go on."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "lit_vision", "fit", "-c", "toy.yaml", "--trainer.max_epochs", "100000"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (rows := _rows(workspace)) or rows < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert _rows(workspace) >= rows
    last = find_checkpoint("last", Path("runs"), "toy")
    assert torch.load(last, weights_only=True)["lit_vision"]["task"] == "Toy"


def _rows(folder: Path) -> int:
    files = list(folder.glob("runs/toy/*/metrics.csv"))
    done = list(folder.glob("runs/toy/*/checkpoints/last.ckpt"))
    return len(files[0].read_text().splitlines()) if files and done else 0


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_processes_share_one_folder(launcher: str, workspace: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    python = [sys.executable, "-m"]
    if launcher == "torchrun":
        python += ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--wandb", "offline"]
    command = [*python, "lit_vision", "fit", "-c", "toy.yaml", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (workspace / "runs" / "toy").iterdir()
    assert {"config.yaml", "metrics.csv", "checkpoints", "wandb", "id"} <= {path.name for path in folder.iterdir()}
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
