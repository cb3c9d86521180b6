"""Unfreezes each task as one of two processes, under DDP and under FSDP2; its last line is JSON."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import unfreezing_net as net
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim import AdamW
from torch.utils.data import DataLoader

from lit_vision.callbacks.rank_check import RankCheck
from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.classification import TransferClassifier
from lit_vision.tasks.detection import YOLODetector
from lit_vision.tasks.instances import InstanceSegmenter
from lit_vision.tasks.segmentation import SemanticSegmenter

SMALL: dict[str, Any] = {"encoder": "lcnet_050", "decoder_args": {"decoder_channels": [16, 16, 8, 8, 8]}}
ANCHORS = [[8.0, 8.0], [12.0, 12.0], [20.0, 20.0], [28.0, 28.0], [36.0, 36.0], [48.0, 48.0]]
# One arithmetic for both: what FSDP2 divides takes no step in one pass, and Adam makes much of a last bit.
OWN: dict[str, Any] = {"optimizer": lambda groups: AdamW(groups, lr=1e-3, weight_decay=0.05, fused=False)}
TASKS: dict[str, Callable[[], VisionTask]] = {
    "classification": lambda: TransferClassifier(["a", "b", "c"], backbone="test_resnet", **OWN),
    "segmentation": lambda: SemanticSegmenter(["a", "b", "c"], **SMALL, **OWN),
    "instances": lambda: InstanceSegmenter(["a", "b"], **SMALL, **OWN),
    "detection": lambda: YOLODetector(
        ["a", "b", "c"], backbone="lcnet_050", strides=[8, 16], width=32, anchors=ANCHORS, **OWN
    ),
}
BATCH = 2


def batches(rank: int) -> list[dict[str, Any]]:
    """Noise with labels for every task; other noise on the other rank."""
    generator = torch.Generator().manual_seed(rank)

    def noise(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, (BATCH, *shape), generator=generator)

    return [
        {
            "image": noise(255, 3, 64, 64).to(torch.uint8),
            "label": noise(3),
            "mask": noise(3, 64, 64),
            "border": noise(2, 64, 64),
            "boxes": [torch.tensor([[4.0, 4.0, 30.0, 30.0]])] * BATCH,
            "labels": [torch.tensor([1])] * BATCH,
            "crowd": [torch.tensor([False])] * BATCH,
            "index": torch.arange(BATCH),
        }
        for _ in range(3)
    ]


def weights(task: str, strategy: Any, root: str) -> dict[str, Tensor]:
    """Weights after a training in which the whole backbone opens at the second epoch."""
    pl.seed_everything(0, verbose=False)
    module = TASKS[task]()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=root,
        callbacks=[ProgressiveUnfreezing(at=[1], max_stages=1), RankCheck()],
    )
    trainer.fit(module, DataLoader(batches(dist.get_rank()), batch_size=None))
    return {name: net.whole(parameter).detach() for name, parameter in module.named_parameters()}


def compare(task: str, root: str) -> dict[str, Any]:
    """How far FSDP2 is from DDP, and what moved."""
    pl.seed_everything(0, verbose=False)
    first = dict(TASKS[task]().named_parameters())
    ddp = weights(task, "ddp", root)
    fsdp = weights(task, ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1), root)
    moved = sum(not torch.equal(first[name], ddp[name]) for name in ddp)
    return {"apart": max(float((ddp[n] - fsdp[n]).abs().max()) for n in ddp), "moved": moved, "all": len(ddp)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {task: compare(task, sys.argv[2]) for task in TASKS}
    dist.destroy_process_group()
    print(json.dumps(found))
