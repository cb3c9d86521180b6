"""A loss that is no number ends the training, on all processes, and names the pictures."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny import RECORD, TASKS, command, write_experiment
from torch import Tensor, distributed, nn
from two_ranks import both

from lit_vision.callbacks.nonfinite import FILE, StopOnNonFinite
from lit_vision.errors import UserError, find_user_error

NUMBERS = 12


class Poison(pl.Callback):
    """Makes a weight NaN before a step, so that its loss is."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, _: int) -> None:
        if trainer.global_step == self.step - 1:
            Path("shown.json").write_text(json.dumps(batch["index"].tolist()))
            with torch.no_grad():
                next(one for one in pl_module.parameters() if one.ndim == 4)[0] = torch.nan


@pytest.mark.parametrize("task", TASKS)
def test_each_task_stops_at_the_step_and_names_its_pictures(task: str, workspace: Path, drawn: Path) -> None:
    steps = 2 if task == "classification" else 1  # in an epoch
    poison = {"class_path": "callbacks.test_nonfinite.Poison", "init_args": {"step": steps + 1}}
    experiment = write_experiment(workspace / "nan.yaml", task, drawn, max_epochs=3, callbacks=[poison, RECORD])
    with pytest.raises(Exception, match=f"at step {steps + 1} .epoch 1.") as caught:
        command("fit", experiment, "--run_dir", "run")
    assert isinstance(find_user_error(caught.value), UserError)
    found = json.loads(Path("run", FILE).read_text())
    assert (found["epoch"], found["step"], found["batch_idx"]) == (1, steps + 1, 0)
    assert [row["index"] for row in found["pictures"]] == json.loads(Path("shown.json").read_text())
    assert len({row["file"] for row in found["pictures"]}) == 4
    assert all(Path(row["file"]).is_file() and row["rank"] == 0 for row in found["pictures"])
    for name in ("last", "best"):
        saved = torch.load(Path("run", "checkpoints", f"{name}.ckpt"), weights_only=True)
        assert saved["epoch"] == 0
        assert all(bool(one.isfinite().all()) for one in saved["state_dict"].values())


def test_without_it_a_checkpoint_of_nothing_but_nan_takes_the_place(workspace: Path, drawn: Path) -> None:
    """The negative control."""
    off = {"class_path": "callbacks.test_nonfinite.Blind"}
    poison = {"class_path": "callbacks.test_nonfinite.Poison", "init_args": {"step": 2}}
    experiment = write_experiment(workspace / "nan.yaml", "detection", drawn, max_epochs=2, callbacks=[poison, off])
    done = command("fit", experiment)
    saved = torch.load(done.folder.checkpoints / "last.ckpt", weights_only=True)
    assert not all(bool(one.isfinite().all()) for one in saved["state_dict"].values())
    assert not (done.folder.path / FILE).exists()


class Blind(StopOnNonFinite):
    """Looks at nothing."""

    def _stop_if(self, *_: Any) -> None: ...


class Sums(pl.LightningModule):
    """Its loss is NaN for pictures that show NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        return self.layer(batch["x"]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def batches(bad: int) -> list[dict[str, Tensor]]:
    index = torch.arange(2 * NUMBERS).view(NUMBERS, 2, 1)
    return [{"x": torch.where(one == bad, torch.nan, 0.1), "index": one.flatten()} for one in index]


def fit(folder: Path, data: Any, check: StopOnNonFinite, **options: Any) -> str | None:
    """What the UserError says; None without one."""
    shown = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=1,
        enable_model_summary=False,
        callbacks=[check],
        **shown,  # type: ignore[arg-type]
        **options,
    )
    try:
        trainer.fit(Sums(), torch.utils.data.DataLoader(data, batch_size=None))
    except UserError as error:
        return f"{trainer.global_step}: {error}"
    return None


def test_the_step_is_the_first_one_however_late_it_is_seen(tmp_path: Path) -> None:
    said = fit(tmp_path, batches(bad=7), StopOnNonFinite())
    assert said is not None
    assert said.startswith("4: the loss (nan) is not a finite number at step 4 (epoch 0)")
    facts = json.loads((tmp_path / FILE).read_text())
    assert facts == {
        "epoch": 0,
        "step": 4,
        "batch_idx": 3,
        "pictures": [{"index": 6, "rank": 0}, {"index": 7, "rank": 0}],
    }
    assert fit(tmp_path, batches(bad=-1), StopOnNonFinite()) is None


def test_of_mosaics_all_pictures_are_named(tmp_path: Path) -> None:
    check = StopOnNonFinite()
    trainer: Any = SimpleNamespace(world_size=1, global_step=3, current_epoch=1, is_global_zero=True)
    trainer.default_root_dir = tmp_path
    batch = {"index": torch.tensor([5, 2]), "shown": [torch.tensor([5, 7, 2, 9]), torch.tensor([2, 1, 5, 8])]}
    with pytest.raises(UserError, match=r"the loss \(nan\) is not a finite number"):
        check.on_train_batch_end(trainer, None, {"loss": torch.tensor(torch.nan)}, batch, 0)  # type: ignore[arg-type]
    named = json.loads((tmp_path / FILE).read_text())["pictures"]
    assert [one["index"] for one in named] == [5, 7, 2, 9, 1, 8]


def test_a_gpu_is_not_made_to_wait_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses that are not on the CPU are kept, and looked at together."""
    looks: list[int] = []
    check = StopOnNonFinite(every_n_steps=4)
    monkeypatch.setattr(check, "_stop_if", lambda *_: looks.append(step))
    trainer: Any = SimpleNamespace(world_size=2, global_step=0, current_epoch=0)
    for step in range(10):
        check.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, {}, step)  # type: ignore[arg-type]
    assert looks == [3, 7]
    check.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert looks == [3, 7, 9]


def test_weights_are_looked_at_before_a_checkpoint() -> None:
    """The last step's loss was good, what it made of the weights was not."""
    check = StopOnNonFinite()
    trainer: Any = SimpleNamespace(world_size=1, global_step=3, current_epoch=1, is_global_zero=False)
    trainer.default_root_dir = "run"
    batch = {"index": torch.tensor([5, -1])}
    check.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, batch, 0)  # type: ignore[arg-type]
    good = {"state_dict": {"w": torch.ones(3), "n": torch.tensor(3)}}
    check.on_save_checkpoint(trainer, None, good)  # type: ignore[arg-type]
    good["state_dict"]["w"][1] = torch.inf
    with pytest.raises(UserError, match="a weight is not a finite number at step 3"):
        check.on_save_checkpoint(trainer, None, good)  # type: ignore[arg-type]


@pytest.mark.slow  # starts two processes that import torch
def test_two_processes_stop_together(tmp_path: Path) -> None:
    said, other = both(__file__, "train", tmp_path)
    assert said == other
    assert said[0].startswith("5: the loss (nan) is not a finite number at step 3 (epoch 0)")  # looked at after 5
    facts = json.loads((tmp_path / FILE).read_text())
    assert facts["pictures"] == [{"index": 4, "rank": 1}, {"index": 5, "rank": 1}]
    assert said[1] is None


def as_a_process(folder: Path) -> None:
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    on_two: dict[str, Any] = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    said = [fit(folder, batches(5 if rank else -1), StopOnNonFinite(5), **on_two)]
    said.append(fit(folder, batches(-1), StopOnNonFinite(5), **on_two))
    print("\n" + json.dumps(said))
    distributed.destroy_process_group()


if __name__ == "__main__":
    as_a_process(Path(sys.argv[2]))
