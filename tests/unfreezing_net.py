"""A network of three stages and a head, data that differ by process, and the same training written out by hand."""

import copy
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset

from lit_vision.networks.stages import divide
from lit_vision.tasks.optimization import parameter_groups, scale_learning_rates

STEPS = 4  # batches per epoch and process
BATCH = 4
LR = 0.05
MakeOptimizer = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=LR, momentum=0.9, weight_decay=0.01),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=LR / 10, weight_decay=0.05),
}


def block(width_in: int, width: int, dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(dropout)
    )


class Staged(pl.LightningModule):
    """conv-BN-ReLU three times, then a linear head."""

    monitor, monitor_mode = "val/loss", "min"

    def __init__(
        self, optimizer: str = "sgd", lr_decay: float = 1.0, dropout: float = 0.0, scheduler: Any = None
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.backbone = nn.Sequential(block(3, 6, dropout), block(6, 6, dropout), block(6, 6, dropout))
            self.head = nn.Linear(6, 3)
        self.optimizer, self.lr_decay, self.scheduler = optimizer, lr_decay, scheduler
        self.stages: Any = None

    @property
    def backbones(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone}

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).mean((2, 3)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]).float(), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]).float(), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        stages = self.stages or divide(self.backbones)
        optimizer = OPTIMIZERS[self.optimizer](parameter_groups(self, stages, self.lr_decay))
        scale_learning_rates(optimizer)
        return (
            optimizer if self.scheduler is None else {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}
        )


class OwnData(Staged):
    """Finds its pictures in the process that trains, wherever that was launched from."""

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(self.trainer.global_rank)


def data(rank: int, steps: int = STEPS) -> TensorDataset:
    """Other pictures for each process."""
    generator = torch.Generator().manual_seed(100 + rank)
    images = torch.randn(steps * BATCH, 3, 8, 8, generator=generator)
    return TensorDataset(images, torch.randint(0, 3, (len(images),), generator=generator))


def loader(rank: int, steps: int = STEPS) -> DataLoader[Any]:
    return DataLoader(data(rank, steps), batch_size=BATCH)


def trained_by_hand(
    module: Staged,
    opened: Callable[[int, int], int],
    epochs: int,
    rank: int,
    world_size: int = 1,
    accumulate: int = 1,
    clip: float | None = None,
    half: torch.dtype | None = None,
    scaler: GradScaler | None = None,
) -> Staged:
    """The same training without Lightning, DDP and our callback: gradients are summed by hand.

    Args:
        module: left as it is.
        opened: (epoch, optimizer step) -> number of open stages.
        epochs: of the run.
        rank: this process.
        world_size: number of processes.
        accumulate: batches per optimizer step.
        clip: largest norm of the gradient.
        half: type of autocast.
        scaler: of the gradients in float16.
    """
    module = copy.deepcopy(module)
    optimizer = OPTIMIZERS[module.optimizer](parameter_groups(module, divide(module.backbones), module.lr_decay))
    scale_learning_rates(optimizer)
    scaler, step = scaler or GradScaler("cpu", enabled=False), 0
    for epoch in range(epochs):
        for k, batch in enumerate(loader(rank)):
            if k % accumulate == 0:
                _open(module, opened(epoch, step))
                optimizer.zero_grad()
            with torch.autocast("cpu", half, enabled=half is not None):
                loss = nn.functional.cross_entropy(module(batch[0]).float(), batch[1]) / accumulate
            scaler.scale(loss).backward()
            if (k + 1) % accumulate == 0:
                _reduce(module, world_size)
                scaler.unscale_(optimizer)
                if clip is not None:
                    # in the optimizer's order, as Lightning does: a sum depends on it in its last bit
                    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
                scaler.step(optimizer)
                scaler.update()
                step += 1
    return module


def _open(module: Staged, opened: int) -> None:
    for depth, stage in enumerate(reversed(module.backbone)):
        stage.requires_grad_(depth < opened)
        stage.train(depth < opened)


def _reduce(module: nn.Module, world_size: int) -> None:
    for parameter in module.parameters():
        if parameter.grad is not None and world_size > 1:
            parameter.grad /= world_size
            dist.all_reduce(parameter.grad)


def whole(tensor: Tensor) -> Tensor:
    """A parameter that is divided over the ranks, or one that is not."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fingerprint(module: nn.Module) -> str:
    """sha256 over the bits of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        digest.update(name.encode() + parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def fit(
    module: pl.LightningModule,
    callbacks: Sequence[pl.Callback],
    epochs: int,
    root: str,
    ckpt_path: str | None = None,
    **options: Any,
) -> pl.Trainer:
    """Trains on this process's data, on one process or as one of several that torchrun's variables describe."""
    rank = int(os.environ.get("RANK", "0"))
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=root,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **{**quiet, "enable_checkpointing": False, "devices": 1, **options},
    )
    steps = int(options.get("limit_train_batches", STEPS))
    trainer.fit(module, loader(rank, steps), loader(7), ckpt_path=ckpt_path)
    return trainer


class Watch(pl.Callback):
    """Number of trainable parameters at each step, bytes of the norms by epoch, values of the optimizer."""

    def __init__(self) -> None:
        self.trainable: list[int] = []
        self.with_gradient: list[int] = []
        self.rates: list[list[float]] = []
        self.norms: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.trainable.append(sum(p.requires_grad for p in pl_module.parameters()))
        self.with_gradient.append(sum(p.grad is not None for p in pl_module.parameters()))
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.norms.append({name: value.clone() for name, value in pl_module.state_dict().items() if ".1." in name})


def train(
    tmp_path: Path, callback: pl.Callback, module: Staged | None = None, epochs: int = 4, **options: Any
) -> tuple[Staged, Watch, pl.Trainer]:
    module, watch = module or Staged(), Watch()
    trainer = fit(module, [callback, watch, *options.pop("others", [])], epochs, str(tmp_path), **options)
    return module, watch, trainer
