"""The run's checkpoints: when they are written, what replaces what, and what a kill leaves."""

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from resuming import CASES, Case, Cut, digest, train

from lit_vision.callbacks import checkpointing
from lit_vision.callbacks.boundaries import Boundaries
from lit_vision.callbacks.checkpointing import RunCheckpoints, check_order, keep_as, refuse_late_averages, refuse_parts
from lit_vision.callbacks.seeding import StepSeeds
from lit_vision.errors import UserError
from lit_vision.runs.checkpoints import AtomicCheckpointIO

pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty.*")


class Note(AtomicCheckpointIO):
    """Notes the name and the step of each file that is written."""

    written: list[tuple[str, int]]

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.written.append((Path(path).stem, checkpoint["global_step"]))
        super().save_checkpoint(checkpoint, path, storage_options)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    Note.written = []
    monkeypatch.setattr("resuming.AtomicCheckpointIO", Note)
    return Note.written


def steps_of(folder: Path) -> dict[str, int]:
    files = (folder / "checkpoints").glob("*.ckpt")
    return {path.name: torch.load(path, weights_only=True)["global_step"] for path in files}


# --- when -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [6, 12, 18]),
        ({"every_n_epochs": 2}, [12, 18]),  # the end is always kept
        ({"every_n_train_steps": 4}, [4, 6, 8, 12, 16, 18]),
        ({"every_n_minutes": 0.0}, list(range(1, 19))),
        ({"every_n_minutes": 60.0}, [6, 12, 18]),
    ],
)
def test_last_is_written_when_it_is_due(
    options: dict[str, Any], steps: list[int], tmp_path: Path, written: list[tuple[str, int]]
) -> None:
    train(tmp_path, Case(checkpoints=options, trainer={"limit_val_batches": 0}))
    assert written == [("last", step) for step in steps]
    found = steps_of(tmp_path)
    assert (found["last.ckpt"], found["previous.ckpt"]) == (steps[-1], steps[-2])


def test_time_counts_from_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    checkpoints = RunCheckpoints(every_n_minutes=2)
    clock[0] = 219.0
    assert not checkpoints.late()
    clock[0] = 220.0
    assert checkpoints.late()
    assert not RunCheckpoints().late()


class Say(Callback):
    """Logs the next of these values after each validation."""

    def __init__(self, values: Iterable[float]) -> None:
        self.values = iter(values)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.log("val/said", next(self.values))


def no_links(*_: Any) -> None:
    raise OSError("no hard links here")


SAID = {"monitor": "val/said", "mode": "min"}


def test_best_is_of_the_best_validation(tmp_path: Path, written: list[tuple[str, int]]) -> None:
    trainer = train(tmp_path, Case(callbacks=lambda: [Say([3.0, 1.0, 2.0])], checkpoints=SAID))
    assert [step for name, step in written if name == "best"] == [6, 12]
    assert steps_of(tmp_path)["best.ckpt"] == 12
    assert float(trainer.checkpoint_callback.best_model_score) == 1.0


@pytest.mark.parametrize("links", [True, False])
def test_where_the_last_is_the_best_one_file_is_written(
    links: bool, tmp_path: Path, written: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    case = Case(callbacks=lambda: [Say([3.0, 2.0, 1.0])], checkpoints=SAID)
    train(tmp_path, case)
    assert written == [("best", 6), ("best", 12), ("best", 18)]
    assert steps_of(tmp_path) == {"best.ckpt": 18, "last.ckpt": 18, "previous.ckpt": 12}
    folder = tmp_path / "checkpoints"
    assert (folder / "best.ckpt").samefile(folder / "last.ckpt") == links
    state = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"]["RunCheckpoints"]
    assert Path(state["last_model_path"]) == folder.resolve() / "last.ckpt"
    assert float(state["best_model_score"]) == 1.0


def test_the_last_of_an_epoch_knows_its_best(tmp_path: Path) -> None:
    """best.ckpt is written first, so that a continued run compares with it."""
    train(tmp_path, Case(trainer={"max_epochs": 1}))
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["RunCheckpoints"]
    assert state["best_model_path"].endswith("best.ckpt")
    assert float(state["best_model_score"]) > 0


def test_without_validation_there_is_no_best(tmp_path: Path) -> None:
    train(tmp_path, Case(trainer={"limit_val_batches": 0, "max_epochs": 1}))
    assert set(steps_of(tmp_path)) == {"last.ckpt"}


def test_users_own_model_checkpoint_stays_beside_ours(tmp_path: Path) -> None:
    own = ModelCheckpoint(dirpath=tmp_path / "own", filename="{step}", save_top_k=-1)
    train(tmp_path, Case(callbacks=lambda: [own]))
    assert len(list((tmp_path / "own").iterdir())) == 3
    assert set(steps_of(tmp_path)) == {"best.ckpt", "last.ckpt", "previous.ckpt"}


def test_moved_run_folder_is_continued_where_it_is(tmp_path: Path) -> None:
    case = CASES["dropout"]
    train(tmp_path / "here", case, cut=8)
    shutil.move(tmp_path / "here", tmp_path / "there")
    trainer = train(tmp_path / "there", case, resume=tmp_path / "there" / "checkpoints" / "last.ckpt")
    best = Path(trainer.checkpoint_callback.best_model_path)
    assert best.parent == (tmp_path / "there" / "checkpoints").resolve()
    assert not (tmp_path / "here").exists()
    assert digest(trainer) == digest(train(tmp_path / "whole", case))


# --- a kill while writing -----------------------------------------------------------------------------------------
class Killed(BaseException):
    """A kill between two lines."""


@pytest.mark.parametrize("moment", ["link", "write", "rename"])
def test_kill_while_writing_loses_only_that_one(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["dropout"]
    train(tmp_path / "run", case, cut=14)
    folder = tmp_path / "run" / "checkpoints"
    assert steps_of(tmp_path / "run") == {"best.ckpt": 12, "last.ckpt": 12, "previous.ckpt": 6}

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "link":
            patch.setattr(checkpointing, "keep_as", kill)
        else:
            patch.setattr("torch.save" if moment == "write" else "pathlib.Path.replace", kill)
        with pytest.raises(Killed):
            train(tmp_path / "run", case, resume=folder / "last.ckpt")
    assert steps_of(tmp_path / "run")["last.ckpt"] == 12
    again = train(tmp_path / "run", case, resume=folder / "last.ckpt")
    assert not list(folder.glob("*.partial"))
    assert digest(again) == digest(train(tmp_path / "whole", case))


def test_second_name_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for text in ("one", "two"):
        file.write_text(text)
        keep_as(file, other)
        assert (file.read_text(), other.read_text()) == (text, text)
        file.unlink()
    file.write_text("three")

    monkeypatch.setattr(os, "link", no_links)
    keep_as(file, other)
    assert other.read_text() == "three"
    file.mkdir()  # a checkpoint of several files
    other.unlink()
    (other / "part").mkdir(parents=True)
    keep_as(file, other)
    assert (list(other.iterdir()), file.exists()) == ([], False)


# --- options ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every_n_epochs": 0}, "RunCheckpoints: every_n_epochs is 0, but must be at least 1"),
        ({"every_n_train_steps": 0}, "RunCheckpoints: every_n_train_steps is 0, but must be at least 1"),
        ({"every_n_minutes": -1.0}, "RunCheckpoints: every_n_minutes is -1.0, but must not be negative"),
        ({"monitor": "val/f1"}, "RunCheckpoints: val/f1 is to be monitored, but mode is not given: min or max"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{sentence}$"):
        train(tmp_path, Case(checkpoints=options))


def test_boundaries_has_to_come_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^RunCheckpoints needs Boundaries as the first of the callbacks$"):
        train(tmp_path, Case(first=list, callbacks=lambda: [RunCheckpoints()]))
    with pytest.raises(UserError, match=r"^Boundaries has to be the first of the callbacks, before Cut$"):
        train(tmp_path, Case(first=lambda: [StepSeeds(), Cut(99), Boundaries()]))


@pytest.mark.parametrize(
    ("strategy", "option"),
    [
        (lambda: ModelParallelStrategy(), "save_distributed_checkpoint: false"),
        (lambda: FSDPStrategy(state_dict_type="sharded"), "state_dict_type: full"),
    ],
)
def test_checkpoints_of_several_files_are_refused(strategy: Any, option: str) -> None:
    with pytest.raises(UserError, match=f"a kill leaves torn and which --resume cannot read: set {option}"):
        refuse_parts(strategy())
    refuse_parts(ModelParallelStrategy(save_distributed_checkpoint=False))
    refuse_parts(FSDPStrategy())
    refuse_parts(DDPStrategy())


@pytest.mark.parametrize("option", ["update_starting_at_step", "update_starting_at_epoch"])
def test_an_average_that_begins_later_is_refused(option: str, tmp_path: Path) -> None:
    """Until then Lightning would validate and save the weights of before the training."""
    average = EMAWeightAveraging(decay=0.9, **{option: 2})
    trainer = SimpleNamespace(strategy=DDPStrategy(), callbacks=[average], limit_val_batches=0)
    own = RunCheckpoints(dirpath=str(tmp_path))
    own.expected = True
    with pytest.raises(UserError, match=f"EMAWeightAveraging: {option} is 2, .* leave it out"):
        own.setup(trainer, pl.LightningModule(), "fit")  # type: ignore[arg-type]
    refuse_late_averages([EMAWeightAveraging(decay=0.9), EMAWeightAveraging(decay=0.9, **{option: 0})])


def test_a_state_numbered_in_the_order_of_the_groups_is_refused(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    groups = [{"params": [one.weight for one in module]}, {"params": [one.bias for one in module]}]
    optimizer = torch.optim.AdamW(groups)
    for name, numbers in (("plain", [[0, 1], [2, 3]]), ("divided", [[0, 2], [1, 3]])):
        states = [{"state": {}, "param_groups": [{"params": own} for own in numbers]}]
        torch.save({"optimizer_states": states}, tmp_path / f"{name}.ckpt")
    assert optimizer.state_dict()["param_groups"][0]["params"] == [0, 1]  # as any training but FSDP's writes them
    check_order(module, [optimizer], tmp_path / "divided.ckpt")
    with pytest.raises(UserError, match=r"plain\.ckpt was written by a training that did not divide its network"):
        check_order(module, [optimizer], tmp_path / "plain.ckpt")


@pytest.mark.parametrize("strategy", [ModelParallelStrategy, FSDPStrategy, DDPStrategy])
def test_a_training_under_fsdp_looks_at_the_order_before_it_takes_a_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: Any
) -> None:
    taken: list[Path] = []
    monkeypatch.setattr(strategy, "load_checkpoint", lambda self, path, *args: taken.append(path))
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    optimizer = torch.optim.SGD([{"params": [one.weight for one in module]}, {"params": [one.bias for one in module]}])
    torch.save({"optimizer_states": [optimizer.state_dict()]}, tmp_path / "plain.ckpt")
    trainer: Any = SimpleNamespace(strategy=strategy(), optimizers=[optimizer], state=SimpleNamespace(fn="fit"))
    module_: Any = module
    RunCheckpoints().on_fit_start(trainer, module_)
    divides = strategy is not DDPStrategy
    with pytest.raises(UserError, match="did not divide its network") if divides else nullcontext():
        trainer.strategy.load_checkpoint(tmp_path / "plain.ckpt")
    assert len(taken) == (0 if divides else 1)
    trainer.strategy.load_checkpoint(tmp_path)  # a folder of parts is for Lightning to read or refuse
    trainer.state.fn = "test"
    trainer.strategy.load_checkpoint(tmp_path / "plain.ckpt")
    assert len(taken) == (2 if divides else 3)
