"""One step of a detector on two processes is that of one process with the pictures of both."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import BatchNorm2d
from torch.optim import SGD
from torch.utils.data import DataLoader
from two_ranks import both

from lit_vision.losses.anchor_free import AnchorFreeLoss
from lit_vision.losses.yolo import YOLOLoss
from lit_vision.tasks.detection import YOLODetector

SMALL: dict[str, Any] = {"backbone": "lcnet_050", "strides": [8, 16], "width": 32, "neck": "pan"}
FREE: dict[str, Any] = {**SMALL, "head": "anchor_free", "head_args": {"reg_max": 8}}
ANCHORS = [[8.0, 8.0], [12.0, 12.0], [20.0, 20.0], [28.0, 28.0], [36.0, 36.0], [48.0, 48.0]]
MODERN: dict[str, Any] = {**SMALL, "anchors": ANCHORS, "head_args": {"scale_x_y": 2.0}}
DETECTORS: dict[str, dict[str, Any]] = {
    "task_aligned": FREE,
    "simota": {**FREE, "loss": partial(AnchorFreeLoss, assignment="simota")},
    "modern": {**MODERN, "loss": partial(YOLOLoss, law="modern")},
    "positives": {**MODERN, "loss": partial(YOLOLoss, law="modern", reduction="positives")},
}
OBJECTS = (6, 5, 1, 0)  # of four pictures: unevenly shared by two processes


class Still(pl.Callback):
    """Normalisation by fixed statistics: those of a batch differ with the batch, whatever the loss does."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        for module in pl_module.modules():
            if isinstance(module, BatchNorm2d):
                module.eval()


def batch(pictures: slice) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    corner = torch.rand(4, 6, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 6 + 16 * torch.rand(4, 6, 2, generator=generator)], dim=-1)
    labels = torch.randint(0, 3, (4, 6), generator=generator)
    rows = range(4)[pictures]
    return {
        "image": image[pictures],
        "boxes": [boxes[i, : OBJECTS[i]] for i in rows],
        "labels": [labels[i, : OBJECTS[i]] for i in rows],
        "crowd": [torch.zeros(OBJECTS[i], dtype=torch.bool) for i in rows],
        "index": torch.tensor(rows),
    }


def step(name: str, pictures: slice, folder: Path, **options: Any) -> tuple[float, dict[str, Tensor]]:
    """The loss of one step, and what it added to the weights; at a rate of 1 that is minus the gradient."""
    pl.seed_everything(0, verbose=False)
    settings = dict(DETECTORS[name])
    if "loss" in settings:
        settings["loss"] = settings["loss"]()
    task = YOLODetector(["a", "b", "c"], **settings, optimizer=partial(SGD, lr=1.0), warmup=0.0)
    before = {key: value.detach().clone() for key, value in task.named_parameters()}
    hidden = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, callbacks=[Still()], default_root_dir=folder, **hidden, **options
    )  # type: ignore[arg-type]
    trainer.fit(task, DataLoader([batch(pictures)], batch_size=None))
    moved = {key: value.detach() - before[key] for key, value in task.named_parameters()}
    return float(trainer.callback_metrics["train/loss"]), moved


def as_a_process(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    own, losses = slice(2 * rank, 2 * rank + 2), {}
    for name in DETECTORS:
        losses[name], moved = step(name, own, folder, devices=2, strategy="ddp", use_distributed_sampler=False)
        if rank == 0:
            torch.save(moved, folder / f"{name}.pt")
    torch.distributed.destroy_process_group()
    print(json.dumps(losses))


@pytest.mark.slow  # starts two processes that import torch
def test_a_step_of_two_is_that_of_one_with_the_pictures_of_both(tmp_path: Path) -> None:
    ranks = both(__file__, "train", tmp_path)
    for name in DETECTORS:
        loss, moved = step(name, slice(0, 4), tmp_path, devices=1)
        assert sum(rank[name] for rank in ranks) / 2 == pytest.approx(loss, rel=1e-5)
        assert ranks[0][name] > 2 * ranks[1][name], name  # the control: the shares of the processes differ
        of_two = torch.load(tmp_path / f"{name}.pt")
        assert any(float(value.abs().max()) > 1e-3 for value in moved.values())
        for key, value in moved.items():
            np.testing.assert_allclose(of_two[key], value, rtol=1e-3, atol=1e-5, err_msg=f"{name}: {key}")


if __name__ == "__main__":
    as_a_process(Path(sys.argv[2]))
