"""Trains the cases of test_unfreezing_ddp.py as one of two processes; its last line is JSON with what came out."""

import json
import os
import sys
import weakref
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import unfreezing_net as net
from pytorch_lightning.callbacks import BackboneFinetuning, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.amp import GradScaler
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lit_vision.callbacks import ddp, unfreezing
from lit_vision.callbacks.rank_check import RankCheck
from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.errors import UserError

RANK = int(os.environ["RANK"])
EPOCHS = 4
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "find_unused": {"find_unused_parameters": True},
    "bucket_view": {"gradient_as_bucket_view": True},
    "static_graph": {"static_graph": True},
    "find_unused+bucket_view": {"find_unused_parameters": True, "gradient_as_bucket_view": True},
}


class Spy(pl.Callback):
    """Which parameters DDP reduces, what gradients are like before each step, what becomes of old wrappers."""

    def __init__(self) -> None:
        self.wrappers: list[Any] = []
        self.unequal: list[str] = []
        self.closed_with_gradient: list[str] = []
        self.reduced: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        wrapper = trainer.strategy.model
        if not self.wrappers or self.wrappers[-1]() is not wrapper:
            self.wrappers.append(weakref.ref(wrapper))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        held = {id(p) for p in trainer.strategy.model.parameters() if p.requires_grad}
        self.reduced.append(len(held))
        for name, parameter in pl_module.named_parameters():
            if not parameter.requires_grad:
                self.closed_with_gradient += [name] if parameter.grad is not None else []
            elif not same(parameter.grad):
                self.unequal.append(name)


def same(tensor: torch.Tensor) -> bool:
    if isinstance(tensor, DTensor):
        return True  # each rank has its own part
    others = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(others, tensor.detach().clone())
    return torch.allclose(others[0], others[1], rtol=0, atol=0, equal_nan=True)  # fp16 overflows


def train(root: str, strategy: dict[str, Any], callback: pl.Callback | None, **options: Any) -> dict[str, Any]:
    """One training on two processes."""
    kind = options.pop("kind", net.Staged)
    module = kind(options.pop("optimizer", "sgd"), options.pop("lr_decay", 1.0))
    spy = Spy()
    callbacks = ([callback] if callback else []) + options.pop("others", []) + [spy]
    epochs = options.pop("epochs", EPOCHS)
    net.fit(module, callbacks, epochs, root, strategy=DDPStrategy(**strategy), devices=2, **options)
    return {
        "ranks_equal": all(same(p) for p in module.parameters()),
        "sha": net.fingerprint(module),
        "unequal_gradients": sorted(set(spy.unequal)),
        "closed_with_gradient": spy.closed_with_gradient,
        "wrappers": len(spy.wrappers),
        "alive": sum(one() is not None for one in spy.wrappers[:-1]),
        "reduced": spy.reduced,
    }


def by_hand(optimizer: str = "sgd", lr_decay: float = 1.0, **options: Any) -> str:
    """The reference's fingerprint: stage k opens at epoch k + 1, or with `steps` at these optimizer steps."""
    steps, epochs = options.pop("steps", None), options.pop("epochs", EPOCHS)
    opened = (lambda epoch, step: min(epoch, 3)) if steps is None else (lambda e, step: sum(step >= s for s in steps))
    return net.fingerprint(net.trained_by_hand(net.Staged(optimizer, lr_decay), opened, epochs, RANK, 2, **options))


def unfreezing_at(**options: Any) -> ProgressiveUnfreezing:
    return ProgressiveUnfreezing(**{"at": [1, 2, 3], "measure": False, **options})


def cases(root: str) -> dict[str, dict[str, Any]]:
    """Every case by name."""
    done: dict[str, dict[str, Any]] = {}
    for optimizer in net.OPTIMIZERS:
        expected = by_hand(optimizer)
        for name, options in STRATEGIES.items():
            result = train(root, options, unfreezing_at(), optimizer=optimizer)
            done[f"{name}/{optimizer}"] = {**result, "expected": expected}
    expected = by_hand("adamw", lr_decay=0.5)
    done["lr_decay"] = {**train(root, {}, unfreezing_at(lr_decay=0.5), optimizer="adamw"), "expected": expected}
    steps = {"at": [2, 3, 6], "unit": "step"}
    for name, options in {"accumulate": {}, "accumulate+bucket_view": STRATEGIES["bucket_view"]}.items():
        expected = by_hand(steps=steps["at"], accumulate=2)
        done[name] = {**train(root, options, unfreezing_at(**steps), accumulate_grad_batches=2), "expected": expected}
    expected = by_hand(clip=0.05)
    done["clip"] = {**train(root, {}, unfreezing_at(), gradient_clip_val=0.05), "expected": expected}
    expected = by_hand(half=torch.bfloat16)
    done["bf16"] = {**train(root, {}, unfreezing_at(measure=True), precision="bf16-mixed"), "expected": expected}
    for name, scale in {"fp16": 2.0**16, "fp16, overflow": 2.0**20}.items():  # the second one skips its first steps
        expected = by_hand(half=torch.float16, scaler=GradScaler("cpu", scale))
        plugin = MixedPrecision("16-mixed", "cpu", GradScaler("cpu", scale))
        done[name] = {**train(root, {}, unfreezing_at(measure=True), plugins=[plugin]), "expected": expected}
    done["plateau"] = train(root, {}, ProgressiveUnfreezing(plateau=unfreezing.Plateau(patience=1, min_delta=100.0)))
    stands_still = ProgressiveUnfreezing(plateau=unfreezing.Plateau(patience=1))
    done["plateau on rank 0"] = train(root, {}, stands_still, kind=Disagreeing)
    done["average"] = train(root, {}, unfreezing_at(), others=[EMAWeightAveraging(decay=0.5)])
    return done | sharded_cases(root) | taken_back(root) | controls(root)


def sharded_cases(root: str) -> dict[str, dict[str, Any]]:
    """FSDP2, uncut and continued after two epochs, in the second of which a stage had opened."""
    done = {"fsdp2": {**sharded(root, unfreezing_at(measure=True)), "expected": by_hand("adamw")}}
    keep = ModelCheckpoint(dirpath=root, filename="sharded")
    sharded(root, unfreezing_at(), epochs=2, others=[keep], enable_checkpointing=True)
    again = sharded(root, unfreezing_at(), ckpt_path=f"{root}/sharded.ckpt")
    done["fsdp2, restart"] = {**again, "expected": by_hand("adamw")}
    return done


def taken_back(root: str) -> dict[str, dict[str, Any]]:
    """A stage that has not paid in its one epoch leaves no trace: as if there had been an epoch less, without it."""

    def gain(patience: int = 1) -> ProgressiveUnfreezing:
        return unfreezing_at(gain=unfreezing.Gain(patience=patience, min_gain=100.0))  # nothing gains so much

    def average() -> list[pl.Callback]:
        return [EMAWeightAveraging(decay=0.5)]

    done = {"gain": {**train(root, {}, gain()), "expected": by_hand(steps=[], epochs=3)}}
    done["gain, fsdp2"] = {**sharded(root, gain()), "expected": by_hand("adamw", steps=[], epochs=3)}
    alone = train(root, {}, unfreezing_at(at=[]), optimizer="adamw", epochs=2, others=average())
    keep = ModelCheckpoint(dirpath=root, filename="trial")
    train(root, {}, gain(2), optimizer="adamw", epochs=2, others=[*average(), keep], enable_checkpointing=True)
    again = train(root, {}, gain(2), optimizer="adamw", others=average(), ckpt_path=f"{root}/trial.ckpt")
    done["gain, average, restart"] = {**again, "expected": alone["sha"]}
    return done


class Disagreeing(net.Staged):
    """Its metric stands still on rank 0 and improves on rank 1: left to themselves, the ranks would open at odds."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", 1.0 - RANK * self.current_epoch)


class Sharded(net.Staged):
    """FSDP2: each block by itself, the head with the rest."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for stage in self.backbone:
            fully_shard(stage, mesh=mesh)
        fully_shard(self, mesh=mesh)


def sharded(root: str, callback: ProgressiveUnfreezing, epochs: int = EPOCHS, **options: Any) -> dict[str, Any]:
    """ModelParallelStrategy needs no rebuilding; its parameters are divided over the ranks."""
    module, spy = Sharded("adamw"), Spy()
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False)
    callbacks = [callback, *options.pop("others", []), spy]
    net.fit(module, callbacks, epochs, root, strategy=strategy, devices=2, **options)
    whole = net.Staged("adamw")
    whole.load_state_dict({name: net.whole(value) for name, value in module.state_dict().items()})
    facts = {"ranks_equal": all(same(p) for p in whole.parameters()), "sha": net.fingerprint(whole)}
    return {**facts, "unequal_gradients": [], "closed_with_gradient": spy.closed_with_gradient}


def controls(root: str) -> dict[str, dict[str, Any]]:
    """What goes wrong without the rebuilding of DDP: these must differ."""
    rebuild = ddp.rebuild_ddp
    unfreezing.rebuild_ddp = lambda trainer: None  # type: ignore[attr-defined]
    wrong = {"no rebuild": train(root, {}, unfreezing_at(check_ranks=False))}
    unfreezing.rebuild_ddp = rebuild  # type: ignore[attr-defined]
    lightning = BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False)
    wrong["lightning"] = train(root, {}, lightning)
    return wrong | {"stopped": {"by": stopped(root)}}


def stopped(root: str) -> str:
    """What RankCheck says when DDP is not rebuilt: this is how a user would learn of it."""
    rebuild, unfreezing.rebuild_ddp = unfreezing.rebuild_ddp, lambda trainer: None  # type: ignore[attr-defined]
    try:
        train(root, {}, unfreezing_at(), others=[RankCheck()])
    except UserError as error:
        return str(error)
    finally:
        unfreezing.rebuild_ddp = rebuild  # type: ignore[attr-defined]
    return "nothing"


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = cases(sys.argv[2])
    dist.destroy_process_group()
    print(json.dumps(results))
