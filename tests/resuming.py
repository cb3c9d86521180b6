"""A training of eighteen steps that is cut and continued, and a hash of all that it leaves."""

import csv
import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import Dataset

from lit_vision.callbacks.boundaries import Boundaries
from lit_vision.callbacks.checkpointing import RunCheckpoints
from lit_vision.callbacks.seeding import StepSeeds
from lit_vision.data.base import VisionDataModule
from lit_vision.ops.mixing import Mixing
from lit_vision.runs.checkpoints import AtomicCheckpointIO, read_header
from lit_vision.runs.loggers import RunCSVLogger
from lit_vision.tasks.base import VisionTask

TRAIN, VAL, BATCH, EPOCHS = 26, 10, 4, 3
STEPS = TRAIN // BATCH * EPOCHS  # 18


class Numbers(Dataset[Any]):
    """Pictures of noise; augmented ones are a function of (epoch, image), or else of the worker's own generator."""

    def __init__(self, length: int, augmented: bool, careless: bool) -> None:
        self.length, self.augmented, self.careless = length, augmented, careless

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Any) -> dict[str, Any]:
        epoch, i = key if isinstance(key, tuple) else (0, key)
        image = np.random.default_rng(i).integers(0, 200, (3, 4, 4))
        if self.augmented:
            drawn = int(torch.randint(50, ())) if self.careless else np.random.default_rng((epoch, i)).integers(50)
            image = image + drawn
        return {"image": torch.tensor(image, dtype=torch.uint8), "label": i % 3, "index": i}


class NumberData(VisionDataModule):
    """The loaders are VisionDataModule's own."""

    task = "classification"

    def __init__(
        self,
        root: str = ".",
        careless: bool = False,
        length: int = TRAIN,
        batch_size: int = BATCH,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(root=root, batch_size=batch_size, num_workers=num_workers, **options)
        self.careless, self.length = careless, length

    @property
    def class_names(self) -> list[str]:
        return ["a", "b", "c"]

    def dataset(self, split: str, augmented: bool = False) -> Any:
        return Numbers(self.length if split == "train" else VAL, augmented, self.careless)


class Small(VisionTask):
    """Convolution, normalisation, dropout, a linear layer; mixup where asked for."""

    def __init__(self, class_names: Sequence[str], dropout: float = 0.0, mixup: float = 0.0, **training: Any) -> None:
        super().__init__(class_names, **training)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(dropout))
            self.head = nn.Linear(6, 3)
        self.mixing = Mixing(mixup, 0.0)

    @property
    def backbones(self) -> dict[str, nn.Module]:
        return {"body": self.body}

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image.float() / 255).mean((2, 3)))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        image, label = self.mixing(batch["image"].float(), F.one_hot(batch["label"], 3).float())
        loss = F.cross_entropy(self(image), label)
        self.log("train/loss", loss)
        self.log("train/mean", loss, on_step=False, on_epoch=True)
        self.log("train/worst", loss, on_step=False, on_epoch=True, reduce_fx=torch.max)
        self.log("train/total", loss, on_step=False, on_epoch=True, reduce_fx=torch.sum)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, Tensor]]:
        logits = self(batch["image"])
        self.log("val/loss", F.cross_entropy(logits, batch["label"]), sync_dist=True)
        return [{"probabilities": row} for row in logits.float().softmax(1)]

    def _log_metrics(self, stage: str) -> None: ...


class Other(Small):
    """Another task with the same network."""


class CutOffError(Exception):
    """As a kill, but in a process that goes on."""


class Cut(Callback):
    """Ends the run at the end of a step; what follows from the step does not happen."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise CutOffError


class Send(Callback):
    """Sends a signal once, in a hook, as soon as so many steps are done.

    Args:
        number: of the signal; 15 is SIGTERM, 9 SIGKILL.
        hook: name of the hook.
        step: optimizer steps that are done by then.
        group: to the whole process group, loader's workers included, or to this process alone.
        rank: process that sends it.
    """

    def __init__(self, number: int, hook: str, step: int = 0, group: bool = False, rank: int = 0) -> None:
        self.number, self.step, self.group, self.rank = number, step, group, rank
        setattr(self, hook, self._send)

    def _send(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step >= self.step and trainer.global_rank == self.rank and self.number:
            number, self.number = self.number, 0
            os.killpg(0, number) if self.group else os.kill(os.getpid(), number)


@dataclass(frozen=True)
class Case:
    """What a training is made of.

    Args:
        model: options of Small.
        data: options of NumberData.
        trainer: options of the Trainer.
        callbacks: makes further callbacks, new ones for each process.
        checkpoints: options of RunCheckpoints.
        later: options of NumberData that change when the run is continued.
        first: makes the callbacks that come first.
    """

    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Callback]] = list
    checkpoints: dict[str, Any] = field(default_factory=dict)
    later: dict[str, Any] = field(default_factory=dict)
    first: Callable[[], list[Callback]] = lambda: [StepSeeds(0), Boundaries()]

    def but(self, **changes: Any) -> "Case":
        return replace(self, **changes)


def train(folder: Path, case: Case, cut: int | None = None, resume: Path | None = None) -> pl.Trainer:
    """One process's part of a run; ends at `cut` without an error."""
    torch.manual_seed(0 if resume is None else 12345)  # nothing may depend on what the new process happens to draw
    data = NumberData(**{**case.data, **(case.later if resume else {})})
    callbacks = [*case.first(), *case.callbacks()]
    if any(isinstance(one, Boundaries) for one in callbacks):
        callbacks.append(RunCheckpoints(**case.checkpoints))
    options = {"max_epochs": EPOCHS, "log_every_n_steps": 1, "use_distributed_sampler": False, **case.trainer}
    trainer = pl.Trainer(
        default_root_dir=folder,
        callbacks=[*callbacks, *([Cut(cut)] if cut else [])],
        logger=RunCSVLogger(folder, read_header(resume)["logged"] if resume else None),
        plugins=[AtomicCheckpointIO()],
        accelerator="cpu",
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    module = Small("abc", **{"optimizer": lambda groups: AdamW(groups, lr=0.02), **case.model})
    with suppress(CutOffError):
        trainer.fit(module, datamodule=data, ckpt_path=resume)
    return trainer


def cut_and_continued(folder: Path, case: Case, cut: int) -> pl.Trainer:
    """The training that was cut after a step and continued by new objects from last.ckpt."""
    train(folder, case, cut=cut)
    return train(folder, case, resume=folder / "checkpoints" / "last.ckpt")


def digest(trainer: pl.Trainer) -> dict[str, Any]:
    """Hashes of weights, optimizer and schedules, the progress, and all rows of metrics.csv."""
    parts = {"weights": trainer.lightning_module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
    parts["schedule"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    found: dict[str, Any] = {name: hash_of(part) for name, part in parts.items()}
    found["progress"] = (trainer.current_epoch, trainer.global_step, trainer.fit_loop.epoch_loop._batches_that_stepped)
    found["rows"] = rows(Path(trainer.default_root_dir, "metrics.csv")) if trainer.is_global_zero else []
    return found


def left(folder: Path) -> dict[str, Any]:
    """What a run folder holds: hashes of its last checkpoint's parts, and the rows of metrics.csv."""
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    kept = {name: hash_of(saved[name]) for name in ("state_dict", "optimizer_states", "lr_schedulers")}
    return {**kept, "epoch": saved["epoch"], "step": saved["global_step"], "rows": rows(folder / "metrics.csv")}


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv without their empty cells."""
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def hash_of(part: Any) -> str:
    """sha256 over the bits of nested tensors and plain values."""
    total = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            total.update(value.detach().cpu().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                total.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for one in value:
                add(one)
        else:
            total.update(repr(value).encode())

    add(part)
    return total.hexdigest()[:16]


def sgd(groups: Any) -> SGD:
    return SGD(groups, lr=0.05, momentum=0.9)


EVERY_STEP = {"every_n_train_steps": 1}
CASES: dict[str, Case] = {
    "default schedule": Case(),
    "dropout": Case(model={"dropout": 0.5}),
    "mixup": Case(model={"mixup": 0.4}),
    "momentum": Case(model={"optimizer": sgd}),
    "workers": Case(data={"num_workers": 2}, model={"dropout": 0.5}),
    "0 to 2 workers": Case(later={"num_workers": 2}, model={"dropout": 0.5}),
    "EMA": Case(callbacks=lambda: [EMAWeightAveraging(decay=0.7)], model={"dropout": 0.5}),
    "OneCycle": Case(
        model={"scheduler": lambda o: OneCycleLR(o, 0.1, total_steps=STEPS), "scheduler_interval": "step"}
    ),
    "cosine": Case(model={"scheduler": lambda o: CosineAnnealingLR(o, 3)}),
    "plateau": Case(model={"scheduler": lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=0.9)}),
    "early stopping": Case(
        callbacks=lambda: [EarlyStopping("val/loss", patience=2, min_delta=9)], trainer={"max_epochs": 9}
    ),
    "accumulate 2": Case(trainer={"accumulate_grad_batches": 2}, model={"dropout": 0.5}),
    "clipping": Case(trainer={"gradient_clip_val": 0.1}),
    "validation twice an epoch": Case(trainer={"val_check_interval": 0.5}, model={"dropout": 0.5}),
    "validation every 4 steps": Case(trainer={"val_check_interval": 4, "check_val_every_n_epoch": None}),
    "max_steps": Case(trainer={"max_epochs": -1, "max_steps": 16}),
    "bf16": Case(trainer={"precision": "bf16-mixed"}, model={"dropout": 0.5}),
}
