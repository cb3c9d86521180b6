"""metrics.csv and W&B: what is on disk, what is sent, and that nothing is asked or waited for."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import wandb

from lit_vision.cli import vision_cli as cli
from lit_vision.errors import UserError
from lit_vision.runs import loggers
from lit_vision.runs.folder import RunFolder
from lit_vision.runs.loggers import RunCSVLogger, RunWandbLogger, wandb_mode


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of all offline runs of a folder, as W&B's own reader gives them."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    found = []
    for run in sorted((folder / "wandb").glob("offline-run-*")):
        done = subprocess.run([*command, str(run)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        found += [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    return found


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt at a connection outside this process's own sockets."""
    attempts: list[object] = []

    def refuse(self: socket.socket, address: object) -> None:
        attempts.append(address)
        raise OSError("no network in this test")

    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        # wandb talks to its own service process over a local socket.
        if self.family == socket.AF_UNIX or (isinstance(address, tuple) and address[0] in ("127.0.0.1", "localhost")):
            connect(self, address)
        else:
            refuse(self, address)

    monkeypatch.setattr(socket.socket, "connect", checked)
    return attempts


# --- metrics.csv ------------------------------------------------------------------------------------------------
def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    logger = RunCSVLogger(tmp_path)
    logger.log_metrics({"train/loss": 0.5}, step=0)
    assert rows(tmp_path) == [{"step": "0", "train/loss": "0.5"}]
    logger.log_metrics({"val/loss": 0.25}, step=0)
    assert rows(tmp_path) == [
        {"step": "0", "train/loss": "0.5", "val/loss": ""},
        {"step": "0", "train/loss": "", "val/loss": "0.25"},
    ]


def test_resumed_run_appends(tmp_path: Path) -> None:
    RunCSVLogger(tmp_path).log_metrics({"a": 1.0}, step=0)
    RunCSVLogger(tmp_path).log_metrics({"b": 2.0}, step=1)
    assert rows(tmp_path) == [{"a": "1.0", "b": "", "step": "0"}, {"a": "", "b": "2.0", "step": "1"}]


def test_hyperparameters_stay_out_of_the_folder(tmp_path: Path) -> None:
    logger = RunCSVLogger(tmp_path)
    logger.log_hyperparams({"lr": 1})
    logger.log_metrics({"a": 1.0}, step=0)
    logger.save()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


# --- which mode -------------------------------------------------------------------------------------------------
def test_without_a_key_it_is_offline_and_no_connection_is_tried(workspace: Path, no_network: list[object]) -> None:
    assert wandb_mode("auto") == ("offline", "offline (no API key)")
    assert no_network == []
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 443), timeout=1)  # the guard itself works
    assert len(no_network) == 1


def test_online_without_a_key_is_an_error(workspace: Path) -> None:
    with pytest.raises(UserError, match="wandb: online needs an API key"):
        wandb_mode("online")


@pytest.mark.parametrize(
    ("value", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled"), ("OFFLINE", "offline")]
)
def test_wandb_mode_is_obeyed(value: str, mode: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", value)
    assert wandb_mode("auto")[0] == mode


def test_unknown_wandb_mode(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "oflin")
    with pytest.raises(UserError, match="WANDB_MODE is 'oflin'"):
        wandb_mode("auto")


def test_explicit_choice_asks_nobody(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "_login", lambda: pytest.fail("asked"))
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode("offline")[0] == "offline"
    assert wandb_mode("off")[0] == "disabled"


def test_key_that_works(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "login", lambda **options: True)
    assert wandb_mode("auto") == wandb_mode("online") == ("online", "online")


def test_key_that_is_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> bool:
        raise wandb.errors.AuthenticationError("API key verification failed\nmore")

    monkeypatch.setattr(wandb, "login", refuse)
    assert wandb_mode("auto") == ("offline", "offline (API key verification failed)")


def test_silent_network_is_given_up(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "LOGIN_SECONDS", 0.2)
    monkeypatch.setattr(loggers, "_login", lambda: time.sleep(3))
    assert wandb_mode("auto") == ("offline", "offline (no answer within 0 s)")


@pytest.mark.slow
def test_key_without_network_trains_offline(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client against a closed port: W&B itself would hang 102 s, then end the training."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2 + "01234567")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    done = cli.run("fit", ["-c", "toy.yaml", "--wandb", "auto"])
    assert [record for record in records(done.folder.path) if "run" in record]


# --- the run ----------------------------------------------------------------------------------------------------
def test_settings_bound_every_wait() -> None:
    settings = loggers._settings()
    assert 0 < settings.finish_timeout <= 60  # W&B's default of 0 waits for ever
    assert settings.init_timeout <= 20
    assert settings.x_transaction_log_flush_interval == 5  # what a SIGKILL can cost


def test_anonymous_is_not_passed(tmp_path: Path) -> None:
    """Trap 13: Lightning always passes it, W&B is about to refuse it."""
    logger = RunWandbLogger(RunFolder(tmp_path, "toy", "abcd1234"), "offline", "fit")
    assert "anonymous" not in logger._wandb_init
    assert logger._wandb_init["id"] == "abcd1234"


def test_offline_run_holds_config_and_metrics(workspace: Path, no_network: list[object]) -> None:
    done = cli.run("fit", ["-c", "toy.yaml", "--wandb", "auto", "--trainer.max_epochs", "2"])
    cli.run("test", ["-c", "toy.yaml", "--wandb", "auto"])
    folder = done.folder.path
    assert no_network == []
    assert len(list((folder / "wandb").glob(f"offline-run-*-{done.folder.id}"))) == 2
    text = json.dumps(records(folder))
    for word in (done.folder.id, "max_epochs", "val/loss", "test/loss", "class_path", "trainer/global_step"):
        assert word in text
    assert "anonymous" not in text
    assert os.environ["WANDB_DATA_DIR"] == str(folder.resolve() / "wandb")
    written = {path.name for path in workspace.iterdir()} - {"toy.yaml", "runs"}
    assert written <= {"home"}  # W&B's staging lies in the run folder, too
    assert wandb.run is None  # finished


def test_failed_run_is_marked_and_complete(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stand_in import Toy

    def fail(self: Toy) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(Toy, "on_train_epoch_end", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        cli.run("fit", ["-c", "toy.yaml", "--wandb", "offline"])
    (folder,) = Path("runs/toy").iterdir()
    assert [record["exit"]["exit_code"] for record in records(folder) if record["type"] == "exit"] == [1]
    assert wandb.run is None


@pytest.mark.parametrize("spelling", ["off", "'off'", "false"])
def test_off_in_yaml_is_off(spelling: str, workspace: Path) -> None:
    text = Path("toy.yaml").read_text().replace("wandb: off", f"wandb: {spelling}")
    Path("toy.yaml").write_text(text)
    done = cli.run("fit", ["-c", "toy.yaml"])
    assert [type(logger) for logger in done.trainer.loggers] == [RunCSVLogger]
    assert not (done.folder.path / "wandb").exists()


def test_users_own_logger_is_left_alone(workspace: Path) -> None:
    done = cli.run("fit", ["-c", "toy.yaml", "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "own"])
    assert [type(logger).__name__ for logger in done.trainer.loggers] == ["CSVLogger"]
    assert not isinstance(done.trainer.logger, RunCSVLogger)


def test_reader_is_installed() -> None:
    assert shutil.which("wandb", path=str(Path(sys.executable).parent))


def test_continued_run_has_the_same_id_and_one_line_of_history(workspace: Path) -> None:
    options = ["-c", "toy.yaml", "--wandb", "offline", "--trainer.log_every_n_steps", "1"]
    first = cli.run("fit", options)
    again = cli.run("fit", [*options, "--resume", "auto", "--trainer.max_epochs", "2"])
    assert again.folder == first.folder
    runs = sorted(path.name for path in (first.folder.path / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert {name.split("-")[3] for name in runs} == {first.folder.id}  # -1 follows where both began in one second
    steps = [int(row["step"]) for row in rows(first.folder.path) if row["train/loss"]]
    assert steps == list(range(8))
