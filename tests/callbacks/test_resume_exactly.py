"""A run that was cut and continued ends with the very bits of one that was not: in one process, case by case."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from resuming import CASES, EVERY_STEP, STEPS, Case, cut_and_continued, digest, train
from torch.optim.lr_scheduler import CosineAnnealingLR

from lit_vision.callbacks.boundaries import Boundaries
from lit_vision.callbacks.checkpointing import RunCheckpoints
from lit_vision.callbacks.seeding import StepSeeds
from lit_vision.data.base import VisionDataModule
from lit_vision.runs import progress

pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty.*")
SLOW = ("workers", "0 to 2 workers", "momentum", "bf16", "clipping", "cosine", "mixup", "validation every 4 steps")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_cut_run_equals_uncut(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    accumulated = case.trainer.get("accumulate_grad_batches", 1)
    whole = digest(train(tmp_path / "whole", case))
    assert whole["progress"][1] == {"max_steps": 16, "early stopping": 18}.get(name, STEPS // accumulated)
    at_epoch = digest(cut_and_continued(tmp_path / "epoch", case, cut=8 // accumulated))
    assert at_epoch == whole
    inside = digest(cut_and_continued(tmp_path / "inside", case.but(checkpoints=EVERY_STEP), cut=10 // accumulated))
    assert inside == whole


@pytest.mark.parametrize("name", ["dropout", "plateau", "accumulate 2", "validation twice an epoch", "max_steps"])
@pytest.mark.slow
def test_cut_run_equals_uncut_wherever_it_is_cut(name: str, tmp_path: Path) -> None:
    case = CASES[name].but(checkpoints=EVERY_STEP)
    uncut = train(tmp_path / "whole", case)
    whole = digest(uncut)
    for cut in range(2, uncut.global_step):
        assert digest(cut_and_continued(tmp_path / str(cut), case, cut)) == whole, cut


def test_a_run_can_be_cut_twice(tmp_path: Path) -> None:
    case = CASES["dropout"].but(checkpoints=EVERY_STEP)
    whole = digest(train(tmp_path / "whole", case))
    last = tmp_path / "twice" / "checkpoints" / "last.ckpt"
    train(tmp_path / "twice", case, cut=4)
    train(tmp_path / "twice", case, cut=9, resume=last)
    assert digest(train(tmp_path / "twice", case, resume=last)) == whole


def test_finished_run_is_extended(tmp_path: Path) -> None:
    """With a schedule that does not depend on the length of the run; the default one is stretched."""
    case = Case(model={"dropout": 0.5, "scheduler": lambda o: CosineAnnealingLR(o, 3)})
    whole = digest(train(tmp_path / "whole", case.but(trainer={"max_epochs": 4})))
    train(tmp_path / "short", case.but(trainer={"max_epochs": 2}))
    last = tmp_path / "short" / "checkpoints" / "last.ckpt"
    assert digest(train(tmp_path / "short", case.but(trainer={"max_epochs": 4}), resume=last)) == whole


def test_run_that_ended_inside_an_epoch_is_extended(tmp_path: Path) -> None:
    case = Case(model={"dropout": 0.5, "scheduler": lambda o: CosineAnnealingLR(o, 3)})
    whole = digest(train(tmp_path / "whole", case.but(trainer={"max_epochs": -1, "max_steps": 16})))
    train(tmp_path / "short", case.but(trainer={"max_epochs": -1, "max_steps": 8}))
    last = tmp_path / "short" / "checkpoints" / "last.ckpt"
    longer = train(tmp_path / "short", case.but(trainer={"max_epochs": -1, "max_steps": 16}), resume=last)
    assert digest(longer)["weights"] == whole["weights"]


def test_overfit_batches_train_as_before(tmp_path: Path) -> None:
    """Lightning puts a sampler of its own into our loader."""
    trainer = train(tmp_path, Case(trainer={"overfit_batches": 2}))
    assert trainer.global_step == 6
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["lit_vision_run"]["data"] is None


@pytest.mark.parametrize(("batch_size", "said"), [(6, True), (3, False)])
def test_a_window_of_accumulation_that_gets_shorter_is_said(
    batch_size: int, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """18 images are left: three batches of six, which make one step and a half; or six of three."""
    case = CASES["accumulate 2"].but(checkpoints=EVERY_STEP, later={"batch_size": batch_size})
    with caplog.at_level("INFO"):
        trainer = cut_and_continued(tmp_path, case, cut=5)
    sentence = "the first optimizer step of this epoch's rest takes 1 instead of 2 batches"
    assert (sentence in caplog.text) == said
    assert trainer.global_step == (4 + 2 + 2 if said else 4 + 3 + 4)


def test_best_of_a_continued_run_is_the_uncut_runs(tmp_path: Path) -> None:
    case = CASES["dropout"]
    whole = train(tmp_path / "whole", case)
    again = cut_and_continued(tmp_path / "cut", case, cut=14)
    kept = [
        (one.checkpoint_callback.best_model_score, one.checkpoint_callback.best_model_path) for one in (whole, again)
    ]
    assert torch.equal(kept[0][0], kept[1][0])
    files = [torch.load(path, weights_only=True) for _, path in kept]
    assert files[0]["global_step"] == files[1]["global_step"]
    for name, value in files[0]["state_dict"].items():
        assert torch.equal(value, files[1]["state_dict"][name])


# --- the negative controls: each takes away one part, and the bits differ --------------------------------------------
class Whole(Boundaries):
    """Boundaries that leaves the loops as Lightning restores them."""

    def _go_on(self, trainer: pl.Trainer, saved: Any) -> None: ...


WITHOUT = {
    "seeds": CASES["dropout"].but(first=lambda: [Boundaries()]),
    "seeds and mixup": CASES["mixup"].but(first=lambda: [Boundaries()]),
    "the loops' restart": CASES["plateau"].but(first=lambda: [StepSeeds(0), Whole()]),
    "augmentation by (epoch, image)": Case(data={"careless": True}),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_without_this_part_a_cut_run_differs(name: str, tmp_path: Path) -> None:
    case = WITHOUT[name].but(checkpoints=EVERY_STEP)
    whole = digest(train(tmp_path / "whole", case))
    cut = digest(cut_and_continued(tmp_path / "cut", case, cut=10))
    assert cut["progress"] == whole["progress"]
    assert (cut["weights"], cut["schedule"]) != (whole["weights"], whole["schedule"])


def test_without_the_sums_an_epochs_means_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(checkpoints=EVERY_STEP)
    whole = digest(train(tmp_path / "whole", case))
    monkeypatch.setattr("lit_vision.callbacks.boundaries.own_sums", lambda every, trainer: {})
    cut = digest(cut_and_continued(tmp_path / "cut", case, cut=10))
    assert cut["weights"] == whole["weights"]
    differing = {name for one, other in zip(cut["rows"], whole["rows"], strict=True) for name in one if one != other}
    assert {"train/mean", "train/total"} <= differing


def test_without_the_skip_a_cut_run_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["default schedule"].but(checkpoints=EVERY_STEP)
    whole = digest(train(tmp_path / "whole", case))
    monkeypatch.setattr(VisionDataModule, "_batches_done", lambda self: 0)
    monkeypatch.setattr(progress, "inside_epoch", lambda trainer: False)
    monkeypatch.setattr("lit_vision.data.loader.EpochLoader.go_on", lambda self, epoch, images: 3)
    assert digest(cut_and_continued(tmp_path / "cut", case, cut=10))["weights"] != whole["weights"]


@pytest.mark.parametrize(("name", "part"), [("plateau", "schedule"), ("validation twice an epoch", "rows")])
def test_lightnings_own_checkpoints_lose_what_follows_a_step(name: str, part: str, tmp_path: Path) -> None:
    """The same loader and seeds, but ModelCheckpoint in the middle of things."""
    case = CASES[name].but(first=lambda: [StepSeeds(0)])
    whole = digest(train(tmp_path / "whole", case))
    folder = tmp_path / "cut"
    own = {"dirpath": folder / "own", "filename": "last", "enable_version_counter": False}
    every = {"save_on_train_epoch_end": True} if name == "plateau" else {"every_n_train_steps": 3}
    cut = case.but(callbacks=lambda: [ModelCheckpoint(**own, **every)])
    train(folder, cut, cut=8 if name == "plateau" else 4)
    assert digest(train(folder, cut, resume=folder / "own" / "last.ckpt"))[part] != whole[part]


def test_checkpoints_are_of_boundaries_only(tmp_path: Path) -> None:
    trainer = train(tmp_path, CASES["accumulate 2"].but(checkpoints=EVERY_STEP), cut=5)
    (ours,) = (one for one in trainer.checkpoint_callbacks if isinstance(one, RunCheckpoints))
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    batches = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert ours.saved_step == saved["global_step"] == 4
    assert batches == {"ready": 2, "completed": 2, "started": 2, "processed": 2}
