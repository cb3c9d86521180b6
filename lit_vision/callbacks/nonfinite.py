"""A training whose loss is no longer a number ends at once, and says which pictures it was."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, distributed

from lit_vision.errors import UserError

FILE = "nan_batch.json"


class _Step(NamedTuple):
    """One batch of training, on this process."""

    loss: Tensor
    step: int  # optimizer steps, this one included
    epoch: int
    batch_idx: int
    shown: Tensor | list[Tensor] | None  # positions of the pictures in the data set; those of each sample of several


class StopOnNonFinite(pl.Callback):
    """Stops training on all processes when the loss is NaN or infinite, or a checkpoint would hold such weights.

    <run folder>/nan_batch.json then lists the pictures of that batch, of each process that had such a loss. No
    checkpoint is written after it: the last one is whole. Of mosaics and blends, all pictures are listed.

    Losses are kept as they are, where they are, and looked at every so many steps, since each look makes a GPU wait;
    besides before each validation and checkpoint. A single process on a CPU, where looking costs nothing, looks at
    every step. The step named is the first one, however late it is seen.

    Args:
        every_n_steps: batches between two looks.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise UserError(f"StopOnNonFinite: every_n_steps is {every_n_steps}, but must be at least 1")
        self.every_n_steps = every_n_steps
        self._steps: list[_Step] = []
        self._last: _Step | None = None

    # --- hooks --------------------------------------------------------------------------------------------------
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is known yet."""
        self._steps, self._last = [], None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the loss, and looks when it is time."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):  # the step was skipped
            return
        shown = batch.get("shown", batch.get("index")) if isinstance(batch, Mapping) else None
        self._last = _Step(loss.detach(), trainer.global_step, trainer.current_epoch, batch_idx, shown)
        self._steps.append(self._last)
        free = trainer.world_size == 1 and loss.device.type == "cpu"
        if free or len(self._steps) >= self.every_n_steps:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at what is left."""
        self._look(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks, before time is spent on it."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._look(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Looks at losses and weights before a good checkpoint is replaced."""
        if self._last is None:  # no training here
            return
        self._look(trainer)
        self._stop_if(trainer, not _finite(checkpoint.get("state_dict", {})), self._last, "a weight")

    # ------------------------------------------------------------------------------------------------------------
    def _look(self, trainer: pl.Trainer) -> None:
        if not self._steps:  # on all processes alike: they train as many batches
            return
        steps, self._steps = self._steps, []
        losses = torch.stack([one.loss.float() for one in steps]).tolist()
        bad = next((k for k, loss in enumerate(losses) if not math.isfinite(loss)), None)
        self._stop_if(trainer, bad is not None, steps[bad or 0], f"the loss ({losses[bad or 0]})")

    def _stop_if(self, trainer: pl.Trainer, bad: bool, step: _Step, what: str) -> None:
        """Raises on all processes if it is bad on any."""
        every = [(bad, step.step, step.epoch, step.batch_idx, what, _indices(step))]
        if trainer.world_size > 1:
            count = torch.tensor(float(bad), device=trainer.strategy.root_device)
            if not float(cast(Tensor, trainer.strategy.reduce(count, reduce_op="sum"))):
                return
            gathered: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(gathered, every[0])
            every = gathered
        if not any(one[0] for one in every):
            return
        _, first, epoch, batch_idx, what, _ = min((one for one in every if one[0]), key=lambda one: (one[1], one[3]))
        path = Path(trainer.default_root_dir) / FILE
        if trainer.is_global_zero:
            ranks = {rank: one[5] for rank, one in enumerate(every) if one[0] and one[1] == first}
            facts = {"epoch": epoch, "step": first, "batch_idx": batch_idx, "pictures": _pictures(trainer, ranks)}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(facts, indent=1) + "\n")
        raise UserError(
            f"{what} is not a finite number at step {first} (epoch {epoch}): training stopped, checkpoints are as they "
            f"were written before; {path} lists the batch's pictures. Look at their labels, lower the learning rate, "
            "or set trainer.gradient_clip_val"
        )


def _indices(step: _Step) -> list[int]:
    shown = torch.cat(step.shown) if isinstance(step.shown, list) else step.shown
    if shown is None:
        return []
    return list(dict.fromkeys(int(i) for i in shown.tolist() if i >= 0))  # below 0: fills up a share


def _finite(state: Mapping[str, Any]) -> bool:
    tensors = [one for one in state.values() if isinstance(one, Tensor) and one.is_floating_point()]
    return bool(torch.stack([torch.isfinite(one).all().cpu() for one in tensors]).all()) if tensors else True


def _pictures(trainer: pl.Trainer, ranks: Mapping[int, list[int]]) -> list[dict[str, Any]]:
    """Position, file and process of each picture."""
    index = getattr(getattr(trainer, "datamodule", None), "index", None)
    rows: list[dict[str, Any]] = []
    for rank, indices in ranks.items():
        for i in indices:
            file = {} if index is None else {"file": str(index.path(i))}
            rows.append({"index": i, **file, "rank": rank})
    return rows
