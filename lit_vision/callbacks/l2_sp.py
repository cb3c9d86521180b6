"""L2-SP: the pretrained part of a network is pulled to where it began, instead of to zero.

Li, Grandvalet and Davoine 2018, Explicit inductive bias for transfer learning with convolutional networks,
https://arxiv.org/abs/1802.01483.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from lit_vision.errors import UserError
from lit_vision.networks.stages import divide

STATE_VERSION = 1


class StartingPointPenalty(pl.Callback):
    """Adds the gradient of alpha / 2 * ||w - w0||^2 for the backbone's weights w, which began as w0.

    It takes the place of weight decay, which is turned off for the backbone; the head keeps its own. Closed stages have
    no gradient and get none. The pull is added when gradients are reduced and unscaled, and before they are clipped.
    Under Adam it goes through the moments as the loss's gradient does.

    Args:
        alpha: strength of the pull, 0 = none. The paper chose among 0.001 to 1, with SGD.
    """

    def __init__(self, alpha: float = 0.01) -> None:
        if not (math.isfinite(alpha) and alpha >= 0):
            raise UserError(f"StartingPointPenalty: alpha is {alpha}, but it must be 0 (no pull) or above")
        self.alpha = alpha
        self._start: dict[str, Tensor] = {}  # on the CPU until a parameter is pulled
        self._hash = ""

    # --- the starting point -------------------------------------------------------------------------------------
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes the weights before a checkpoint is restored; on several processes those of rank 0.

        Raises:
            UserError: the strategy divides the weights in a way that hides them, or the module names no backbones.
        """
        if stage != "fit" or self.alpha == 0:
            return
        if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy):
            name = type(trainer.strategy).__name__
            raise UserError(f"StartingPointPenalty cannot work with {name}: use ddp or ModelParallelStrategy")
        backbones = cast(Mapping[str, nn.Module], getattr(pl_module, "backbones", None) or {})
        staged = [name for names in divide(backbones, module=pl_module).names for name in names]
        if not staged:
            name = type(pl_module).__name__
            raise UserError(f"StartingPointPenalty: {name} names no `backbones`, see docs/unfreezing.md")
        named = dict(pl_module.named_parameters())
        self._start = {name: _of_rank_0(named[name].detach(), trainer) for name in staged}
        self._hash = _hash(self._start)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Turns weight decay off for what is pulled: after a checkpoint has restored the optimizer's groups."""
        pulled = {id(pl_module.get_parameter(name)) for name in self._start}
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        decaying = [group for group in groups if group.get("weight_decay") and _holds(group, pulled)]
        for group in decaying:
            if not all(id(parameter) in pulled for parameter in group["params"]):
                raise UserError(
                    "StartingPointPenalty: a group of the optimizer holds weights of the backbone and others, so that "
                    "its weight decay cannot be turned off for the backbone alone; give it groups as "
                    "tasks.optimization.parameter_groups does"
                )
            group["weight_decay"] = 0.0
        if decaying:
            rank_zero_info("L2-SP: the backbone is pulled to where it began; its weight decay is off")

    # --- the pull -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Adds alpha * (w - w0) to the gradients of what trains."""
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for parameter, start in self._pairs(pl_module):
            if parameter.grad is not None and id(parameter) in own:
                parameter.grad.add_(parameter - start, alpha=self.alpha)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs alpha / 2 * ||w - w0||^2."""
        squares = [_whole((parameter - start).float().square().sum()) for parameter, start in self._pairs(pl_module)]
        if squares:
            penalty = float(torch.stack(squares).sum()) * self.alpha / 2
            pl_module.log("l2_sp/penalty", penalty, rank_zero_only=True)

    def _pairs(self, module: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each pulled parameter with where it began, laid out in memory and over processes as the parameter is."""
        for name, start in self._start.items():
            parameter = module.get_parameter(name)
            if isinstance(parameter, DTensor) != isinstance(start, DTensor) or start.device != parameter.device:
                start = self._start[name] = _like(parameter, start)
            yield parameter, start

    # --- restarts -----------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """A hash of the starting point; the weights themselves are where they came from."""
        return {"version": STATE_VERSION, "start": self._hash}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to continue towards another starting point.

        Raises:
            UserError: the run that is continued began with other weights.
        """
        if self._start and state_dict["start"] and state_dict["start"] != self._hash:
            raise UserError(
                "StartingPointPenalty: the run of the checkpoint began with other weights than this one, so it would "
                "be pulled elsewhere; give the same model.weights (and seed_everything, if drawn), or start anew"
            )


def _of_rank_0(weight: Tensor, trainer: pl.Trainer) -> Tensor:
    """A copy on the CPU: DDP, too, gives rank 0's weights to all, but later."""
    copy = weight.to("cpu", copy=True, memory_format=torch.contiguous_format)
    if trainer.world_size > 1 and distributed.is_initialized():
        sent = copy.to(trainer.strategy.root_device)
        distributed.broadcast(sent, src=0)
        copy = sent.cpu()
    return copy


def _hash(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(name.encode() + tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _holds(group: Mapping[str, Any], pulled: set[int]) -> bool:
    return any(id(parameter) in pulled for parameter in group["params"])


def _like(parameter: nn.Parameter, start: Tensor) -> Tensor:
    if isinstance(parameter, DTensor):
        whole = start.to(parameter.device)
        return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return torch.empty_like(parameter).copy_(start)


def _whole(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole
