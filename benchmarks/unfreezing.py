"""What closed stages save, and what becomes of the ranks, on two CPU processes over gloo: medians, interleaved.

    python benchmarks/unfreezing.py [--rounds 5] [--steps 8] [--network resnet18] [--size 64] [--batch 16] [--only ...]

First table: one step of the network with 0 to all stages open under ProgressiveUnfreezing, against plain DDP over the
whole network, and against Lightning's BackboneFinetuning with the backbone closed. Second table: how far the two
ranks are apart after the backbone was opened, with ProgressiveUnfreezing, BackboneFinetuning and, where it is
installed, finetuning-scheduler.
"""

import argparse
import importlib.util
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.networks.stages import divide
from lit_vision.tasks.optimization import parameter_groups

WARM = 3  # steps of each round that are not counted
EPOCHS = 3  # of the second table; the backbone opens at epoch 1


class Network(pl.LightningModule):
    """A timm network as head and backbone; every process has its own pictures."""

    def __init__(self, name: str, size: int, batch: int) -> None:
        super().__init__()
        import timm

        torch.manual_seed(0)
        self.backbone: nn.Module = timm.create_model(name, num_classes=0)
        self.head = nn.LazyLinear(10)
        self.size, self.batch = size, batch
        self.head(self.backbone.eval()(torch.zeros(1, 3, size, size)))
        self.backbone.train()
        self.stages: Any = None

    @property
    def backbones(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self) -> Any:
        stages = self.stages or divide(self.backbones)
        groups = [g for g in parameter_groups(self, stages) if any(p.requires_grad for p in g["params"]) or self.stages]
        return torch.optim.SGD(groups, lr=0.01, momentum=0.9)

    def loader(self, steps: int, rank: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(rank)
        images = torch.randn(steps * self.batch, 3, self.size, self.size, generator=generator)
        return DataLoader(TensorDataset(images, torch.arange(len(images)) % 10), batch_size=self.batch)


class Clock(pl.Callback):
    """Seconds of each step; what it holds in gradients and moments, and what DDP reduces."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.facts: dict[str, float] = {}

    def on_train_batch_start(self, *_: Any) -> None:
        dist.barrier()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)
        gradients = sum(p.grad.nbytes for p in pl_module.parameters() if p.grad is not None)
        states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
        moments = sum(v.nbytes for state in states for v in state.values() if isinstance(v, Tensor))
        logged = trainer.strategy.model._get_ddp_logging_data()
        reduced = float(logged["total_parameter_size_bytes"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.facts = {
            "gradients": gradients / 2**20,
            "moments": moments / 2**20,
            "reduced": reduced / 2**20,
            "peak": peak,
        }


def train(options: argparse.Namespace, callbacks: list[pl.Callback], steps: int, epochs: int = 1) -> Network:
    """One training as one of two processes."""
    module = Network(options.network, options.size, options.batch)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=2,
        strategy="ddp",  # by name: finetuning-scheduler refuses the object
        callbacks=callbacks,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tempfile.gettempdir(),
    )
    trainer.fit(module, module.loader(steps, dist.get_rank()))
    return module


def variants(options: argparse.Namespace) -> dict[str, Any]:
    """Name -> a function that makes the callback."""
    count = len(divide(Network(options.network, options.size, options.batch).backbones).names)
    made: dict[str, Any] = {"plain DDP": lambda: None}
    for k in range(count, -1, -1):
        made[f"ours, {k} of {count} open"] = lambda k=k: ProgressiveUnfreezing(at=[0] * k, measure=False)
    made["BackboneFinetuning, closed"] = lambda: BackboneFinetuning(unfreeze_backbone_at_epoch=99)
    return made


def speed(options: argparse.Namespace, only: str | None) -> dict[str, dict[str, float]]:
    """Median seconds per step, rounds interleaved; with `only` the memory of one variant."""
    made = variants(options)
    chosen = {only: made[only]} if only else made
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    facts: dict[str, dict[str, float]] = {}
    for _ in range(1 if only else options.rounds):
        for name, make in chosen.items():
            clock, callback = Clock(), make()
            train(options, [*([callback] if callback else []), clock], WARM + options.steps)
            seconds[name].append(statistics.median(clock.seconds[WARM:]))
            facts[name] = clock.facts
    return {name: {"seconds": statistics.median(values), **facts[name]} for name, values in seconds.items()}


def apart(module: nn.Module) -> float:
    """Largest difference of any parameter between the two ranks."""
    largest = 0.0
    for parameter in module.parameters():
        others = [torch.empty_like(parameter) for _ in range(2)]
        dist.all_gather(others, parameter.detach())
        largest = max(largest, float((others[0] - others[1]).abs().max()))
    return largest


def drift(options: argparse.Namespace) -> dict[str, float]:
    """Callback -> distance of the ranks after its openings."""
    made: dict[str, Any] = {
        "ProgressiveUnfreezing": lambda: ProgressiveUnfreezing(at=[1] * 3, max_stages=3, measure=False),
        "BackboneFinetuning": lambda: BackboneFinetuning(unfreeze_backbone_at_epoch=1),
    }
    if importlib.util.find_spec("finetuning_scheduler"):
        from finetuning_scheduler import FinetuningScheduler

        head = {"params": ["head.*"], "max_transition_epoch": 1}
        whole = {"params": ["backbone.*"], "max_transition_epoch": EPOCHS, "lr": 0.01}
        made["finetuning-scheduler"] = lambda: FinetuningScheduler(
            ft_schedule={0: head, 1: whole}, epoch_transitions_only=True, restore_best=False
        )
    return {name: apart(train(options, [make()], 4, EPOCHS)) for name, make in made.items()}


def worker(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    result = drift(options) if options.part == "drift" else speed(options, options.only)
    if dist.get_rank() == 0:
        print("RESULT " + json.dumps(result))
    dist.destroy_process_group()


def two_processes(part: str, words: list[str]) -> Any:
    """Runs this file as two processes, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "benchmark"}
    command = [sys.executable, str(Path(__file__)), "--part", part, *words]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    out, errors = started[0].communicate()
    started[1].communicate()
    lines = [line for line in out.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(errors)
    return json.loads(lines[0].removeprefix("RESULT "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--part", choices=("speed", "drift"), help=argparse.SUPPRESS)
    parser.add_argument("--only", help="drift: the second table alone")
    options = parser.parse_args()
    if options.part:
        worker(options)
        return
    words = sys.argv[1:]
    if options.only != "drift":
        compare_speed(words)
    print(f"\n{'callback':<28}{'ranks apart by':>15}")
    for name, distance in two_processes("drift", words).items():
        print(f"{name:<28}{distance:>15.2g}")


def compare_speed(words: list[str]) -> None:
    """Prints the first table."""
    found = two_processes("speed", words)
    plain = found["plain DDP"]["seconds"]
    print(f"{'':<28}{'step ms':>9}{'x plain':>9}{'gradients':>11}{'reduced':>9}{'moments':>9}{'peak MiB':>10}")
    for name, row in found.items():
        peak = two_processes("speed", [*words, "--only", name])[name]["peak"]
        sizes = f"{row['gradients']:>11.1f}{row['reduced']:>9.1f}{row['moments']:>9.1f}{peak:>10.0f}"
        print(f"{name:<28}{1000 * row['seconds']:>9.1f}{row['seconds'] / plain:>9.2f}{sizes}")


if __name__ == "__main__":
    main()
