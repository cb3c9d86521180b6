"""Are the processes of a run still training the same network? Asked at every validation, answered in milliseconds."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from lit_vision.errors import UserError

BLOCK = 1 << 18  # numbers hashed at a time: 2 MiB of multipliers, which stay in a processor's cache
CARRY = 0x1E3779B97F4A7C15  # odd, joins the blocks of a parameter


class RankCheck(pl.Callback):
    """Stops a run whose processes have drifted apart, and names the first parameter that differs.

    DistributedDataParallel keeps the parameters of all processes equal to the bit, but only those that were trainable
    when it was built, and only as long as nobody changes one on the side: neither is ever said. So at the start and at
    the end of training and at each validation, a hash of every parameter and whether it trains are compared.

    Not compared are buffers, such as the running statistics of batch normalisation: under DDP each process has its own,
    and rank 0's are saved. Of parameters that are divided among the processes (FSDP, DeepSpeed) only whether they train
    is compared. A single process has nothing to compare.

    Args:
        enabled: false for methods in which processes differ by design, such as local SGD.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares what the first step starts from."""
        self._check(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares before an epoch's metrics are believed."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._check(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares what is handed out."""
        self._check(trainer, pl_module)

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Averaging the parameters every few steps only, they differ in between.
        if self.enabled and getattr(trainer.strategy, "_model_averaging_period", None) is None:
            self.compare(trainer, pl_module)

    @staticmethod
    def compare(trainer: pl.Trainer, module: nn.Module) -> None:
        """Compares now. To be called by all processes at the same point.

        Raises:
            UserError: on all processes, if a parameter or what trains differs.
        """
        if trainer.world_size == 1 or not (distributed.is_available() and distributed.is_initialized()):
            return
        divided = isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy)
        names = [name for name, _ in module.named_parameters()]
        own = _fingerprint(list(module.parameters()), divided).to(trainer.strategy.root_device)
        counts = _gather(own.new_tensor([len(names)]))
        if bool((counts != counts[0]).any()):
            raise UserError(f"the processes have different networks, of {counts.flatten().tolist()} parameters by rank")
        _complain(names, _gather(own).cpu())


def _gather(own: Tensor) -> Tensor:
    """(ranks, *shape) of a tensor that has the same shape everywhere."""
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    return torch.stack(every)


def _complain(names: Sequence[str], every: Tensor) -> None:
    """Raises if the fingerprints (ranks, parameters, 2) differ over the ranks; rank 0 is the measure."""
    differs = every != every[0]
    wrong = differs.any(2).any(0).nonzero().flatten().tolist()
    if not wrong:
        return
    bits, trains = (differs[:, wrong[0], k].nonzero().flatten().tolist() for k in (0, 1))
    kinds = [f"has other values on rank {_listed(bits)} than on rank 0"] if bits else []
    if trains:
        state = "trains" if every[0, wrong[0], 1] else "is frozen"
        kinds.append(f"{state} on rank 0 but not on rank {_listed(trains)}")
    more = f" ({len(wrong)} of {len(names)} parameters differ)" if len(wrong) > 1 else ""
    raise UserError(
        f"the processes have drifted apart: {names[wrong[0]]} {' and '.join(kinds)}{more}. Either it was opened or "
        "closed behind DDP's back, for which ProgressiveUnfreezing is the cure, or code changes it on some ranks only, "
        "or parameters that train get no gradient, which DDP waits for: freeze them."
    )


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")


@torch.no_grad()
def _fingerprint(parameters: Sequence[nn.Parameter], divided: bool) -> Tensor:
    """(parameters, 2) int64: hash of the bits, and whether it trains."""
    device = next((parameter.device for parameter in parameters), torch.device("cpu"))
    hashes = [
        torch.zeros((), dtype=torch.int64) if divided or isinstance(parameter, DTensor) else bits_hash(parameter)
        for parameter in parameters
    ]
    trains = torch.tensor([parameter.requires_grad for parameter in parameters], dtype=torch.int64)
    return torch.stack([torch.stack([one.to(device) for one in hashes]), trains.to(device)], dim=1)


@torch.no_grad()
def bits_hash(tensor: Tensor) -> Tensor:
    """A 64-bit hash of a tensor's bits and their places, computed where the tensor is, in blocks.

    It is the sum of the bits of each number times an odd multiplier of its place, modulo 2^64. One number of up to 32
    bits that differs always changes it, several do but for a chance of about 2^-32. The same numbers in another order
    in memory have another hash.
    """
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    by_stride = sorted(range(numbers.ndim), key=lambda axis: -numbers.stride()[axis])
    flat = numbers.permute(by_stride).reshape(-1)  # the order in memory: no copy of dense tensors
    bits = flat.view({1: torch.int8, 2: torch.int16}.get(flat.element_size(), torch.int32))
    factors = _factors(tensor.device)
    total = torch.tensor(len(bits), device=tensor.device)
    for block in torch.split(bits, BLOCK):
        total = total * CARRY + (block * factors[: len(block)]).sum()
    return total


@lru_cache(maxsize=2)
def _factors(device: torch.device) -> Tensor:
    random = torch.Generator().manual_seed(0)
    limits: Any = torch.iinfo(torch.int64)
    return (torch.randint(limits.min, limits.max, (BLOCK,), generator=random) | 1).to(device)
