"""Pictures of a run: the first training batch as the network sees it, and predictions beside the truth."""

from collections.abc import Mapping, Sequence, Sized
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from lit_vision.charts import confusion_matrix, precision_recall
from lit_vision.data.dataset import without_padding
from lit_vision.drawing import alone, draw_guess, draw_truth
from lit_vision.errors import UserError
from lit_vision.metrics.operating_points import curves
from lit_vision.plotting import grid, reduced, write_picture
from lit_vision.types import Batch, UInt8Array

PICTURES_PER_RUN = 10
GOLDEN = 0.6180339887  # its multiples, without their whole part, fill 0..1 evenly and never take turns


class Pictures(pl.Callback):
    """Writes to <run folder>/pictures, on rank 0, and hands the same files to W&B where it is in use.

    - first_batch.jpg, before the first step: pictures after augmentation with their labels drawn. Look at it first.
    - val_epoch_003.jpg: for images spread over the validation split, the truth and right of it the prediction. They
      are the same ones in every epoch, and with several processes of the part that rank 0 evaluates.
    - test.jpg, and val.jpg of `lit-vision validate`: likewise.
    - confusion_val.png, confusion_test.png: of pictures or pixels in one class each, or of boxes and background, of the
      validation drawn last and of the test.
    - precision_recall_val.png, precision_recall_test.png: of a detector, likewise.

    Args:
        images: pictures drawn from each set.
        every_n_epochs: epochs between pictures of the validation; null = about ten in a run.
    """

    def __init__(self, images: int = 8, every_n_epochs: int | None = None) -> None:
        if images < 1 or (every_n_epochs is not None and every_n_epochs < 1):
            raise UserError(f"Pictures takes images and every_n_epochs from 1, got {images} and {every_n_epochs}")
        self.images, self.every_n_epochs = images, every_n_epochs
        self._forget()

    def _forget(self) -> None:
        self._drawn: list[UInt8Array] = []
        self._seen = 0  # images of the running evaluation, on this process

    # --- training -----------------------------------------------------------------------------------------------
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        """Draws the first batch, which is at hand, before the first step is made with it."""
        path = _folder(trainer) / "first_batch.jpg"
        resumed = trainer.global_step > 0 and path.exists()
        if i == 0 and _draws(trainer) and not resumed:
            count = min(2 * self.images, len(batch["image"]))
            pictures = [draw_truth(batch, k, _names(pl_module)) for k in range(count)]
            _save(trainer, path, grid(pictures))

    # --- validation and test ------------------------------------------------------------------------------------
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the last epoch's pictures."""
        self._forget()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the validation's pictures."""
        self._forget()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Draws those of the batch that were chosen."""
        if not trainer.sanity_checking and self._is_due(trainer):
            self._add(trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Draws those of the batch that were chosen."""
        self._add(trainer, pl_module, outputs, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the validation's pictures and confusion matrix."""
        fitting = trainer.state.fn == "fit"
        self._finish(trainer, pl_module, "val", f"val_epoch_{trainer.current_epoch:03d}" if fitting else "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the test's pictures and confusion matrix."""
        self._finish(trainer, pl_module, "test", "test")

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if trainer.state.fn != "fit":
            return True
        epochs = trainer.max_epochs or -1
        every = self.every_n_epochs or max(1, round(epochs / PICTURES_PER_RUN))
        return trainer.current_epoch % every == 0 or trainer.current_epoch == epochs - 1

    def _add(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        if not _draws(trainer):
            return
        chosen = spread(_own_images(trainer, self.images), self.images)
        real = cast(Mapping[str, Any], without_padding(cast(Batch, batch)))  # predictions leave the padding out, too
        for i, prediction in enumerate(outputs):
            if self._seen + i in chosen:
                names = _names(pl_module)
                one, guess = alone(real, i, prediction)
                self._drawn += [reduced(draw_truth(one, 0, names)), reduced(draw_guess(one, 0, guess, names))]
        self._seen += len(outputs)

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str, name: str) -> None:
        due = stage == "test" or self._is_due(trainer)  # drawing takes a second, epochs of a cached head take less
        if trainer.sanity_checking or not _draws(trainer) or not due:
            return
        if self._drawn:
            _save(trainer, _folder(trainer) / f"{name}.jpg", grid(self._drawn), stage)
            self._drawn = []
        for kind, picture in _charts(pl_module, stage).items():
            _save(trainer, _folder(trainer) / f"{kind}_{stage}.png", picture)


def spread(count: int, wanted: int) -> set[int]:
    """Positions among `count`, one from each of `wanted` equal stretches: in the order of folders, of every class.

    The place within its stretch varies, since steps of one length would meet a single class where classes take turns.
    """
    stretches = pairwise(k * count // wanted for k in range(wanted + 1))
    return {low + int(k * GOLDEN % 1 * (high - low)) for k, (low, high) in enumerate(stretches) if high > low}


def _own_images(trainer: pl.Trainer, wanted: int) -> int:
    """How many images of the running evaluation come to this process; `wanted` where no loader can tell."""
    testing = trainer.state.fn == "test"
    loaders: Any = trainer.test_dataloaders if testing else trainer.val_dataloaders
    batches = trainer.num_test_batches if testing else trainer.num_val_batches
    loader = loaders[0] if isinstance(loaders, list) else loaders
    if not isinstance(loader.dataset, Sized):
        return wanted
    share = -(-len(loader.dataset) // trainer.world_size)
    return int(min(share, batches[0] * (loader.batch_size or share)))


def _draws(trainer: pl.Trainer) -> bool:
    return trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False)


def _folder(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "pictures"


def _names(pl_module: pl.LightningModule) -> Sequence[str]:
    return cast(Sequence[str], pl_module.class_names)


def _charts(pl_module: pl.LightningModule, stage: str) -> dict[str, UInt8Array]:
    """What the stage's last metrics can show; no confusion matrix for several labels per picture."""
    names = list(_names(pl_module))
    metric: Any = dict(getattr(pl_module, "metrics", {}).items()).get(stage)
    charts = {}
    counts = getattr(metric, "confusion", None)
    if counts is not None and counts.ndim == 2:
        shown = names if len(counts) == len(names) else [*names, "background"]
        charts["confusion"] = confusion_matrix(counts.cpu().numpy(), shown)
    scored = getattr(metric, "scored", None)
    if scored is not None and scored.objects.any():
        found = {name: curve for name, curve in zip(names, curves(scored), strict=True) if curve is not None}
        thresholds = dict(zip(names, metric.points.thresholds.tolist(), strict=True))
        charts["precision_recall"] = precision_recall(found, thresholds)
    return charts


def _save(trainer: pl.Trainer, path: Path, picture: UInt8Array, key: str | None = None) -> None:
    write_picture(path, picture)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"pictures/{key or path.stem}", [str(path)])
