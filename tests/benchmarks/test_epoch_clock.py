"""The clock of the benchmarks times a training and leaves it as it was."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from epoch_clock import WARM, EpochClock
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Small(pl.LightningModule):
    """Counts its steps and the lines that it logs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.steps = self.logged = 0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.steps += 1
        loss = self.network(batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def log(self, *arguments: Any, **options: Any) -> None:
        self.logged += 1
        super().log(*arguments, **options)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Rows(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        rows = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(rows), batch_size=5)


def trained(folder: Path, bare_steps: int) -> tuple[Small, dict[str, Any]]:
    module = Small()
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    clock = EpochClock(bare_steps)
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", callbacks=[clock], default_root_dir=folder, **off)
    trainer.fit(module, datamodule=Rows())
    return module, json.loads((folder / "epochs.json").read_text())


def test_bare_steps_before_a_training_leave_its_course_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain, _ = trained(tmp_path / "a", 0)
    timed, facts = trained(tmp_path / "b", 2)
    assert plain.steps == 3 * 2
    assert timed.steps == plain.steps + 2 * (WARM + 2)
    assert timed.logged == plain.logged == 6
    assert len(facts["bare_step_seconds"]) == 4
    batch = next(iter(Rows().train_dataloader()))  # the bare steps after the end, by hand on the other
    optimizer = plain.trainer.optimizers[0]
    for _ in range(WARM + 2):
        optimizer.zero_grad()
        plain.network(batch[0]).square().mean().backward()
        optimizer.step()
    for one, other in zip(plain.state_dict().values(), timed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_first_epoch_is_not_counted(tmp_path: Path) -> None:
    _, facts = trained(tmp_path, 0)
    assert len(facts["epoch_seconds"]) == 2
    assert min(facts["epoch_seconds"]) > 0
    assert (facts["steps"], facts["images"], facts["workers"]) == (2, 10, 0)
    assert (facts["precision"], facts["layout"], facts["bare_step_seconds"]) == ("32-true", "contiguous", [])
