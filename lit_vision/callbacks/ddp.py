"""DistributedDataParallel and a trainable set that changes: which strategies can follow it, and how DDP does.

DDP takes the parameters that require gradients once, when it wraps the module. One that is opened later is never
reduced: the processes drift apart without a word. So DDP is built anew whenever the set changes.
"""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from torch.nn.parallel import DistributedDataParallel

from lit_vision.errors import UserError


def check_strategy(strategy: Strategy, takes_back: bool = False) -> None:
    """Refuses, by name and with the reason, a strategy under which a stage cannot open correctly.

    Args:
        strategy: of the trainer.
        takes_back: a stage may be taken back, and weights with it.

    Raises:
        UserError: it is not one of single device, DDP, FSDP with use_orig_params, or ModelParallelStrategy (FSDP2).
    """
    name = type(strategy).__name__
    reason = _obstacle(strategy)
    if reason is None and takes_back and isinstance(strategy, FSDPStrategy):
        reason = "gain cannot put weights back into its flat parameters; take ModelParallelStrategy, or leave gain out"
    if reason:
        raise UserError(f"ProgressiveUnfreezing cannot work with {name}: {reason}")


def _obstacle(strategy: Strategy) -> str | None:
    if "XLA" in type(strategy).__name__:
        return "XLA compiles one graph for one set of parameters; use a GPU or a CPU"
    if isinstance(strategy, DDPStrategy):
        if strategy._model_averaging_period is not None:
            return "model_averaging_period averages only the parameters it began with; leave it out"
        if type(strategy._ddp_comm_state).__name__ == "PowerSGDState":
            return "PowerSGD keeps buffers for the parameters it began with; leave ddp_comm_state out"
        return None
    if isinstance(strategy, FSDPStrategy):
        if strategy.kwargs.get("use_orig_params"):
            return None
        return "its flat parameters are trainable as a whole; set use_orig_params: true, or take ModelParallelStrategy"
    if isinstance(strategy, SingleDeviceStrategy | ModelParallelStrategy):
        return None
    return "it fixes the trainable parameters at the start; use ddp or ModelParallelStrategy"


def wrapped_by_ddp(trainer: pl.Trainer) -> bool:
    """Whether the strategy's model is a DistributedDataParallel now."""
    return isinstance(trainer.strategy.model, DistributedDataParallel)


def rebuild_ddp(trainer: pl.Trainer) -> None:
    """Wraps the module anew, so that exactly the parameters that are trainable now are reduced.

    To be called by all processes at the same step, with no gradient pending. The constructor sends rank 0's
    parameters and buffers to all, once per opening: 70-100 ms for a ResNet-18 over gloo.
    """
    strategy: Any = trainer.strategy
    old = strategy.model
    old.reducer._remove_autograd_hooks()  # they would go on reducing into the old buckets
    strategy.model = strategy.lightning_module
    del old
    strategy.configure_ddp()
    strategy._pl_static_graph_delay_done = False  # manual optimisation with static_graph flushes once per wrapper
