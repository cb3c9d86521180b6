"""Heads and laws of the detector at equal CPU time, from scratch: mean average precision on the validation split.

    python benchmarks/detection_heads.py --root $LIT_VISION_DATA/det_bccd --format coco
        [--recipes anchor_free v3 ...] [--seconds 90] [--size 224] [--lr 0.002] [--seed 0]

One thread, bf16 and channels_last, batches of 8, AdamW; warm-up and cosine over the seconds, so that a quicker step
means more of them. Nothing is averaged and nothing chosen on the validation split: the last weights count.
"""

import argparse
import math
import time
from typing import Any

import torch

from lit_vision.data.detection import DetectionDataModule
from lit_vision.losses.anchor_free import AnchorFreeLoss
from lit_vision.losses.yolo import YOLOLoss
from lit_vision.ops.anchors import arrange_anchors, cluster_anchors
from lit_vision.tasks.detection import YOLODetector
from lit_vision.tasks.optimization import as_channels_last

FREE: dict[str, Any] = {"backbone": "csp_n", "neck": "pan", "head": "anchor_free"}
ANCHORS: dict[str, Any] = {"backbone": "csp_n", "neck": "pan", "anchors": "auto"}
MODERN: dict[str, Any] = {**ANCHORS, "head_args": {"scale_x_y": 2.0}}
RECIPES: dict[str, dict[str, Any]] = {
    "anchor_free": FREE,
    "simota": {**FREE, "loss": lambda: AnchorFreeLoss(assignment="simota")},
    "varifocal": {**FREE, "loss": lambda: AnchorFreeLoss(classification="varifocal")},
    "depthwise": {**FREE, "head_args": {"depthwise": True}},
    "v3": {"backbone": "csp_n", "anchors": "auto"},
    "v3 over pan": ANCHORS,
    "modern": {**MODERN, "loss": lambda: YOLOLoss(law="modern")},
}


class Quiet(YOLODetector):
    """Logs nothing: there is no Trainer."""

    def log(self, *args: Any, **kwargs: Any) -> None: ...

    def log_dict(self, *args: Any, **kwargs: Any) -> None: ...


def main() -> None:
    """Prints a row for each recipe."""
    options = _options()
    torch.set_num_threads(1)
    print("| recipe | steps | mAP | mAP@.5 | mAP@.75 |\n| --- | --- | --- | --- | --- |")
    for name in options.recipes:
        torch.manual_seed(options.seed)
        data = DetectionDataModule(
            options.root, format=options.format, image_size=options.size, batch_size=8, num_workers=0
        )
        task = _task(name, data)
        steps = _train(task, data, options.seconds, options.lr)
        found = _evaluate(task, data)
        print(f"| {name} | {steps} | {found['map']:.3f} | {found['map_50']:.3f} | {found['map_75']:.3f} |", flush=True)


def _task(name: str, data: DetectionDataModule) -> Quiet:
    settings = dict(RECIPES[name])
    loss = settings.pop("loss", lambda: None)()
    task = Quiet(data.class_names, loss=loss, **settings)
    if settings.get("anchors") == "auto":
        anchors: Any = task.network.anchors
        found, _ = cluster_anchors(data.training_box_sizes(), anchors.shape[:2].numel())
        anchors.copy_(arrange_anchors(found.tolist(), len(anchors)))
    as_channels_last(task)
    return task


def _train(task: Quiet, data: DetectionDataModule, seconds: float, lr: float) -> int:
    """Optimizer steps that fit into the seconds."""
    kinds = [p for p in task.parameters() if p.ndim > 1], [p for p in task.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": kinds[0]}, {"params": kinds[1], "weight_decay": 0.0}], weight_decay=0.05)
    loader: Any = data.train_dataloader()
    start, steps, epoch = time.process_time(), 0, 0
    while True:
        loader.sampler.epoch = epoch
        for batch in loader:
            progress = (time.process_time() - start) / seconds
            if progress >= 1:
                return steps
            cosine = 0.505 + 0.495 * math.cos(math.pi * (progress - 0.05) / 0.95)
            for group in optimizer.param_groups:
                group["lr"] = lr * (progress / 0.05 if progress < 0.05 else cosine)
            _step(task, optimizer, batch, steps)
            steps += 1
        epoch += 1


def _step(task: Quiet, optimizer: torch.optim.Optimizer, batch: Any, step: int) -> None:
    batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.training_step(batch, step)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(task.parameters(), 10.0)
    optimizer.step()


@torch.no_grad()
def _evaluate(task: Quiet, data: DetectionDataModule) -> dict[str, float]:
    metrics: Any = task.eval().metrics["val"]
    for batch in data.val_dataloader():
        with torch.autocast("cpu", torch.bfloat16):
            task._evaluate(batch, metrics, "val")
    return {name: float(value) for name, value in metrics.compute().items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--format", default="auto")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
