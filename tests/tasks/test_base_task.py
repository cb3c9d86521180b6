from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from lit_vision.errors import UserError
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.checkpoints import load_task, read_checkpoint
from lit_vision.tasks.optimization import as_channels_last


class Count(Metric):
    """How many images were counted."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, images: Tensor) -> None:
        self.total += len(images)

    def compute(self) -> dict[str, Tensor]:
        return {"images": self.total, "loss": self.total * 0}


class TinyTask(VisionTask):
    """A convolution with batch norm as the backbone, a linear head."""

    monitor = "val/loss"

    def __init__(self, class_names: Sequence[str], width: int = 4, **training: Any) -> None:
        super().__init__(class_names, **training)
        self.backbone = nn.Sequential()
        self.backbone.add_module("stem", nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU()))
        self.backbone.add_module("body", nn.Sequential(nn.Conv2d(width, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU()))
        self.head = nn.Linear(width, self.num_classes)
        self.metrics = nn.ModuleDict({"val": Count(), "test": Count()})
        self.save_hyperparameters({"width": width})

    @property
    def backbones(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone}

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.backbone(image.float() / 255).mean((2, 3)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.layout = batch["image"].is_contiguous(memory_format=torch.channels_last)
        return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

    def _evaluate(self, batch: Any, metrics: Metric, stage: str) -> Sequence[Mapping[str, Tensor]]:
        metrics.update(batch["image"])
        return [{"logits": row} for row in self(batch["image"])]


class Ten(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> dict[str, Any]:
        image = torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        return {"image": image, "label": i % 2, "index": -1 if i == 9 else i}


def trainer(root: Path, **settings: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(default_root_dir=root, accelerator="cpu", **{**quiet, "max_epochs": 2, **settings})


def test_a_model_of_other_classes_than_its_data_is_refused(tmp_path: Path) -> None:
    class Data(pl.LightningDataModule):
        class_names = ("a", "b", "c")

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(Ten(), batch_size=5)

    sentence = r"the model has 2 classes \(x, y\), but the data has 3 \(a, b, c\): make it with"
    with pytest.raises(UserError, match=f"^{sentence} the data module's class_names$"):
        trainer(tmp_path).fit(TinyTask(["x", "y"]), Data())
    trainer(tmp_path, max_epochs=1, enable_checkpointing=False).fit(TinyTask(["x", "y", "z"]), Data())


def loader() -> DataLoader[dict[str, Any]]:
    return DataLoader(Ten(), batch_size=4)


def test_frozen_backbone_stands_still_with_its_statistics_and_the_head_learns(tmp_path: Path) -> None:
    task = TinyTask(["a", "b"], freeze="backbone")
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainer(tmp_path, enable_checkpointing=False).fit(task, loader(), loader())
    after = task.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}
    assert all(parameter.grad is None for parameter in task.backbone.parameters())
    assert task.train().backbone.stem[1].training is False


def test_without_freezing_the_backbone_moves(tmp_path: Path) -> None:
    task = TinyTask(["a", "b"])
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainer(tmp_path, enable_checkpointing=False).fit(task, loader())
    assert all(not torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_one_frozen_stage_is_the_one_nearest_the_image(tmp_path: Path) -> None:
    task = TinyTask(["a", "b"], freeze=1)
    trainer(tmp_path, enable_checkpointing=False, max_steps=1).fit(task, loader())
    frozen = {name for name, parameter in task.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"backbone.stem.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")}


@pytest.mark.parametrize("channels_last", [True, False])
def test_batches_come_in_the_networks_memory_format(tmp_path: Path, channels_last: bool) -> None:
    task = TinyTask(["a", "b"], channels_last=channels_last)
    trainer(tmp_path, enable_checkpointing=False, max_steps=1).fit(task, loader())
    weight = task.backbone.body[0].weight  # type: ignore[union-attr]  # nn.Module attribute
    assert task.layout is channels_last
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_padding_samples_are_not_counted(tmp_path: Path) -> None:
    values = trainer(tmp_path).test(TinyTask(["a", "b"]), loader(), verbose=False)
    assert values[0]["test/images"] == 9


def test_checkpoint_rebuilds_the_task_bit_for_bit(tmp_path: Path) -> None:
    task = TinyTask(["a", "b"], width=6)
    run = trainer(tmp_path)
    run.fit(task, loader())
    run.save_checkpoint(tmp_path / "tiny.ckpt")
    facts = read_checkpoint(tmp_path / "tiny.ckpt")
    assert facts["hyper_parameters"] == {"class_names": ["a", "b"], "width": 6}
    assert facts["lit_vision"]["task"] == "TinyTask"
    loaded = TinyTask.load_from_checkpoint(tmp_path / "tiny.ckpt", weights_only=True)
    as_channels_last(loaded)
    image = Ten()[0]["image"][None].contiguous(memory_format=torch.channels_last)
    assert torch.equal(loaded.eval()(image), task.eval()(image))


def test_damaged_foreign_and_missing_checkpoints_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "foreign.ckpt").read_bytes()[:100])
    for name, words in {"foreign": "was not written by lit_vision", "cut": "damaged", "none": "does not exist"}.items():
        with pytest.raises(UserError, match=words) as caught:
            load_task(tmp_path / f"{name}.ckpt")
        assert f"{name}.ckpt" in str(caught.value)


def test_checkpoint_of_other_classes_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(TinyTask(["a", "b"]), loader())
    run.save_checkpoint(tmp_path / "tiny.ckpt")
    with pytest.raises(UserError, match=r"knows 2 classes .*the data has 3"):
        TinyTask(["a", "b", "c"]).on_load_checkpoint(read_checkpoint(tmp_path / "tiny.ckpt"))


@pytest.mark.parametrize("name", ["OneCycleLR", "CosineAnnealingLR", "ReduceLROnPlateau"])
def test_any_torch_scheduler_runs(tmp_path: Path, name: str) -> None:
    settings = {
        "OneCycleLR": {"max_lr": 0.1, "total_steps": 6},
        "CosineAnnealingLR": {"T_max": 2},
        "ReduceLROnPlateau": {},
    }[name]
    kind = getattr(torch.optim.lr_scheduler, name)
    interval = "step" if name == "OneCycleLR" else "epoch"
    task = TinyTask(["a", "b"], scheduler=lambda optimizer: kind(optimizer, **settings), scheduler_interval=interval)
    run = trainer(tmp_path, enable_checkpointing=False)
    run.fit(task, loader(), loader())
    assert run.global_step == 6


def test_no_classes_is_an_error() -> None:
    with pytest.raises(UserError, match="class_names is empty"):
        TinyTask([])
