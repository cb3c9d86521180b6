"""What ProgressiveUnfreezing has to find in a run, and what it asks it."""

import warnings
from collections.abc import Collection, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.optim import Optimizer

from lit_vision.callbacks.unfreezing_schedule import Mode
from lit_vision.errors import UserError

GRAPHS = 4  # of torch.compile: training, evaluation, their first batches and last ones


def check_company(callbacks: Sequence[pl.Callback], module: pl.LightningModule) -> None:
    """Refuses what would decide on the trainable parameters, too.

    Args:
        callbacks: of the trainer.
        module: names its backbones and does not freeze itself.
    """
    others = [type(one).__name__ for one in callbacks if isinstance(one, BaseFinetuning)]
    if others:
        raise UserError(f"ProgressiveUnfreezing decides alone what trains: take {others[0]} out")
    if getattr(module, "freezing", None):
        raise UserError("model.freeze and ProgressiveUnfreezing both decide what trains: use its `never` instead")
    if not getattr(module, "backbones", None):
        raise UserError(
            f"ProgressiveUnfreezing: {type(module).__name__} names no `backbones` that train, see docs/unfreezing.md; "
            "with train: border and shared_encoder: true there is none: leave the callback out"
        )


def say_untrained(trainer: pl.Trainer) -> None:
    """Says where closed stages keep random weights; a resumed run has others."""
    names = [] if trainer.ckpt_path else list(getattr(trainer.lightning_module, "untrained", []))
    if names:
        rank_zero_info(
            f"unfreezing: {' and '.join(names)} begins with random weights, without pretrained, weights or start_from, "
            "and closed stages keep them: give weights, or leave ProgressiveUnfreezing out"
        )


def check_optimizers(optimizers: Sequence[Optimizer], module: nn.Module, never: Collection[str]) -> None:
    """Every parameter that ever trains is in an optimizer from the start."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in module.named_parameters() if id(p) not in held and name not in set(never)]
    if missing:
        raise UserError(
            f"ProgressiveUnfreezing: the optimizer lacks {missing[0]} ({len(missing)} parameters in all): give it all "
            "from the start, frozen ones too, as tasks.optimization.parameter_groups does"
        )


def check_stages(saved: Sequence[Sequence[str]], stages: Sequence[Sequence[str]]) -> None:
    """The stages of a checkpoint are those of the run.

    Raises:
        UserError: they are not; the optimizer's moments would go to other weights.
    """
    for k, (before, now) in enumerate(zip_longest(saved, stages, fillvalue=())):
        if list(before) != list(now):
            differing = sorted(set(before) ^ set(now)) or list(now)
            raise UserError(
                f"the checkpoint's {len(saved)} stages of unfreezing are not the {len(stages)} of this run: stage {k} "
                f"differs in {differing[0]}; give the same stages, max_stages and never, or start anew"
            )


def restore_before_moments(strategy: Any, callback: pl.Callback) -> None:
    """Gives the callback its state from a checkpoint before the optimizer gets its own; to be called in on_fit_start.

    FSDP2 restores moments of those parameters only that train at that moment, and Lightning has no hook before it.
    """
    load = strategy.load_checkpoint

    def load_checkpoint(path: str | Path, *args: Any, **options: Any) -> Any:
        if Path(path).is_file():
            saved = torch.load(path, "cpu", weights_only=True).get("callbacks", {}).get(callback.state_key)
            if saved is not None:
                callback.load_state_dict(saved)
        return load(path, *args, **options)

    strategy.load_checkpoint = load_checkpoint


def allow_graphs(module: nn.Module, openings: int) -> None:
    """Each opening is another graph, and torch.compile gives up on a function after a few of them."""
    if getattr(module, "compiled", False):
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, GRAPHS * (openings + 1))


def expect_evaluation_mode(module: nn.Module, held: Collection[str]) -> None:
    """Lightning warns of modules in evaluation mode; where all of them are held norms, they are meant to be."""
    still = [name for name, child in module.named_modules() if not child.training]
    inside = tuple(f"{name}." for name in held)
    if all(name in set(held) or name.startswith(inside) for name in still):
        warnings.filterwarnings("ignore", rf"Found {len(still)} module\(s\) in eval mode")


def trainable(module: nn.Module) -> set[str]:
    """Names of the parameters that train now."""
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def epochs_of(trainer: pl.Trainer) -> int | None:
    """Epochs of the whole run; None where steps limit it."""
    epochs = trainer.max_epochs
    return epochs if epochs is not None and epochs > 0 and trainer.max_steps == -1 else None


def steps_of(trainer: pl.Trainer) -> int:
    """Optimizer steps of the whole run.

    Raises:
        UserError: the run has no end.
    """
    module = trainer.lightning_module
    total = getattr(module, "total_steps", None) or trainer.estimated_stepping_batches
    if total == float("inf") or total < 0:
        raise UserError("ProgressiveUnfreezing: a fraction of a run without end; set trainer.max_epochs or max_steps")
    return int(total)


def value_of(trainer: pl.Trainer, name: str | None, mode: Mode | None) -> tuple[float, Mode]:
    """Rank 0's value of a metric, told to all processes, and whether "min" or "max" of it is best.

    Args:
        trainer: after a validation.
        name: null = the metric that chooses the best checkpoint.
        mode: null = as for that metric.

    Raises:
        UserError: nobody says which metric, or it was not logged.
    """
    module = trainer.lightning_module
    own = getattr(module, "monitor", None)
    chosen = name or own
    if not chosen:
        raise UserError("ProgressiveUnfreezing: which metric decides? set monitor, such as val/loss")
    if mode is None:
        mode = cast(Mode, module.monitor_mode) if chosen == own else ("min" if "loss" in chosen else "max")
    value = trainer.callback_metrics.get(chosen)
    told: float | None = trainer.strategy.broadcast(None if value is None else float(value), src=0)
    if told is None:
        there = ", ".join(sorted(trainer.callback_metrics)) or "none"
        raise UserError(f"ProgressiveUnfreezing: {chosen} was not logged in validation; there are: {there}")
    return told, mode
