"""The smallest task and data module that keep the contracts: for tests of the command line."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lit_vision.data.base import VisionDataModule
from lit_vision.errors import UserError
from lit_vision.tasks.base import VisionTask


class Toy(VisionTask):
    """A linear classifier of one-pixel pictures."""

    def __init__(
        self,
        backbone: str = "linear",
        width: int = 4,
        mode: Literal["plain", "fancy"] = "plain",
        dropout: float = 0.0,
        loss: nn.Module | None = None,
        pretrained: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if backbone == "missing":
            raise UserError("model.backbone: no network is called 'missing'")
        if backbone == "broken":
            raise RuntimeError("Unknown model (broken)")
        self.dropout, self.pretrained = dropout, pretrained
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(3, width), nn.Linear(width, self.num_classes))
        self.loss = loss or nn.CrossEntropyLoss()
        self.save_hyperparameters({"class_names": self.class_names, "width": width, "dropout": dropout})

    @property
    def backbones(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image.float())

    def _log_loss(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        loss: Tensor = self.loss(self(batch["image"]), batch["label"])
        self.log(f"{stage}/loss", loss, batch_size=len(batch["image"]), sync_dist=stage != "train")
        return loss

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._log_loss(batch, "train")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, Tensor]]:
        self._log_loss(batch, "val")
        return self.predict_step(batch, batch_idx)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, Tensor]]:
        self._log_loss(batch, "test")
        return self.predict_step(batch, batch_idx)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, Tensor]]:
        return [{"probabilities": row} for row in self(batch["image"]).float().softmax(1)]

    def _log_metrics(self, stage: str) -> None: ...

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


class OtherToy(Toy):
    """Another task with the same weights."""

    def __init__(self, class_names: list[str], width: int = 4) -> None:
        super().__init__(class_names=class_names, width=width)


class ToyPixels(Dataset[dict[str, Any]]):
    """Eight pictures of one pixel; class 1 is brighter."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict[str, Any]:
        label = i % 2
        return {"image": torch.full((3, 1, 1), 10 * i + 100 * label, dtype=torch.uint8), "label": label, "index": i}


class ToyData(VisionDataModule):
    """Two classes, dark and bright."""

    task = "classification"
    made: ClassVar[int] = 0

    def __init__(self, root: str, batch_size: int = 2) -> None:
        super().__init__(root=root, batch_size=batch_size, num_workers=0)
        ToyData.made += 1

    @property
    def class_names(self) -> list[str]:
        return ["dark", "bright"]

    def _toy_loader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(ToyPixels(), batch_size=self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = _toy_loader  # type: ignore[assignment]
