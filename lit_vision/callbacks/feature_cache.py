"""Trains the head on features that were computed once, for as long as no stage of the backbone is open."""

from functools import partial
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.callbacks.feature_pass import Cachable
from lit_vision.callbacks.kept_features import KeptFeatures
from lit_vision.data.classification import ClassificationDataset
from lit_vision.data.feature_batches import LateImages
from lit_vision.data.loader import EpochLoader
from lit_vision.errors import UserError
from lit_vision.networks.stages import divide
from lit_vision.tasks.base import VisionTask
from lit_vision.types import Split


class FeatureCache(pl.Callback):
    """Computes the closed backbone's output for each picture once, and trains the head from it.

    Features lie in <run folder>/features, memory-mapped, and are deleted when a stage opens and when training ends; a
    run that was killed finds those it had. `TransferClassifier(cache_features=True)` brings this callback along.

    Args:
        views: how many random views of each picture take turns; epoch e shows what it would show without the cache as
            long as e < views, and after that what epoch e modulo `views` did. Without augmentation there is one.
    """

    def __init__(self, views: int = 4) -> None:
        self.views = views
        self.features: KeptFeatures
        self._was_closed = True

    # --- set-up -------------------------------------------------------------------------------------------------
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Divides the network, after whatever freezes it has done so.

        Raises:
            UserError: features cannot take the place of pictures in this run.
        """
        if type(trainer.strategy) is not DDPStrategy and not isinstance(trainer.strategy, SingleDeviceStrategy):
            name = type(trainer.strategy).__name__
            raise UserError(f"model.cache_features works on one device and with ddp, not with {name}: leave it out")
        task, cachable = cast(VisionTask, pl_module), cast(Cachable, pl_module)
        stages = task.stages or divide(task.backbones, module=task)
        staged = {name for names in (*stages.names, stages.never) for name in names}
        self._staged = [task.get_parameter(name) for name in sorted(staged)]
        head = {name for name, _ in cachable.network.named_parameters() if f"network.{name}" not in staged}
        self._was_closed = self.closed()
        if not self._was_closed and trainer.ckpt_path is None:
            raise UserError(
                "model.cache_features needs a backbone that does not train: set model.freeze: backbone, or open it "
                "later with the callback ProgressiveUnfreezing"
            )
        self.features = KeptFeatures(trainer, cachable, head, self.views, self.closed)
        cast(Any, task).parts = self.features.parts

    def closed(self) -> bool:
        """Whether no parameter of the backbone trains."""
        return not any(parameter.requires_grad for parameter in self._staged)

    # --- while it runs ------------------------------------------------------------------------------------------
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Also where an epoch is continued, which has no start."""
        self._attach(trainer, trainer.train_dataloader, "train")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The loader may be a new one."""
        self._attach(trainer, trainer.train_dataloader, "train")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._attach(trainer, trainer.val_dataloaders, "val")

    def _attach(self, trainer: pl.Trainer, loader: Any, split: Split) -> None:
        self._follow()
        own = isinstance(loader, EpochLoader) and loader.continuable  # overfit_batches puts in an order of its own
        if own and isinstance(loader.dataset, ClassificationDataset):
            loader.find_source = partial(self.features.source, loader, split)
        elif not self.features.given_up:
            self.features.give_up(f"the {split} split is not shown in the order of a ClassificationDataModule")

    def _follow(self) -> None:
        """Gives the space back as soon as a stage opens."""
        if self._was_closed and not self.closed():
            rank_zero_info("a stage of the backbone is open: training goes on from pictures")
            self.features.delete()
        self._was_closed = self.closed()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch of features that was fetched just before a stage opened becomes one of pictures."""
        self._follow()
        if not self._was_closed and isinstance(batch, dict) and "features" in batch:
            del batch["features"]
            images = cast(LateImages, batch["image"]).tensor()
            batch["image"] = trainer.strategy.batch_to_device({"image": images})["image"]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nobody needs the features any more."""
        self.features.delete()
