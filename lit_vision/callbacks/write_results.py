"""Predictions of `lit-vision predict -c ...`, written as they come: no more than one batch is in memory."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.data.base import VisionDataModule
from lit_vision.data.decode import read_image
from lit_vision.errors import UserError
from lit_vision.results import Results, result_names
from lit_vision.tasks.base import without_padding


class WriteResults(pl.Callback):
    """Annotated pictures and machine-readable results of the data module's test split; see `results.Results`.

    Args:
        folder: where the files go; each further process writes to a folder of its own inside, rank1, rank2 ...
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._results: Results | None = None
        self._names: list[str] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the result files."""
        data = _data(trainer)
        rank = trainer.global_rank
        folder = Path(trainer.strategy.broadcast(str(self.folder))) / (f"rank{rank}" if rank else "")
        several = getattr(pl_module, "threshold", None) if getattr(pl_module, "multi_label", False) else None
        self._results = Results(folder, data.task, data.class_names, several)
        self._names = result_names(data.index.files.texts())

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Writes the predictions of a batch."""
        data = _data(trainer)
        assert self._results is not None
        for i, prediction in zip(without_padding(batch)["index"].tolist(), outputs, strict=True):
            path = data.index.path(i)
            image = read_image(path, data.in_channels, data.depth)
            self._results.write(path, self._names[i], image, prediction)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the result files."""
        assert self._results is not None
        self._results.close()
        rank_zero_info(f"predicted {self._results.count} pictures: {self.folder}")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keeps what has been predicted so far."""
        if self._results is not None:
            self._results.close()


def _data(trainer: pl.Trainer) -> VisionDataModule:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, VisionDataModule):
        raise UserError("predict needs a data module; for pictures alone use --images")
    return data
