"""`fit --resume`: which run it continues, from what, in which folder, and what it says."""

import logging
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from resuming import CutOffError, NumberData, left, rows

from lit_vision.__main__ import main
from lit_vision.cli import vision_cli as cli
from lit_vision.cli.vision_cli import VisionCLI
from lit_vision.runs.checkpoints import read_header
from lit_vision.runs.resume import newest_whole

EXPERIMENT = """\
model: {class_path: resuming.Small, init_args: {dropout: 0.5}}
data: {class_path: resuming.NumberData, init_args: {root: .}}
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  callbacks: [{class_path: RunCheckpoints, init_args: {every_n_train_steps: 2}}]
wandb: off
"""
CUT = "--trainer.callbacks+=resuming.Cut"


@pytest.fixture
def said(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sentences of rank 0, in a folder with the experiment numbers.yaml."""
    (workspace / "numbers.yaml").write_text(EXPERIMENT)
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener = Listener()
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [*logger.handlers, listener])
        monkeypatch.setattr(logger, "level", logging.INFO)
    return lines


@pytest.fixture(scope="module")
def one_cut_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `runs` of one run that was cut after step 9, whose checkpoint is of step 8; made once."""
    folder = tmp_path_factory.mktemp("cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("numbers.yaml").write_text(EXPERIMENT)
        cut(9)
    return folder / "runs"


@pytest.fixture
def cut_run(one_cut_run: Path, workspace: Path) -> Path:
    """A copy of that run in the workspace."""
    shutil.copytree(one_cut_run, workspace / "runs")
    return newest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uncut run leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        Path("numbers.yaml").write_text(EXPERIMENT)
        return left(fit().folder.path)


def fit(*options: str) -> VisionCLI:
    return cli.run("fit", ["-c", "numbers.yaml", *options])


def cut(step: int, *options: str) -> Path:
    """The folder of a run that was cut at the end of a step."""
    with pytest.raises(CutOffError):
        fit(CUT, f"--trainer.callbacks.step={step}", *options)
    return newest()


def newest() -> Path:
    return max(Path("runs/numbers").iterdir())


# --- continuing -------------------------------------------------------------------------------------------------
def test_cut_run_goes_on_in_its_folder_to_the_uncut_end(whole: dict[str, Any], said: list[str]) -> None:
    folder = cut(9)
    config, identity = (folder / "config.yaml").read_text(), (folder / "id").read_text()
    assert [row["step"] for row in rows(folder / "metrics.csv") if "train/loss" in row][-1] == "7"
    done = fit("--resume", "auto", CUT, "--trainer.callbacks.step=99")
    assert left(folder) == whole
    assert done.folder.path == folder
    assert list(Path("runs/numbers").iterdir()) == [folder]
    assert (folder / "id").read_text() == identity
    assert yaml.safe_load(config)["trainer"]["callbacks"][1]["init_args"] == {"step": 9}
    assert f"resuming {folder} from {folder}/checkpoints/last.ckpt (step 8, 1 epochs done)" in said
    assert "changed since the run began: trainer.callbacks.1.step 9 -> 99" in said


@pytest.mark.slow
def test_unchanged_config_is_kept(said: list[str]) -> None:
    fit("--run_dir", "mine")
    last = Path("mine/checkpoints/last.ckpt")
    config = Path("mine/config.yaml")
    before = config.read_bytes(), config.stat().st_mtime_ns
    last.unlink()
    Path("mine/checkpoints/best.ckpt").unlink()  # the one before is of step 10
    assert fit("--resume", "mine").trainer.global_step == 12
    assert (config.read_bytes(), config.stat().st_mtime_ns) == before
    assert not list(Path("mine").glob("config-*"))
    assert not [line for line in said if line.startswith("changed")]


@pytest.mark.slow
def test_folder_alone_brings_its_config(said: list[str]) -> None:
    folder = cut(9)
    Path("numbers.yaml").unlink()
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("step: 9", "step: 99"))
    assert main(["fit", "--resume", str(folder)]) == 0
    assert left(folder)["step"] == 12


@pytest.mark.slow
def test_run_without_a_checkpoint_begins_anew_in_its_folder(whole: dict[str, Any], said: list[str]) -> None:
    folder = cut(2)
    assert len(rows(folder / "metrics.csv")) > 0
    assert not (folder / "checkpoints").exists()
    assert fit("--resume", str(folder)).folder.path == folder
    assert f"{folder} has no checkpoint yet; it begins anew" in said
    assert left(folder) == whole


@pytest.mark.slow
def test_fixed_folder_with_auto_is_begun_and_gone_on_with(said: list[str]) -> None:
    """The one command line that a cluster runs again and again."""
    line = ("--run_dir", "mine", "--resume", "auto")
    with pytest.raises(CutOffError):
        fit(*line, CUT, "--trainer.callbacks.step=5")
    assert fit(*line).trainer.global_step == 12
    assert any(line.startswith("resuming mine from mine/checkpoints/last.ckpt (step 4") for line in said)


def test_auto_takes_the_newest_run_with_a_checkpoint(cut_run: Path, said: list[str]) -> None:
    older = cut_run
    shutil.copytree(older, older.with_name("20990101-000000-aaaaaaaa"))
    (older.with_name("20990202-000000-bbbbbbbb") / "checkpoints").mkdir(parents=True)
    assert fit("--resume", "auto").folder.path.name == "20990101-000000-aaaaaaaa"


@pytest.mark.slow
def test_auto_begins_where_there_is_nothing(said: list[str]) -> None:
    assert fit("--resume", "auto").trainer.global_step == 12
    assert "--resume auto: no run in runs/numbers has a checkpoint; a new one begins" in said


# --- finished ---------------------------------------------------------------------------------------------------
def test_finished_run_says_so_and_is_left_alone(said: list[str]) -> None:
    folder = fit().folder.path
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["fit", "-c", "numbers.yaml", "--resume", "auto"]) == 0
    assert f"{folder} has finished: all 2 epochs are done; raise --trainer.max_epochs to train on" in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_finished_run_is_extended(said: list[str]) -> None:
    folder = fit().folder.path
    done = fit("--resume", "auto", "--trainer.max_epochs", "3")
    assert (done.folder.path, done.trainer.global_step) == (folder, 18)
    assert "changed since the run began: trainer.max_epochs 2 -> 3" in said
    (kept,) = folder.glob("config-*.yaml")
    assert yaml.safe_load(kept.read_text())["trainer"]["max_epochs"] == 2
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    assert [row["epoch"] for row in rows(folder / "metrics.csv") if "val/loss" in row] == ["0", "1", "2"]
    assert main(["fit", "--resume", str(folder)]) == 0  # by the folder's own config
    assert f"{folder} has finished: all 3 epochs are done; raise --trainer.max_epochs to train on" in said


@pytest.mark.slow
def test_run_that_was_stopped_early_has_finished(said: list[str]) -> None:
    early = "trainer: {max_epochs: 9, callbacks+: [{class_path: EarlyStopping, init_args: {monitor: val/loss, "
    Path("early.yaml").write_text(early + "patience: 1, min_delta: 9}}]}")
    folder = fit("-c", "early.yaml").folder.path
    assert main(["fit", "-c", "numbers.yaml", "-c", "early.yaml", "--resume", "auto"]) == 0
    reason = "a callback ended it early, after 12 steps; raise --trainer.max_epochs to train on"
    assert f"{folder} has finished: {reason}" in said
    done = fit("-c", "early.yaml", "--resume", "auto", "--trainer.max_epochs", "10")
    assert done.trainer.global_step == 18  # one more epoch, which is no better either


@pytest.mark.slow
def test_schedule_that_cannot_be_extended(said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    schedule = "{class_path: OneCycleLR, init_args: {max_lr: 0.1, total_steps: 12}}"
    Path("cycle.yaml").write_text(f"model: {{init_args: {{scheduler: {schedule}, scheduler_interval: step}}}}")
    fit("-c", "cycle.yaml")
    longer = ["fit", "-c", "numbers.yaml", "-c", "cycle.yaml", "--resume", "auto", "--trainer.max_epochs", "3"]
    assert main(longer) == 2
    assert "error: OneCycleLR was planned for 12 steps and cannot be extended to 18\n" in capsys.readouterr().err


# --- two at a time ----------------------------------------------------------------------------------------------
def test_run_that_is_going_on_is_not_continued(
    cut_run: Path, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys, time\nfrom pathlib import Path\nfrom lit_vision.runs.folder import claimed\n"
    code += "with claimed(Path(sys.argv[1])):\n    print('claimed', flush=True)\n    time.sleep(60)\n"
    other = subprocess.Popen([sys.executable, "-c", code, str(cut_run)], text=True, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        assert main(["fit", "-c", "numbers.yaml", "--resume", "auto"]) == 2
        user = f"process {other.pid} on {platform.node()}"
        assert f"error: {cut_run} is in use by {user}; wait until it ends\n" in capsys.readouterr().err
    finally:
        other.kill()
        other.wait()
    assert fit("--resume", "auto").trainer.global_step == 12  # a killed process has no claim
    assert not (cut_run / "lock").exists()


# --- damaged ----------------------------------------------------------------------------------------------------
def spoil(path: Path) -> None:
    """Turns a few bytes of the largest tensor, as a bad disk does; between the records nobody would miss them."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    header = largest.header_offset
    names = sum(int.from_bytes(content[header + k : header + k + 2], "little") for k in (26, 28))
    first = header + 30 + names  # of the record, behind its header, name and padding
    content[first : first + 4] = bytes(255 - byte for byte in content[first : first + 4])
    path.write_bytes(content)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_damaged_last_falls_back_to_the_one_before(whole: dict[str, Any], cut_run: Path, said: list[str]) -> None:
    folder = cut_run
    spoil(folder / "checkpoints" / "last.ckpt")
    with pytest.raises(CutOffError):
        fit("--resume", "auto", CUT, "--trainer.callbacks.step=9")
    files = [folder / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt")]
    assert [read_header(file)["step"] for file in files] == [8, 6]  # the damaged one has not replaced a whole one
    assert fit("--resume", "auto").trainer.global_step == 12
    assert f"{folder}/checkpoints/last.ckpt is damaged; trying the one before" in said
    assert f"resuming {folder} from {folder}/checkpoints/previous.ckpt (step 6, 1 epochs done)" in said
    assert left(folder) == whole


@pytest.mark.parametrize("damage", [spoil, half, empty, Path.unlink])
def test_every_damage_is_noticed(damage: Any, cut_run: Path) -> None:
    assert newest_whole(cut_run).header["step"] == 8
    damage(cut_run / "checkpoints" / "last.ckpt")
    found = newest_whole(cut_run)
    assert found.checkpoint is not None
    assert (found.checkpoint.name, found.header["step"]) == ("previous.ckpt", 6)


def test_all_damaged(cut_run: Path, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = cut_run
    for path in (folder / "checkpoints").iterdir():
        half(path)
    assert main(["fit", "-c", "numbers.yaml", "--resume", "auto"]) == 2
    names = "last.ckpt, previous.ckpt, best.ckpt"
    sentence = f"error: --resume: all checkpoints of {folder} are damaged ({names}); start a new run\n"
    assert capsys.readouterr().err.endswith(sentence)


# --- what does not fit ------------------------------------------------------------------------------------------
WRONG = [
    ("fit", "--resume auto --ckpt_path last", "--resume finds the checkpoint itself: leave out --ckpt_path, or give "),
    ("test", "--resume auto", "--resume belongs to fit; name the run to test with --run_dir"),
    ("fit", "--resume nowhere", "--resume nowhere: no such run folder (it takes auto or a run folder)"),
    ("fit", "--resume Auto", "no such run folder (it takes auto or a run folder); did you mean 'auto'?"),
    ("fit", "--resume empty", "--resume empty: this is no run folder: it has neither config.yaml nor checkpoints"),
    ("fit", "--resume auto --model resuming.Other", "holds a Small, but model is a Other; give the experiment"),
    (
        "fit",
        "--resume auto --data.seed 1",
        "cut in the middle of an epoch, which cannot be continued: data.seed was 0 when it",
    ),
    (
        "fit",
        "--resume auto --data.length 30",
        "cannot be continued: the training split had 26 images when it began, and has 30 ",
    ),
]


@pytest.mark.parametrize(("command", "options", "sentence"), WRONG, ids=[options for _, options, _ in WRONG])
def test_what_does_not_fit_is_one_sentence(
    command: str, options: str, sentence: str, cut_run: Path, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cut_run
    Path("empty").mkdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main([command, "-c", "numbers.yaml", *options.split()]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    after.pop(folder / "resources.json", None), before.pop(folder / "resources.json", None)
    assert after == before  # a run that is refused is left as it was


def test_other_classes(
    cut_run: Path, said: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NumberData, "class_names", property(lambda self: ["x", "y", "z"]))
    assert main(["fit", "-c", "numbers.yaml", "--resume", "auto"]) == 2
    assert "the checkpoint knows 3 classes (a, b, c), but the data has 3 (x, y, z)" in capsys.readouterr().err


@pytest.mark.slow
def test_between_epochs_other_images_are_said(said: list[str]) -> None:
    fit()
    assert fit("--resume", "auto", "--trainer.max_epochs", "3", "--data.length", "30").trainer.current_epoch == 3
    sentence = "continuing with a difference: the training split had 26 images when it began, and has 30 now"
    assert sentence in said


def test_other_batch_size_is_said_and_shows_the_rest_of_the_epoch(cut_run: Path, said: list[str]) -> None:
    # The checkpoint is of step 8: two batches of four in the second epoch
    done = fit("--resume", "auto", "--data.batch_size", "3")
    assert done.trainer.global_step == 8 + (26 - 8) // 3
    sentence = "continuing with another batch size 4 -> 3: not bit for bit what an uncut run does"
    assert sentence in said
