"""Results of `lit-vision predict -c experiment.yaml`: the same files as for pictures of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from torch import distributed

from lit_vision.data.base import VisionDataModule
from lit_vision.object_files import LabelMapKind
from lit_vision.results import Results, licence_note, result_names


class PredictionFiles(pl.Callback):
    """Writes every prediction to <run folder>/predict, see `lit_vision.results.Results`, in the data set's order.

    With several processes, rank 0 collects each batch from all and writes.

    Args:
        folder: name of the folder in the run folder.
        label_maps: "png" or "tiff" (16 bits both) for instances; null = png.
    """

    def __init__(self, folder: str = "predict", label_maps: LabelMapKind | None = None) -> None:
        self.folder, self.label_maps = folder, label_maps
        self._results: Results | None = None
        self._names: list[str] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the files."""
        if trainer.is_global_zero:
            data, task = _datamodule(trainer), cast(Any, pl_module)
            self._names = result_names(data.index.files.texts())
            threshold = task.threshold if getattr(task, "multi_label", False) else None
            path = Path(trainer.default_root_dir) / self.folder
            self._results = Results(path, data.task, task.class_names, threshold, self.label_maps)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Writes a batch."""
        data = _datamodule(trainer)
        for i, prediction in _from_all(trainer, batch["index"].tolist(), outputs):
            if i >= 0 and self._results is not None:  # below 0: it only fills up a process's share
                self._results.write(data.index.path(i), self._names[i], data.picture_of(i), prediction)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends the files and says where they are."""
        if self._results is not None:
            self._results.close()
            rank_zero_info(f"predicted {self._results.count} pictures: {self._results.folder}")
            if licence := getattr(pl_module, "licence", None):
                rank_zero_info(licence_note(licence))
            self._results = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """What was predicted until then stays readable."""
        if self._results is not None:
            self._results.close()
            self._results = None


def _datamodule(trainer: pl.Trainer) -> VisionDataModule:
    return cast(VisionDataModule, cast(Any, trainer).datamodule)


def _from_all(trainer: pl.Trainer, indices: Sequence[int], outputs: Sequence[Any]) -> list[tuple[int, Any]]:
    """(index, prediction) of a batch of all processes in the data set's order; empty on all but rank 0."""
    own = list(zip(indices, outputs, strict=True))
    if trainer.world_size == 1:
        return own
    own = [(i, {key: value.cpu() for key, value in prediction.items()}) for i, prediction in own]
    gathered: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    distributed.gather_object(own, gathered)
    return sorted((pair for part in gathered or [] for pair in part), key=lambda pair: pair[0])
