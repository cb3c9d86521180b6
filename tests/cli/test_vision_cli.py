"""Stage two of the command line, on the smallest task: errors, checkpoints, run folders, and Lightning's traps."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TOY
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from stand_in import OtherToy, Toy, ToyData

from lit_vision.__main__ import main
from lit_vision.cli import screens
from lit_vision.cli import vision_cli as cli
from lit_vision.cli.names import TRAINING
from lit_vision.cli.trainer_defaults import choose_precision, cpu_has_bf16

FIT = "fit -c toy.yaml"
WRONG = [
    (
        "--model Tay",
        "model: unknown class 'Tay'; it can be TransferClassifier, SemanticSegmenter, InstanceSegmenter, "
        "YOLODetector, SlidingWindowDetector, or the full path of your own",
    ),
    (
        "--trainer.default_root_dir there",
        "trainer.default_root_dir is there, but all of a run lies in its run folder: "
        "use --runs <folder of all runs> or --run_dir <folder of this one>",
    ),
    ("--model TransferClassifer", "model: unknown class 'TransferClassifer'; did you mean 'TransferClassifier'?"),
    ("--data DetektionDataModule", "data: unknown class 'DetektionDataModule'; did you mean 'DetectionDataModule'?"),
    ("--model.backbon r", "model: unknown option 'backbon' of Toy; did you mean 'backbone'?"),
    ("--model.width abc", "model.width is abc, but must be a whole number"),
    ("--model.width 3.5", "model.width is 3.5, but must be a whole number"),
    ("--model.dropout much", "model.dropout is much, but must be a number"),
    ("--model.mode fanci", "model.mode is fanci, but must be one of plain, fancy; did you mean 'fancy'?"),
    ("--trainer.max_e 3", "unknown option --trainer.max_e; did you mean '--trainer.max_epochs'?"),
    ("--trainer.max_epoch 3", "unknown option --trainer.max_epoch; did you mean '--trainer.max_epochs'?"),
    ("--trainer.max_epochs 3.5", "trainer.max_epochs is 3.5, but must be a whole number"),
    (
        "--trainer.callbacks+=EarlyStoping",
        "trainer.callbacks: unknown class 'EarlyStoping'; did you mean 'EarlyStopping'?",
    ),
    (
        "--trainer.callbacks+=EarlyStopping",
        "EarlyStopping needs trainer.callbacks.monitor; set it in the YAML or with --trainer.callbacks.monitor",
    ),
    (
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitr x",
        "trainer.callbacks: unknown option 'monitr' of EarlyStopping; did you mean 'monitor'?",
    ),
    ("--model.optimizer AdmW", "model.optimizer: unknown class 'AdmW'; did you mean 'AdamW'?"),
    (
        "--model.optimizer AdamW --model.optimizer.lrr 1",
        "model.optimizer: unknown option 'lrr' of AdamW; did you mean 'lr'?",
    ),
    ("--model.optimizer AdamW --model.optimizer.lr abc", "model.optimizer.lr is abc, but must be a number"),
    ("--model.loss CrossEntropyLos", "model.loss: unknown class 'CrossEntropyLos'; did you mean 'CrossEntropyLoss'?"),
    ("--wandb ofline", "wandb is ofline, but must be one of auto, off, offline, online; did you mean 'offline'?"),
    ("--seed_everything x", "seed_everything is x, but must be true or false or a whole number"),
    ("extra", "'extra' belongs to no option; values follow their option: --key value"),
    ("--data.root nowhere", "data.root: nowhere does not exist: give the folder of your data set"),
    ("--model.backbone missing", "model.backbone: no network is called 'missing'"),
    ("--model.backbone broken", "the experiment cannot be built: Unknown model (broken)"),
    (
        "--model.num_classes 7",
        "model.num_classes is 7, but the data has 2 classes (dark, bright): leave it out, it comes from the data",
    ),
    ("--model.class_names [a,b]", "model.class_names comes from the data; leave it out"),
    (
        "--model.class_names [a,b,c]",
        "model.class_names has 3 classes, the data has 2; leave it out: it comes from the data",
    ),
    ("--ckpt_path last", "--ckpt_path last: there is no checkpoint in runs/toy; run `lit-vision fit` first"),
    ("--ckpt_path bests", "checkpoint not found: bests (--ckpt_path takes best, last or a file); did you mean 'best'?"),
    ("-c more.yaml", "unknown key trainer.max_epoch; did you mean 'trainer.max_epochs'?"),
    (
        "-c model.yaml",
        "model: unknown option 'lerning_rate' of Toy; it has backbone, channels_last, compile, dropout, "
        "freeze, loss, lr_decay, mode, optimizer, pretrained, scheduler, scheduler_interval, tile, "
        "tile_overlap, warmup, width",
    ),
    ("-c classes.yaml", "model.class_names has 3 classes, the data has 2; leave it out: it comes from the data"),
]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said on rank 0, a line each."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, listener = logging.getLogger("lightning_fabric.utilities.rank_zero"), Listener()
    others = [logging.getLogger("pytorch_lightning.utilities.rank_zero"), logger]
    for one in others:
        monkeypatch.setattr(one, "handlers", [*one.handlers, listener])
        monkeypatch.setattr(one, "level", logging.INFO)
    return lines


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `runs` of one training, made once for all tests that only read a checkpoint."""
    folder = tmp_path_factory.mktemp("one_run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("toy.yaml").write_text(TOY)
        fit()
    return folder / "runs"


@pytest.fixture
def trained(workspace: Path, one_run: Path) -> Path:
    """The workspace after one training; gives the run folder."""
    shutil.copytree(one_run, workspace / "runs")
    (folder,) = Path("runs/toy").iterdir()
    return folder


def fit(*options: str) -> cli.VisionCLI:
    return cli.run("fit", ["-c", "toy.yaml", *options])


# --- errors -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=[options for options, _ in WRONG])
def test_error_is_one_sentence(
    options: str, sentence: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "more.yaml").write_text("trainer: {max_epoch: 3}")
    (workspace / "model.yaml").write_text("model: {class_path: stand_in.Toy, init_args: {lerning_rate: 3}}")
    (workspace / "classes.yaml").write_text("model: {class_path: stand_in.Toy, init_args: {class_names: [a, b, c]}}")
    assert main(f"{FIT} {options}".split()) == 2
    assert capsys.readouterr().err.splitlines()[-1:] == [f"error: {sentence}"]
    assert not (workspace / "runs").exists()  # nothing that failed at once leaves a folder


def test_missing_parts_are_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model", "stand_in.Toy"]) == 2
    assert "error: no data given; name an experiment with -c, or set data with --data\n" in capsys.readouterr().err
    assert main(["fit", "--model", "stand_in.Toy", "--data", "stand_in.ToyData"]) == 2
    assert "error: ToyData needs data.root; set it in the YAML or with --data.root\n" in capsys.readouterr().err


def test_debug_keeps_the_cause(workspace: Path) -> None:
    with pytest.raises(Exception, match="Unknown model") as raised:
        main(f"{FIT} --model.backbone broken --debug".split())
    assert raised.value.__cause__ is not None


# --- training, testing ------------------------------------------------------------------------------------------
def test_run_folder_holds_everything(workspace: Path) -> None:
    done = fit()
    folder = done.folder.path
    assert folder.parent == Path("runs/toy")
    assert folder.name.endswith(done.folder.id)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"config.yaml", "id", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= names
    assert {path.name for path in workspace.iterdir()} <= {"toy.yaml", "runs", "home"}  # nothing is written elsewhere
    assert done.metrics["val/loss"] > 0


def test_saved_config_is_complete_and_starts_a_new_run(workspace: Path) -> None:
    """Trap 7: the second run neither aborts nor overwrites the first one's config."""
    first = fit("--model.width", "6")
    text = (first.folder.path / "config.yaml").read_text()
    second = cli.run("fit", ["-c", str(first.folder.path / "config.yaml")])
    assert second.folder.path != first.folder.path
    assert second.folder.path.parent == first.folder.path.parent
    assert (first.folder.path / "config.yaml").read_text() == text
    again = yaml.safe_load((second.folder.path / "config.yaml").read_text())
    assert again == {**yaml.safe_load(text), "data": again["data"]}
    assert again["model"]["init_args"]["width"] == 6
    assert again["ckpt_path"] is again["run_dir"] is None


def test_test_uses_the_newest_runs_best_and_writes_beside_it(workspace: Path, said: list[str]) -> None:
    done = fit()
    for command in ("test", "validate"):
        tested = cli.run(command, ["-c", "toy.yaml"])
        assert tested.folder.id == done.folder.id
        metrics = yaml.safe_load((done.folder.path / command / "metrics.json").read_text())
        assert metrics["checkpoint"] == str(done.folder.path / "checkpoints" / "best.ckpt")
        assert metrics["metrics"] == tested.metrics
    assert len(list(Path("runs/toy").iterdir())) == 1
    assert f"checkpoint: {done.folder.path}/checkpoints/best.ckpt" in said
    assert tested.metrics["val/loss"] == pytest.approx(done.metrics["val/loss"], rel=1e-5)


def test_checkpoint_alone_brings_its_config(workspace: Path) -> None:
    done = fit("--model.width", "7")
    Path("toy.yaml").unlink()
    assert main(["test", "--ckpt_path", str(done.folder.path / "checkpoints" / "last.ckpt")]) == 0
    assert main(["validate", "--run_dir", str(done.folder.path)]) == 0


def test_pretrained_weights_are_not_fetched_for_a_test(trained: Path) -> None:
    assert not cli.run("test", ["-c", "toy.yaml", "--model.pretrained", "true"]).model.pretrained


def test_best_is_by_the_tasks_own_metric(workspace: Path) -> None:
    done = fit("--trainer.max_epochs", "2")
    (ours,) = (one for one in done.trainer.callbacks if isinstance(one, ModelCheckpoint))
    assert (ours.monitor, ours.mode) == ("val/loss", "min")
    assert Path(ours.best_model_path) == (done.folder.checkpoints / "best.ckpt").resolve()
    saved = {name: torch.load(done.folder.checkpoints / f"{name}.ckpt", weights_only=True) for name in ("best", "last")}
    assert saved["last"]["epoch"] == 1
    assert saved["best"]["lit_vision"]["task"] == "Toy"


def test_paths_in_a_yaml_are_relative_to_it(workspace: Path) -> None:
    (workspace / "deep" / "pictures").mkdir(parents=True)
    Path("deep/toy.yaml").write_text(Path("toy.yaml").read_text().replace("root: .", "root: pictures"))
    done = cli.run("fit", ["-c", "deep/toy.yaml"])
    assert done.datamodule.root == workspace / "deep" / "pictures"
    saved = yaml.safe_load((done.folder.path / "config.yaml").read_text())
    assert saved["data"]["init_args"]["root"] == str(workspace / "deep" / "pictures")


def test_existing_run_folder_is_not_trained_over(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained.rename("mine")
    assert main([*FIT.split(), "--run_dir", "mine"]) == 2
    assert "error: mine holds a run already; continue it with --resume mine" in capsys.readouterr().err


# --- checkpoints that do not fit --------------------------------------------------------------------------------
def test_checkpoint_of_another_task(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert OtherToy.__name__ == "OtherToy"
    assert main(["test", "-c", "toy.yaml", "--model", "stand_in.OtherToy"]) == 2
    assert "best.ckpt holds a Toy, but model is a OtherToy; give the experiment" in capsys.readouterr().err


def test_checkpoint_of_other_classes(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyData, "class_names", property(lambda self: ["a", "b", "c"]))
    assert main(["test", "-c", "toy.yaml"]) == 2
    err = capsys.readouterr().err
    assert "knows 2 classes (dark, bright)" in err
    assert "3 (a, b, c)" in err


def test_checkpoint_of_other_options(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "-c", "toy.yaml", "--model.width", "7"]) == 2
    assert "best.ckpt does not fit this network: model.width is 7 now, was 5\n" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "half"])
def test_damaged_checkpoint(content: Any, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content == "half":
        whole = (trained / "checkpoints" / "last.ckpt").read_bytes()
        content = whole[: len(whole) // 2]
    Path("torn.ckpt").write_bytes(content)
    assert main(["test", "-c", "toy.yaml", "--ckpt_path", "torn.ckpt"]) == 2
    assert "torn.ckpt is damaged or not a checkpoint" in capsys.readouterr().err


def test_foreign_checkpoint(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}}, "foreign.ckpt")
    assert main(["test", "-c", "toy.yaml", "--ckpt_path", "foreign.ckpt"]) == 2
    assert "foreign.ckpt was not written by lit_vision" in capsys.readouterr().err


# --- the traps of reference/cli_wandb.md, by their numbers (6, 9, 10 also in test_main, 13 in test_loggers) -------
def test_trap_1_checkpoint_never_overrides_options(workspace: Path) -> None:
    first = fit("--model.dropout", "0.1")
    file = str(first.folder.checkpoints / "last.ckpt")
    second = fit("--model.dropout", "0.3", "--ckpt_path", file, "--trainer.max_epochs", "2")
    assert second.model.dropout == 0.3
    saved = yaml.safe_load((second.folder.path / "config.yaml").read_text())
    assert saved["model"]["init_args"]["dropout"] == 0.3
    assert cli.run("test", ["-c", "toy.yaml", "--ckpt_path", file]).model.dropout == 0.0  # the option's default


def test_trap_2_last_continues_the_newest_run(workspace: Path) -> None:
    first = fit()
    second = fit("--ckpt_path", "last", "--trainer.max_epochs", "3")
    assert second.folder == first.folder
    assert second.trainer.current_epoch == 3
    rows = (first.folder.path / "metrics.csv").read_text().splitlines()
    epochs = {row.split(",")[rows[0].split(",").index("epoch")] for row in rows[1:]} - {""}
    assert epochs == {"0", "1", "2"}  # the first run's rows are still there


def test_trap_4_classes_are_known_before_setup(workspace: Path) -> None:
    ToyData.made = 0
    assert fit().model.class_names == ["dark", "bright"]
    assert ToyData.made == 1


def test_trap_5_no_command_takes_abbreviations(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in TRAINING:
        assert main([command, "-c", "toy.yaml", "--trainer.max_epo", "1"]) == 2
        assert "unknown option --trainer.max_epo;" in capsys.readouterr().err


def test_trap_6_callbacks_add_to_ours(workspace: Path) -> None:
    early = "trainer: {callbacks+: [{class_path: EarlyStopping, init_args: {monitor: val/loss}}]}"
    Path("early.yaml").write_text(early)
    own = "--trainer.callbacks+=stand_in_callbacks.Mine"
    Path("stand_in_callbacks.py").write_text("from pytorch_lightning import Callback\nclass Mine(Callback): ...\n")
    sys.path.insert(0, str(workspace))
    try:
        kinds = [
            type(one).__name__ for one in fit("-c", "early.yaml", own, "--trainer.logger", "true").trainer.callbacks
        ]
    finally:
        sys.path.remove(str(workspace))
    assert kinds.count("EarlyStopping") == kinds.count("Mine") == 1
    assert kinds.count("RunCheckpoints") == 1
    assert kinds[:2] == ["StepSeeds", "Boundaries"]
    assert kinds.count("LearningRateMonitor") == 1
    assert EarlyStopping.__name__ in kinds


def test_trap_6_users_own_monitor_replaces_ours(workspace: Path) -> None:
    own = "trainer: {callbacks: [{class_path: LearningRateMonitor, init_args: {logging_interval: epoch}}]}"
    Path("own.yaml").write_text(own)
    callbacks: list[Callback] = fit("-c", "own.yaml").trainer.callbacks
    (monitor,) = [one for one in callbacks if isinstance(one, LearningRateMonitor)]
    assert monitor.logging_interval == "epoch"


def test_trap_8_environment_changes_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("PL_FIT__TRAINER__MAX_EPOCHS", "4")
    assert fit().trainer.current_epoch == 1
    assert "JSONARGPARSE_DEFAULT_ENV is ignored: it reaches some options only; use --key value" in said


def test_trap_11_dropped_options_are_named(workspace: Path, said: list[str]) -> None:
    Path("drop.yaml").write_text(Path("toy.yaml").read_text().replace("width: 5", "width: 5, dropout: 0.2"))
    done = cli.run("fit", ["-c", "drop.yaml", "--model", "stand_in.OtherToy"])
    assert isinstance(done.model, OtherToy)
    assert "model is OtherToy, which has no dropout: left out from drop.yaml" in said


def test_trap_12_first_screen_is_clean(workspace: Path) -> None:
    """In a process of its own, as a user sees it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "lit_vision", "fit", "-c", "toy.yaml", "--trainer.max_epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    starts = ("precision: 32-true", "W&B: off", "run folder: runs/toy/", "`Trainer.fit` stopped", "trained 1 epochs")
    assert [line for line in lines if not line.startswith(starts)] == []


# --- defaults ---------------------------------------------------------------------------------------------------
def test_precision_needs_the_processor_and_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shown(OtherToy):
        bf16_shown = True

    shown, unshown = Shown(["a"]), OtherToy(["a"])
    monkeypatch.setattr("lit_vision.cli.trainer_defaults.cpu_has_bf16", lambda: False)
    assert choose_precision(shown, "cpu")[0] == "32-true"
    monkeypatch.setattr("lit_vision.cli.trainer_defaults.cpu_has_bf16", lambda: True)
    assert choose_precision(shown, "cpu")[0] == "bf16-mixed"
    assert choose_precision(unshown, "cpu") == ("32-true", "equal accuracy in bf16 is not shown for OtherToy")
    begun = tmp_path / "config.yaml"  # of a run that has come from another processor
    assert choose_precision(shown, "cpu", begun)[0] == "bf16-mixed"
    begun.write_text("trainer: {precision: 32-true}")
    assert choose_precision(shown, "cpu", begun) == ("32-true", "as the run began")


def test_a_training_is_bf16_stays_so_elsewhere_and_is_evaluated_in_float32(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "bf16_shown", True)
    monkeypatch.setattr("lit_vision.cli.trainer_defaults.cpu_has_bf16", lambda: True)
    options = ["-c", "toy.yaml", "--trainer.accelerator", "cpu"]
    first = cli.run("fit", [*options, "--trainer.max_epochs", "1"])
    assert first.trainer.precision == "bf16-mixed"
    assert cli.run("test", options).trainer.precision == "32-true"
    monkeypatch.setattr("lit_vision.cli.trainer_defaults.cpu_has_bf16", lambda: False)  # it has come to another machine
    again = cli.run("fit", [*options, "--trainer.max_epochs", "2", "--resume", str(first.folder.path)])
    assert again.trainer.precision == "bf16-mixed"
    assert cli.run("fit", options).trainer.precision == "32-true"


def test_a_kill_leaves_no_half_of_a_config(workspace: Path) -> None:
    whole = Path.write_text

    def torn(path: Path, text: str, *args: Any, **settings: Any) -> int:
        if "config.yaml" not in path.name:
            return whole(path, text, *args, **settings)
        whole(path, text[: len(text) // 2])
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", torn)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            cli.run("fit", ["-c", "toy.yaml", "--run_dir", "run"])
    assert not Path("run/config.yaml").exists()
    cli.run("fit", ["-c", "toy.yaml", "--run_dir", "run", "--resume", "auto"])
    assert "trainer:" in Path("run/config.yaml").read_text()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("sse2 avx2", False), ("avx512f avx512_bf16", True), ("amx_bf16", True), ("amx_tile", False)],
)
def test_bf16_flags(flags: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    assert cpu_has_bf16(tmp_path / "cpuinfo") is expected
    assert not cpu_has_bf16(tmp_path / "absent")


def test_explicit_precision_wins(workspace: Path, said: list[str]) -> None:
    assert fit("--trainer.precision", "bf16-mixed").trainer.precision == "bf16-mixed"
    assert not [line for line in said if line.startswith("precision")]


def test_without_validation_there_is_only_a_last(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = fit("--trainer.limit_val_batches", "0")
    assert [path.name for path in done.folder.checkpoints.iterdir()] == ["last.ckpt"]
    assert main(["test", "-c", "toy.yaml"]) == 2
    assert f"--ckpt_path best: the newest run, {done.folder.path}, has only" in capsys.readouterr().err


def test_print_config_is_an_experiment(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT.split(), "--model.width", "9", "--print_config"]) == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert cli.run("fit", ["-c", "printed.yaml"]).config.fit.model.init_args.width == 9


def test_options_on_the_help_screen_exist(workspace: Path) -> None:
    import re

    parser = fit("--trainer.fast_dev_run", "true")._subcommand_parsers["fit"]
    options = {option for action in parser._actions for option in action.option_strings}
    named = set(re.findall(r"--[a-z_]+(?:\.[a-z_]+)?", screens.FIT))
    own = {name for name in named if name.startswith(("--model.", "--data.")) and not name.endswith(".help")}
    from lit_vision.cli.parser import parameters
    from lit_vision.data.classification import ClassificationDataModule
    from lit_vision.tasks.classification import TransferClassifier

    for kind, part in ((TransferClassifier, "--model."), (ClassificationDataModule, "--data.")):
        names = parameters(f"{kind.__module__}.{kind.__name__}")
        assert {name.removeprefix(part) for name in own if name.startswith(part)} <= set(names)
    before = {"--folds"}  # is read before Lightning's parser is
    rest = named - own - before - {"--help-all", "--trainer.callbacks", "--key", "--help"}
    assert {name for name in rest if name.replace(".monitor", "") not in options} == set()
