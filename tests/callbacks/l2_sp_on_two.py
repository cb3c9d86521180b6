"""Trains with StartingPointPenalty as one of two processes; its last line is JSON with what came out."""

import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
import unfreezing_net as net
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard

from lit_vision.callbacks.l2_sp import StartingPointPenalty
from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing

RANK = int(os.environ["RANK"])
ALPHA = 1.0


class Sharded(net.Staged):
    """FSDP2: each block by itself, the head with the rest."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for stage in self.backbone:
            fully_shard(stage, mesh=mesh)
        fully_shard(self, mesh=mesh)


def facts(module: net.Staged) -> dict[str, Any]:
    plain = net.Staged()
    plain.load_state_dict({name: net.whole(value) for name, value in module.state_dict().items()})
    pairs = zip(plain.backbone.parameters(), net.Staged().backbone.parameters(), strict=True)
    length = sum(float((w - w0).detach().square().sum()) for w, w0 in pairs) ** 0.5
    return {"sha": net.fingerprint(plain), "distance": length}


def train(root: str, module: net.Staged, strategy: Any, alpha: float = ALPHA) -> dict[str, Any]:
    callbacks = [ProgressiveUnfreezing(at=[0, 1]), StartingPointPenalty(alpha)]
    net.fit(module, callbacks, 3, root, strategy=strategy, devices=2)
    return facts(module)


def drawn_apart() -> net.Staged:
    """Other weights on each rank, as without a seed: DDP sends rank 0's to all."""
    module = net.Staged()
    with torch.no_grad():
        module.backbone[2][0].weight += RANK
    return module


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    sharding = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    results = {
        "ddp": train(sys.argv[2], net.Staged(), DDPStrategy(gradient_as_bucket_view=True)),
        "drawn apart": train(sys.argv[2], drawn_apart(), DDPStrategy()),
        "without": train(sys.argv[2], net.Staged(), DDPStrategy(), alpha=0.0),
        "fsdp2": train(sys.argv[2], Sharded(), sharding),
    }
    dist.destroy_process_group()
    print(json.dumps(results))
