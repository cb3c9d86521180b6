"""What a detector's loss costs as data grow: objects per image, classes; assignment, loss and its gradient.

    python benchmarks/detection_cost.py [--size 416] [--batch 8] [--objects 1 10 100 500] [--classes 1 80 1000]
        [--laws darknet dense modern task_aligned simota] [--rounds 3]
    python benchmarks/detection_cost.py --epochs 1000 10000 100000 [--laws dense task_aligned]

With --epochs, what an epoch of so many boxes costs instead, ten in each image, 80 classes: assignment, loss and
gradient of all its batches, and the mean average precision of as many detections.

Milliseconds are CPU time of one thread, the least of the rounds; the peak is what the process grew by beyond the
network's outputs (Linux, glibc). `outputs` is their size: their gradient alone, which nothing that trains them can do
without, takes as much again.
"""

import argparse
import ctypes
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STRIDES = (32, 16, 8)
REG_MAX = 16


def main() -> None:
    """Prints the table."""
    options = _options()
    if options.epochs:
        show_epochs(options)
        return
    print("| law | classes | objects an image | CPU ms | peak MB | outputs MB |\n| --- | --- | --- | --- | --- | --- |")
    for law, classes, objects in product(options.laws, options.classes, options.objects):
        found = measure(law, classes, objects, options.size, options.batch, options.rounds)
        numbers = f"{found['ms']:.0f} | {found['peak']:.0f} | {found['outputs']:.0f}"
        print(f"| {law} | {classes} | {objects} | {numbers} |", flush=True)


def show_epochs(options: argparse.Namespace) -> None:
    """Prints the table of epochs."""
    print("| law | boxes an epoch | loss, CPU s | ms a 1,000 boxes | peak MB | mAP, CPU s | kept for it, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for law, boxes in product(options.laws, options.epochs):
        found = epoch(law, boxes, options.size, options.batch)
        numbers = f"{found['loss']:.1f} | {1e6 * found['loss'] / boxes:.0f} | {found['peak']:.0f}"
        print(f"| {law} | {boxes} | {numbers} | {found['map']:.2f} | {found['kept']:.1f} |", flush=True)


def epoch(law: str, count: int, size: int, batch: int, objects: int = 10, classes: int = 80) -> dict[str, float]:
    """One epoch of `count` boxes: seconds and megabytes of its losses, and of its metric."""
    import torch

    from lit_vision.metrics.detection import STATES, MeanAveragePrecision

    torch.set_num_threads(1)
    torch.manual_seed(0)
    loss, network, channels = _law(law, classes)
    shapes = [(batch, channels, size // stride, size // stride) for stride in STRIDES]
    outputs = [(torch.randn(shape) - 2).to(memory_format=torch.channels_last).requires_grad_() for shape in shapes]
    metric, steps = MeanAveragePrecision([str(k) for k in range(classes)]), -(-count // (objects * batch))
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, seconds = _memory("VmHWM"), {"loss": 0.0, "map": 0.0}
    for step in range(steps):
        boxes, labels = _objects(classes, objects, size, batch)
        start = time.process_time()
        crowd = [torch.zeros(len(own), dtype=torch.bool) for own in labels]
        loss(outputs, network, boxes, labels, crowd).total.backward()
        for output in outputs:
            output.grad = None
        middle = time.process_time()
        found = [
            {"boxes": own + 2, "labels": kinds, "scores": torch.rand(objects)}
            for own, kinds in zip(boxes, labels, strict=True)
        ]
        metric.update(torch.arange(step * batch, (step + 1) * batch), found, boxes, labels)
        seconds["loss"] += middle - start
        seconds["map"] += time.process_time() - middle
    peak, start = _memory("VmHWM") - before, time.process_time()
    metric.compute()
    seconds["map"] += time.process_time() - start
    kept = sum(row.nbytes for name in STATES for row in getattr(metric, name)) / 2**20
    return {**seconds, "peak": peak, "kept": kept}


def measure(law: str, classes: int, objects: int, size: int, batch: int, rounds: int) -> dict[str, float]:
    """One case: CPU milliseconds and megabytes of loss and gradient for a batch."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    loss, network, channels = _law(law, classes)
    shapes = [(batch, channels, size // stride, size // stride) for stride in STRIDES]
    outputs = [(torch.randn(shape) - 2).to(memory_format=torch.channels_last).requires_grad_() for shape in shapes]
    boxes, labels = _objects(classes, objects, size, batch)
    crowd = [torch.zeros(len(own), dtype=torch.bool) for own in labels]
    ctypes.CDLL(None).malloc_trim(0)  # what earlier cases freed would else be taken again without being seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, best = _memory("VmHWM"), float("inf")
    for _ in range(rounds):
        start = time.process_time()
        loss(outputs, network, boxes, labels, crowd).total.backward()
        best = min(best, time.process_time() - start)
        for output in outputs:
            output.grad = None
    megabytes = sum(output.numel() for output in outputs) * 4 / 2**20
    return {"ms": 1000 * best, "peak": _memory("VmHWM") - before, "outputs": megabytes}


def _law(name: str, classes: int) -> tuple[Any, Any, int]:
    """The loss, what it asks of a network, and the channels of the outputs."""
    from lit_vision.losses.anchor_free import AnchorFreeLoss
    from lit_vision.losses.yolo import YOLOLoss
    from lit_vision.ops.anchors import PAPER_ANCHORS, arrange_anchors
    from lit_vision.ops.grid import grid_of

    if name in ("task_aligned", "simota"):
        network = SimpleNamespace(strides=STRIDES, reg_max=REG_MAX)
        return AnchorFreeLoss(assignment=name), network, 4 * (REG_MAX + 1) + classes
    anchors = arrange_anchors(PAPER_ANCHORS, 3)
    scale = (2.0 if name == "modern" else 1.0,) * 3
    network = SimpleNamespace(strides=STRIDES, anchors=anchors, grid=lambda raw: grid_of(raw, anchors, STRIDES, scale))
    return YOLOLoss(law=name), network, 3 * (5 + classes)


def _objects(classes: int, objects: int, size: int, batch: int) -> tuple[list[Any], list[Any]]:
    """Boxes from 8 pixels to the whole picture, as many small as large on a logarithmic scale."""
    import torch

    boxes, labels = [], []
    for _ in range(batch):
        sides = 8 * (size / 8) ** torch.rand(objects, 2)
        corner = torch.rand(objects, 2) * (size - sides)
        boxes.append(torch.cat([corner, corner + sides], dim=1))
        labels.append(torch.randint(classes, (objects,)))
    return boxes, labels


def _memory(key: str) -> float:
    """A line of /proc/self/status in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, nargs="+", default=[], help="boxes of an epoch: the other table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 10, 100, 500])
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 80, 1000])
    parser.add_argument("--laws", nargs="+", default=["darknet", "dense", "modern", "task_aligned", "simota"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
