from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from quiet import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_vision.errors import UserError
from lit_vision.losses.classification import soft_cross_entropy
from lit_vision.networks.backbones import create_classifier
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.classification import TransferClassifier
from lit_vision.tasks.optimization import as_channels_last

SMALL = {"backbone": "test_resnet"}


class Drawn(torch.utils.data.Dataset[dict[str, Any]]):
    """Pictures whose brightest channel is their class; with `several`, each bright channel is a label."""

    def __init__(self, channels: int = 3, several: bool = False, size: int = 32) -> None:
        rng = np.random.default_rng(0)
        self.several, self.items = several, []
        for i in range(4 * channels):
            present = rng.random(channels) < 0.5 if several else np.arange(channels) == i % channels
            pixels = rng.integers(0, 60, (channels, size, size)) + 180 * present[:, None, None]
            label = torch.tensor(present, dtype=torch.float32) if several else torch.tensor(i % channels)
            self.items.append((torch.tensor(pixels, dtype=torch.uint8), label))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image, label = self.items[i]
        frame, size = torch.eye(2, 3), torch.tensor(image.shape[1:])
        return {"image": image, "index": i, "frame": frame, "size": size, "label": label}


class DrawnData(pl.LightningDataModule):
    def __init__(self, **drawing: Any) -> None:
        super().__init__()
        self.dataset = Drawn(**drawing)
        self.multi_label = self.dataset.several
        self.preprocessing = {"task": "classification", "image_size": [32, 32]}
        labels = [item[1] for item in self.dataset.items]
        counts = torch.stack(labels).sum(0) if self.multi_label else torch.bincount(torch.stack(labels))
        self.class_counts = [int(count) for count in counts]

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(self.dataset, batch_size=6, shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(self.dataset, batch_size=5)


def make(channels: int = 3, **args: Any) -> TransferClassifier:
    pl.seed_everything(0, verbose=False)

    def optimizer(params: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr=3e-3)

    names = [f"channel{c}" for c in range(channels)]
    return TransferClassifier(names, **{**SMALL, "optimizer": optimizer, "in_channels": channels, **args})


def trainer(tmp_path: Path, epochs: int = 8) -> pl.Trainer:
    return quiet_trainer(max_epochs=epochs, default_root_dir=tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("channels", [3, 5])
def test_learns_drawn_pictures_of_any_channels(channels: int, tmp_path: Path) -> None:
    task, data = make(channels), DrawnData(channels=channels)
    run = trainer(tmp_path)
    run.fit(task, data)
    assert run.callback_metrics["val/accuracy"] == 1.0
    assert run.callback_metrics["val/f1"] == 1.0
    assert run.callback_metrics["val/accuracy/channel1"] == 1.0
    assert task.metrics["val"].confusion.tolist() == (4 * np.eye(channels)).tolist()
    predictions = run.predict(task, data.val_dataloader())
    assert predictions is not None
    rows = torch.stack([one["probabilities"] for batch in predictions for one in batch])  # type: ignore[index]
    assert rows.shape == (4 * channels, channels)
    assert torch.allclose(rows.sum(1), torch.ones(4 * channels))
    assert rows.argmax(1).tolist() == [i % channels for i in range(4 * channels)]


@pytest.mark.filterwarnings("ignore")
def test_learns_several_labels_that_only_the_data_tells_of(tmp_path: Path) -> None:
    task, data = make(4, class_weights="balanced"), DrawnData(channels=4, several=True)
    assert task.monitor == "val/accuracy"
    run = trainer(tmp_path, 12)
    run.fit(task, data)
    assert task.monitor == "val/map"
    assert task.hparams["multi_label"] is True
    assert run.callback_metrics["val/map"] == 1.0
    assert {"val/exact_match", "val/f1", "val/accuracy", "val/loss"} <= set(run.callback_metrics)


@pytest.mark.filterwarnings("ignore")
def test_checkpoint_rebuilds_bit_equal_logits(tmp_path: Path) -> None:
    task, data = make(5, dropout=0.2, class_weights=[1.0, 2.0, 3.0, 4.0, 5.0], mixup=0.2), DrawnData(channels=5)
    run = trainer(tmp_path, 1)
    run.fit(task, data)
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = load_task(tmp_path / "last.ckpt")
    images = next(iter(data.val_dataloader()))["image"]
    with torch.no_grad():
        assert torch.equal(again(images), task.eval()(images))
    assert again.class_names == task.class_names
    assert again.data == data.preprocessing
    contents = torch.load(tmp_path / "last.ckpt", weights_only=True)
    rebuilt = TransferClassifier(**contents["hyper_parameters"])
    rebuilt.load_state_dict(contents["state_dict"])
    as_channels_last(rebuilt)  # another memory format adds in another order
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images), task(images))


def test_checkpoints_name_no_file_of_weights(tmp_path: Path) -> None:
    source = make()
    torch.save(source.network.state_dict(), tmp_path / "w.pth")
    task = make(weights=str(tmp_path / "w.pth"))
    assert torch.equal(task.network.conv1[0].weight, source.network.conv1[0].weight)
    assert "weights" not in task.hparams
    assert "pretrained" not in task.hparams


def batch_of(labels: Tensor, channels: int = 3) -> dict[str, Any]:
    images = torch.randint(0, 256, (len(labels), channels, 32, 32), dtype=torch.uint8)
    return {"image": images, "label": labels, "index": torch.arange(len(labels))}


def step(task: TransferClassifier, batch: dict[str, Any]) -> Tensor:
    task.log_loss = lambda *args: None  # type: ignore[method-assign]  # no Trainer here
    return task.training_step(batch, 0)  # type: ignore[arg-type]


def test_class_weights_are_exact() -> None:
    task = make(class_weights=[1.0, 2.0, 5.0], label_smoothing=0.1).eval()
    attach(task, SimpleNamespace())
    batch = batch_of(torch.tensor([0, 2, 2, 1]))
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(
            task(batch["image"]), batch["label"], torch.tensor([1.0, 2.0, 5.0]), label_smoothing=0.1
        )
        assert torch.allclose(step(task, batch), expected)


def attach(task: TransferClassifier, datamodule: Any) -> None:
    task._trainer = SimpleNamespace(datamodule=datamodule)  # type: ignore[assignment]  # stands in for a Trainer
    task.setup("fit")


def test_balanced_weights_from_counts() -> None:
    task = make(class_weights="balanced")
    attach(task, SimpleNamespace(multi_label=False, class_counts=[10, 20, 30]))
    assert task.class_weight is not None
    assert task.class_weight.tolist() == pytest.approx([2.0, 1.0, 2 / 3])
    assert "class_weight" not in task.state_dict()


def test_mixing_reaches_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = make(mixup=1.0).eval(), batch_of(torch.tensor([0, 1, 2]))
    monkeypatch.setattr("lit_vision.ops.mixing.draw_share", lambda alpha: 0.75)
    images = batch["image"].float()
    mixed = 0.75 * images + 0.25 * images.roll(1, 0)
    targets = torch.tensor([[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]])
    with torch.no_grad():
        assert torch.allclose(step(task, batch), soft_cross_entropy(task(mixed), targets), atol=1e-5)


def test_freezing_leaves_the_classifier(tmp_path: Path) -> None:
    task = make(freeze="backbone")
    attach(task, SimpleNamespace())
    assert {name for name, p in task.named_parameters() if p.requires_grad} == {
        "network.fc.weight",
        "network.fc.bias",
    }


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"mixup": -1.0}, "mixup"),
        ({"mean": [0.5]}, "mean has 1 values"),
        ({"backbone": "mobilnetv1_025"}, "did you mean mobilenetv1_025"),
        ({"backbone_args": {"depht": 3}}, "no argument 'depht'"),
    ],
)
def test_mistakes_in_arguments(args: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(**args)


@pytest.mark.parametrize(
    ("args", "data", "words"),
    [
        ({"class_weights": [1.0]}, {}, "has 1 numbers, but there are 3 classes"),
        (
            {"class_weights": [1.0, -1.0, 1.0]},
            {},
            r"class_weights is \[1\.0, -1\.0, 1\.0\]: give numbers from 0, not all 0",
        ),
        ({"class_weights": [0.0, 0.0, 0.0]}, {}, "give numbers from 0, not all 0"),
        ({"class_weights": [1.0, float("nan"), 1.0]}, {}, "give numbers from 0, not all 0"),
        ({"class_weights": "balanced"}, {}, "balanced needs a ClassificationDataModule"),
        ({"class_weights": "balancd"}, {"class_counts": [1, 1, 1]}, "'balancd'"),
        ({"multi_label": False}, {"multi_label": True}, "model.multi_label is false, but the pictures"),
        ({"multi_label": True}, {"multi_label": False}, "model.multi_label is true, but the pictures"),
    ],
)
def test_mistakes_that_show_with_the_data(args: dict[str, Any], data: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        attach(make(**args), SimpleNamespace(**data))


def test_darknets_weights_go_into_a_classifier_with_what_they_expect(tmp_path: Path) -> None:
    """Leaky ReLUs of slope 0.1 and pixels from 0 to 1, also where the checkpoint alone makes the network again."""
    source = create_classifier("test_resnet", 3, slope=0.1)
    parts = [b"\0\0\0\0\2\0\0\0\5\0\0\0" + bytes(8)]
    for module in source.modules():
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            own = (module.bias, module.weight, module.running_mean, module.running_var, conv.weight)
            parts += [tensor.detach().numpy().astype("<f4").tobytes() for tensor in own]  # type: ignore[union-attr]
    (tmp_path / "a.conv.9").write_bytes(b"".join(parts))
    task = TransferClassifier(["a", "b", "c"], backbone="test_resnet", weights=str(tmp_path / "a.conv.9")).eval()
    assert (task.preprocess.mean, task.preprocess.std) == ((0.0,) * 3, (1.0,) * 3)
    assert {m.negative_slope for m in task.modules() if isinstance(m, nn.LeakyReLU)} == {0.1}
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = source.eval().forward_features(images)  # type: ignore[operator]
        torch.testing.assert_close(task.network.forward_features(images), expected)  # type: ignore[operator]
    assert task.hparams["backbone_args"] == {"slope": 0.1}
    again = TransferClassifier(["a", "b", "c"], backbone="test_resnet", backbone_args={"slope": 0.1})
    assert {m.negative_slope for m in again.modules() if isinstance(m, nn.LeakyReLU)} == {0.1}
