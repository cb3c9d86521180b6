"""What a test leaves behind of each picture, for `lit-vision compare`."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
from torch import distributed

from lit_vision.data.base import VisionDataModule
from lit_vision.data.fingerprint import fingerprints
from lit_vision.metrics.per_image import Arrays, chosen, joined
from lit_vision.runs.evidence import NAME, Evidence
from lit_vision.types import SPLITS

STAGES = {"test": "test", "validate": "val"}  # commands that leave something, and the metrics that they use


class PerImage(pl.Callback):
    """Writes <run folder>/test/per_image.npz (or validate/): names, labels and counts of every picture.

    From these the metrics of any of the pictures can be computed exactly. With several processes, rank 0 collects from
    all and writes. A task of one's own leaves nothing unless its metrics have `per_image`.
    """

    def __init__(self) -> None:
        self._seen: list[int] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Asks the metrics to keep what they see."""
        self._start(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Asks the metrics to keep what they see."""
        self._start(trainer, pl_module)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, out: Any, batch: Any, *_: Any
    ) -> None:
        """Notes which pictures the batch had."""
        self._note(batch)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, out: Any, batch: Any, *_: Any
    ) -> None:
        """Notes which pictures the batch had."""
        self._note(batch)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes, before the task computes its metrics and forgets."""
        self._end(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes, before the task computes its metrics and forgets."""
        self._end(trainer, pl_module)

    # ------------------------------------------------------------------------------------------------------------
    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seen = []
        metric = _metric(trainer, pl_module)
        if hasattr(metric, "keeps_images"):
            metric.keeps_images = True

    def _note(self, batch: Any) -> None:
        self._seen += [i for i in batch["index"].tolist() if i >= 0]  # below 0: it only fills up a process's share

    def _end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metric = _metric(trainer, pl_module)
        if metric is None:
            return
        own: Arrays = {"index": np.array(self._seen, np.int64), **metric.per_image()}
        if hasattr(metric, "keeps_images"):
            metric.keeps_images = False
        parts = _gathered(trainer, own)
        if parts:
            _evidence(trainer, pl_module, joined(parts)).write(
                Path(trainer.default_root_dir) / str(cast(Any, trainer.state.fn).value) / NAME
            )


def _metric(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
    """The metric of the running evaluation; None where nothing is to be kept of it."""
    stage = STAGES.get(str(getattr(trainer.state.fn, "value", "")))
    metrics = getattr(pl_module, "metrics", {})
    if stage is None or stage not in metrics or getattr(trainer, "fast_dev_run", False):
        return None
    data = getattr(trainer, "datamodule", None)
    return metrics[stage] if hasattr(metrics[stage], "per_image") and isinstance(data, VisionDataModule) else None


def _gathered(trainer: pl.Trainer, own: Arrays) -> list[Arrays]:
    """The parts of all processes on rank 0; none on the others."""
    if trainer.world_size == 1:
        return [own]
    parts: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    distributed.gather_object(own, parts)
    return parts or []


def _evidence(trainer: pl.Trainer, pl_module: pl.LightningModule, arrays: Arrays) -> Evidence:
    """Every picture once, in the data set's order."""
    data, task = cast(VisionDataModule, cast(Any, trainer).datamodule), cast(Any, pl_module)
    index, first = np.unique(arrays["index"], return_index=True)
    splits = [SPLITS[split] for split in np.unique(data.index.splits[index]).tolist() if split >= 0]
    facts = {
        "checkpoint": str(trainer.ckpt_path or ""),
        "image_size": list(data.image_size),
        "split": "+".join(splits),  # a test without a test split sees the validation split
    }
    return Evidence(
        kind="multi_label" if "targets" in arrays else data.task,
        metric=task.monitor.partition("/")[2],
        class_names=list(task.class_names),
        files=[data.name_of(i) for i in index.tolist()],
        labels=fingerprints(data.index, index.tolist()),
        arrays=chosen(arrays, first.astype(np.int64)),
        facts=facts,
    )
