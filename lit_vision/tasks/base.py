"""What all tasks share: freezing, parameter groups, evaluation over the whole set, what a checkpoint carries."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import pytorch_lightning as pl
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import AdamW
from torchmetrics import Metric

from lit_vision.data.dataset import without_padding
from lit_vision.errors import UserError
from lit_vision.networks.freezing import freeze_parameters, frozen_parameters, norms_of
from lit_vision.networks.preprocess import Preprocess, interleave
from lit_vision.networks.sharding import blocks
from lit_vision.networks.stages import Stages, divide
from lit_vision.ops.tiles import check_tiles, refuse_cropped
from lit_vision.tasks.checkpoint_facts import refuse_other_count, refuse_other_task, say_differences, shown_classes
from lit_vision.tasks.optimization import (
    WARMUP,
    as_channels_last,
    check_optimization,
    fuse,
    parameter_groups,
    row_major,
    scale_learning_rates,
    warmup_cosine,
)
from lit_vision.tasks.schedules import chosen_schedule
from lit_vision.types import Batch, UInt8Array

CHECKPOINT_VERSION = 1
Freeze = str | int | list[str]


class VisionTask(pl.LightningModule):
    """A network with its loss, metrics and predictions.

    A subclass builds its networks and metrics in `__init__`, names its pretrained parts in `backbones`, and writes
    `forward`, `training_step`, `_evaluate` and `predict_step`. Everything that it needs to be rebuilt for prediction
    goes through `save_hyperparameters({...})` as plain values, so that checkpoints load with weights_only=True.

    Args:
        class_names: K names; a label or mask value is a position in it. Comes from the data on the command line.
        optimizer: makes the optimizer from the parameter groups.
        scheduler: makes the scheduler from the optimizer; null = warm-up and cosine over the whole run, per step.
        scheduler_interval: step your own scheduler every "epoch" or every "step".
        warmup: share of the run in which the default scheduler warms up; your own has no other warm-up than its own.
        lr_decay: factor on the learning rate for each stage farther from the head.
        freeze: what does not train: "backbone", a number of stages counted from the input, or regular expressions
            on parameter names. Normalisation layers inside stay in evaluation mode.
        channels_last: memory format of network and batch; faster on CPUs and tensor cores.
        compile: torch.compile the networks (minutes on a CPU without gain; for GPUs).
        num_classes: only compared with the data, where you want to be sure; K follows from class_names.
        tile: `predict` cuts pictures into tiles of this side, pixels of the original, brings each to the network's
            input as a picture of its own, and joins the results; null = the whole picture at once.
        tile_overlap: smallest share of their side that neighbouring tiles have in common.
    """

    monitor: str = "val/loss"  # an instance may choose another, as for several labels
    monitor_mode: ClassVar[str] = "min"
    # bf16-mixed becomes the default on processors that gain only where equal accuracy has been shown.
    bf16_shown: ClassVar[bool] = False
    trains: ClassVar[bool] = True  # False: there is no fit, and validate, test and predict need no checkpoint
    licence: str | None = None  # of the weights that training started from, see networks/licences.py
    start_from: str | None = None  # the checkpoint whose weights they are

    preprocess: Preprocess
    metrics: nn.ModuleDict  # "val" and "test" -> Metric whose compute() gives {name: scalar}

    def __init__(
        self,
        class_names: Sequence[str],
        optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-3, weight_decay=0.05),
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: str = "epoch",
        warmup: float = WARMUP,
        lr_decay: float = 1.0,
        freeze: Freeze | None = None,
        channels_last: bool = True,
        compile: bool = False,
        num_classes: int | None = None,
        tile: int | None = None,
        tile_overlap: float = 0.25,
    ) -> None:
        super().__init__()
        has_tiles = type(self).predict_whole is not VisionTask.predict_whole
        if tile is not None and not has_tiles:
            raise UserError(f"model.tile is {tile}, but a {type(self).__name__} does not work in tiles: leave it out")
        check_tiles(tile, tile_overlap)
        check_optimization(warmup, lr_decay, scheduler_interval, scheduler is not None)
        if not class_names:
            raise UserError("model.class_names is empty: give at least one class name")
        if num_classes not in (None, len(class_names)):
            raise UserError(
                f"model.num_classes is {num_classes}, but the data has {len(class_names)} classes "
                f"{shown_classes(class_names)}: leave it out, it comes from the data"
            )
        self.class_names = list(class_names)
        self.optimizer, self.scheduler, self.scheduler_interval = optimizer, scheduler, scheduler_interval
        self.warmup, self.lr_decay, self.freezing = warmup, lr_decay, freeze
        self.channels_last, self.compiled = channels_last, compile
        self.tile, self.tile_overlap = tile, tile_overlap
        self.data: dict[str, Any] = {}
        self.held_norms: list[str] = []  # of frozen stages: they stay in evaluation mode
        self.stages: Stages | None = None  # what thaws together, where a callback divides the backbones otherwise
        tiling = {"tile": tile, "tile_overlap": tile_overlap} if has_tiles else {}
        self.save_hyperparameters({"class_names": self.class_names, **tiling})

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def backbones(self) -> dict[str, nn.Module]:
        """Name of each pretrained part within this module -> the part; what lies outside is the head."""
        raise NotImplementedError

    @property
    def untrained(self) -> list[str]:
        """Names of the backbones that begin with random weights."""
        return [] if self.licence or self.start_from else list(self.backbones)

    def adapt_to(self, datamodule: Any) -> None:
        """Takes from the data what a task can only know from it; before callbacks read `monitor`, and in `setup`."""

    # --- set-up -------------------------------------------------------------------------------------------------
    def setup(self, stage: str) -> None:
        """Freezes (before DDP wraps the module), sets the memory format, compiles; remembers the data's facts."""
        self.data = self._preprocessing() or self.data
        if stage == "fit":
            data = getattr(self._trainer, "datamodule", None)
            refuse_other_count(self.class_names, getattr(data, "class_names", None))
        if self.tile is not None and stage != "validate":
            refuse_cropped(self.tile, self.data.get("fit"))  # in a fit, too: what follows it could not be done
        if stage == "fit" and self.freezing is not None:
            self._freeze(self.freezing)
        if self.channels_last and self.device_mesh is None:  # FSDP2 divides contiguous parameters only
            as_channels_last(self)
        if self.compiled:
            for child in self.children():
                if next(child.parameters(), None) is not None:  # losses and metrics only break the graph
                    child.compile()

    def _preprocessing(self) -> dict[str, Any] | None:
        """That of the pictures that the Trainer feeds; None where there is no Trainer or no data module of ours."""
        found = getattr(getattr(self._trainer, "datamodule", None), "preprocessing", None)
        return None if found is None else dict(found)

    def configure_model(self) -> None:
        """Under ModelParallelStrategy (FSDP2): each block of a backbone is divided by itself, then all the rest."""
        mesh = self.device_mesh
        if mesh is None or isinstance(self, FSDPModule):
            return
        for block in (block for backbone in self.backbones.values() for block in blocks(backbone)):
            fully_shard(block, mesh=mesh["data_parallel"])
        fully_shard(self, mesh=mesh["data_parallel"])

    def _kind(self) -> type:
        """The task's class; FSDP2 has put one of its own in front of it."""
        return next(one for one in type(self).__mro__ if not issubclass(one, FSDPModule))

    def _freeze(self, spec: Freeze) -> None:
        for prefix, backbone in self.backbones.items():
            names = frozen_parameters(backbone, spec)
            freeze_parameters(backbone, names)
            self.held_norms += [f"{prefix}.{name}" for name in norms_of(backbone, names)]
        self.train(self.training)
        # Lightning warns of every module in evaluation mode; these are meant to be.
        still = sum(1 for name in self.held_norms for _ in self.get_submodule(name).modules())
        warnings.filterwarnings("ignore", rf"Found {still} module\(s\) in eval mode")

    def train(self, mode: bool = True) -> "VisionTask":
        """As usual, but the normalisation layers of frozen stages keep their statistics."""
        super().train(mode)
        for name in self.held_norms:
            self.get_submodule(name).eval()
        return self

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Puts the pictures into the network's memory format; features that stand for them are as they must be."""
        pictures = isinstance(batch, dict) and isinstance(batch["image"], Tensor)
        if self.channels_last and pictures and batch["image"].ndim == 4:
            batch["image"] = interleave(batch["image"])
        return batch

    # --- optimisation -------------------------------------------------------------------------------------------
    def configure_optimizers(self) -> Any:
        """Head first, then one group per stage; learning rates fall by lr_decay with the distance from the head."""
        stages = self.stages or divide(self.backbones, module=self)
        optimizer = self.optimizer(self.grouped(stages))
        scale_learning_rates(optimizer)
        fuse(optimizer)
        if self.scheduler is None:
            default = warmup_cosine(optimizer, self.total_steps, self.warmup)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": default, "interval": "step"}}
        return {"optimizer": optimizer, "lr_scheduler": chosen_schedule(self, optimizer, self.scheduler)}

    def grouped(self, stages: Stages) -> list[dict[str, Any]]:
        """The optimizer's parameter groups; a task with several networks may give them rates of their own."""
        return parameter_groups(self, stages, self.lr_decay)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run.

        Raises:
            UserError: the run has no planned end.
        """
        # Lightning makes the training loader for this, before a checkpoint's progress is restored; ours begins later.
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise UserError("the default scheduler needs the length of the run: set trainer.max_epochs or max_steps")
        return int(steps)

    # --- evaluation ---------------------------------------------------------------------------------------------
    def _evaluate(self, batch: Any, metrics: Metric, stage: str) -> Sequence[Mapping[str, object]]:
        """Updates the metrics with a batch, logs `<stage>/loss`, and gives one prediction per image."""
        raise NotImplementedError

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        """One batch of the validation split: a prediction per image, for callbacks to draw."""
        return self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Any:
        """One batch of the test split: a prediction per image, for callbacks to draw."""
        return self._step(batch, "test")

    def _step(self, batch: Batch, stage: str) -> Sequence[Mapping[str, object]]:
        batch = without_padding(batch)
        if len(batch["index"]) == 0:
            return []
        return self._evaluate(batch, cast(Metric, self.metrics[stage]), stage)

    def predict_whole(self, image: UInt8Array) -> Mapping[str, Any]:
        """The prediction of one picture (H, W, C) in tiles, in its own pixels; for tasks that have tiles."""
        raise NotImplementedError

    def on_validation_epoch_end(self) -> None:
        """Metrics over the whole validation split."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Metrics over the whole test split."""
        self._log_metrics("test")

    def _log_metrics(self, stage: str) -> None:
        metric = cast(Metric, self.metrics[stage])
        values: Mapping[str, Tensor] = metric.compute()
        metric.reset()
        main = self.monitor.split("/", 1)[1]
        self.log_dict({f"{stage}/{key}": value for key, value in values.items() if key != main})
        if main in values:
            self.log(f"{stage}/{main}", values[main], prog_bar=True)

    def log_loss(self, stage: str, loss: Tensor, size: int) -> None:
        """Logs a loss: the mean over images and processes, of a training rank 0's."""
        training = stage == "train"
        weight = self.weight(stage, size)
        self.log(f"{stage}/loss", loss.detach(), prog_bar=training, batch_size=weight, sync_dist=not training)

    def weight(self, stage: str, size: int) -> int:
        """What a batch of `size` images counts in a mean over images and processes.

        Lightning averages the processes' counts as whole numbers and drops the rest: 5 and 4 images would count 4 each.
        """
        processes = getattr(self._trainer, "world_size", 1)  # without a Trainer there is one
        return size if stage == "train" else size * processes

    # --- checkpoints --------------------------------------------------------------------------------------------
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what prediction needs: task, classes, preprocessing (plain values); weights are in row-major order."""
        checkpoint["state_dict"] = row_major(checkpoint["state_dict"])
        checkpoint["lit_vision"] = {
            "version": CHECKPOINT_VERSION,
            "task": self._kind().__name__,
            "class_path": f"{self._kind().__module__}.{self._kind().__qualname__}",
            "class_names": self.class_names,
            "licence": self.licence,
            "data": self.data,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another task or of other classes; how pictures are prepared, the data decides."""
        facts = refuse_other_task(checkpoint.get("lit_vision"), self._kind().__name__, self.class_names)
        self.data = self._preprocessing() or dict(facts["data"])
        say_differences(checkpoint, self.data, self.hparams)
        self.licence = facts.get("licence")
