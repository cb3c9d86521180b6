"""Speed of detection by lit_vision: training against Ultralytics' YOLO, its loop against the bare step, NMS.

    LIT_VISION_DATA=../shared/data python benchmarks/detection.py --peer_python /tmp/peers/bin/python \\
        [--pack det_bccd] [--batch_sizes 8 16] [--cores 2 1] [--rounds 3] [--epochs 3]
    python benchmarks/detection.py --only nms

Training: images per second of whole epochs, loader and augmentation included, validation off, from the second epoch
on; medians over the rounds, in which all sides take turns. Ultralytics trains by `yolo detect train` at its defaults
(`ultralytics_command.py` says how to make its environment), with its mosaic on to the end. "At equal work" counts what
each network computes: images per second times GFLOPs of a forward pass. `--cores 1` holds each side and its loader to
one core, where no side gains from threads or workers that the other does not start.
The loop's cost: seconds of a step in the epochs, over those of the bare step (forward, loss, backward, optimizer, on
one batch in memory) before and after them in the same process.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lit_vision_command as ours
import yaml
from budget import table
from detection_accuracy import machine, prepare, slug
from ultralytics_command import Ultralytics
from ultralytics_command import size_of as peer_size

TINY = {"architecture": "yolov3-tiny", "backbone": None, "backbone_args": None, "weights": None}
FP32 = {"trainer.precision": "32-true"}
BOXES, CLASSES, KEPT = 10_000, 80, 300
IOU = 0.45


def sides(bf16: bool) -> dict[str, dict[str, Any]]:
    """Name of each way in which ours trains -> its settings."""
    made: dict[str, dict[str, Any]] = {"ours, as shipped": {}}
    if bf16:
        made["ours, fp32 channels_last"] = FP32  # what is shipped where there is no bf16
    return {**made, "ours, fp32 contiguous": {**FP32, "model.channels_last": False}}


class Training:
    """One training of each side after the other, on the same pictures."""

    def __init__(self, options: argparse.Namespace, data: Path, peer: Ultralytics) -> None:
        self.options, self.data, self.peer, self.work = options, data, peer, options.work
        self.pictures = len(list((data / "yolo/images/train").iterdir()))

    def ours(self, name: str, own: dict[str, Any], batch: int, cores: int) -> dict[str, Any]:
        """Facts of one run of ours: see `epoch_clock.EpochClock`."""
        run = slug(f"{name}-{batch}-{cores}")
        folder, log = self.work / "runs" / run, self.work / f"logs/{run}.log"
        shutil.rmtree(folder, ignore_errors=True)
        settings = {"data.root": str(self.data / "coco"), "data.format": "coco", "data.missing_classes": "note"}
        settings |= {"data.val_fraction": 0, "data.image_size": self.options.image_size, "data.batch_size": batch}
        settings |= {**self.options.set, **own, "trainer.max_epochs": self.options.epochs + 1}
        settings |= {"trainer.limit_val_batches": 0, "trainer.callbacks+": "epoch_clock.EpochClock"}
        settings |= {"trainer.callbacks.bare_steps": self.options.bare_steps}
        cost, _ = ours.fit(self.options.experiment, settings, folder, log, self.options.threads or cores, cores)
        facts = json.loads((folder / "epochs.json").read_text()) | {"busy": cost.cpu_seconds / cost.wall_seconds}
        return {**facts, **ours.size_of(folder / "checkpoints/last.ckpt", self.options.image_size)}

    def theirs(self, batch: int, cores: int) -> dict[str, Any]:
        """Facts of one run of the peer."""
        run = slug(f"peer-{batch}-{cores}")
        shutil.rmtree(self.work / "runs" / run, ignore_errors=True)
        settings = {"model": self.options.peer_model, "data": self.data / "yolo/data.yaml", "batch": batch}
        settings |= {"imgsz": self.options.image_size, "epochs": self.options.epochs + 1}
        cost, _ = self.peer.train(run, {**settings, "val": False, "close_mosaic": 0}, cores)
        log = self.peer.log(run).read_text(errors="replace")
        facts = {"epoch_seconds": self.peer.epoch_seconds(run), "images": self.pictures, "precision": "32"}
        busy = cost.cpu_seconds / cost.wall_seconds
        return {**facts, "layout": "its default", "busy": busy, **peer_size(log, self.options.image_size)}

    def compare(self, batch: int, cores: int) -> list[list[str]]:
        """Rows of the table for one batch size."""
        ways: dict[str, Callable[[], dict[str, Any]]] = {
            name: lambda name=name, own=own: self.ours(name, own, batch, cores)
            for name, own in sides(has_bf16()).items()
        }
        ways[f"ultralytics {self.options.peer_model}"] = lambda: self.theirs(batch, cores)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        for turn in range(self.options.rounds):
            for name in list(ways)[:: -1 if turn % 2 else 1]:
                found[name].append(ways[name]())
                print(
                    f"batch {batch}, {cores} cores, round {turn}: {name} {speed(found[name][-1:]):.2f} images/s",
                    flush=True,
                )
        return [row(name, runs, list(found.values())[-1], batch, cores) for name, runs in found.items()]


def speed(runs: Sequence[dict[str, Any]]) -> float:
    """Images per second: those of an epoch over its median seconds."""
    return runs[0]["images"] / statistics.median(second for one in runs for second in one["epoch_seconds"])


def loop_cost(runs: Sequence[dict[str, Any]]) -> float | None:
    """What the loop adds to the bare step, as a share of it; None where that was not measured."""
    bare = [second for one in runs for second in one.get("bare_step_seconds", [])]
    if not bare:
        return None
    whole = statistics.median(second / one["steps"] for one in runs for second in one["epoch_seconds"])
    return whole / statistics.median(bare) - 1


def row(name: str, runs: Sequence[dict[str, Any]], peer: Sequence[dict[str, Any]], batch: int, cores: int) -> list[str]:
    ratio = speed(runs) / speed(peer)
    work = ratio * runs[0]["gflops"] / peer[0]["gflops"]
    cost = loop_cost(runs)
    busy = statistics.median(one["busy"] for one in runs)
    facts = [str(batch), f"{busy:.1f} of {cores}", name, f"{runs[0]['precision']}, {runs[0]['layout']}"]
    added = "-" if cost is None else f"{100 * cost:+.0f} %"
    return [*facts, f"{runs[0]['gflops']:.2f}", f"{speed(runs):.2f}", f"x{ratio:.2f}", f"x{work:.2f}", added]


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware (avx512_bf16 or amx_bf16)."""
    from lit_vision.cli.trainer_defaults import cpu_has_bf16

    return cpu_has_bf16()


def nms(rounds: int) -> None:
    """Prints the time to choose detections among 10,000 boxes: ours against torchvision's batched_nms."""
    import torch
    from torchvision.ops import batched_nms

    from lit_vision.ops.boxes import select_detections

    generator = torch.Generator().manual_seed(0)
    corners = (torch.rand(BOXES // 20, 1, 2, generator=generator) * 380).expand(-1, 20, -1)
    near = corners + torch.randn(BOXES // 20, 20, 2, generator=generator) * 4
    boxes = torch.cat([near, near + 20 + torch.rand(near.shape, generator=generator) * 16], -1).reshape(-1, 4)
    labels = torch.randint(CLASSES, (BOXES // 20, 1), generator=generator).expand(-1, 20).reshape(-1)
    scores = torch.rand(BOXES, generator=generator) * 0.98 + 0.01
    lone = torch.zeros(BOXES, CLASSES).scatter_(1, labels[:, None], 1.0)
    rows = []
    cases = {"of one class": (labels * 0, torch.ones(BOXES, 1)), "picked from 10,000 x 80 scores": (labels, lone)}
    for name, (classes, chances) in cases.items():
        ways: dict[str, Callable[[], torch.Tensor]] = {
            "ours": lambda c=chances: select_detections(boxes, scores, c, 0.001, 0.001, IOU, KEPT)["scores"],
            "torchvision": lambda c=classes: scores[batched_nms(boxes, scores, c, IOU)[:KEPT]],
        }
        if not torch.equal(ways["ours"](), ways["torchvision"]()):
            raise SystemExit(f"{name}: ours and torchvision's choose differently")
        seconds = interleaved(ways, rounds)
        ratio = seconds["ours"] / seconds["torchvision"]
        rows.append([name, *(f"{1000 * seconds[way]:.2f}" for way in ways), f"x{ratio:.2f}"])
    print(table([f"NMS of {BOXES:,} boxes", "ours, ms", "torchvision batched_nms, ms", "ratio"], rows))


def interleaved(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each way; in each round all take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, do in ways.items():
            start = time.perf_counter()
            do()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--only", choices=("training", "nms"))
    parser.add_argument("--peer_python", type=Path, help="python of the peer's environment")
    parser.add_argument("--peer_model", default="yolov3-tiny.yaml")
    parser.add_argument("--experiment", default="experiments/detection/bccd.yaml")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the experiment; default: yolov3-tiny"
    )
    parser.add_argument("--pack", default="det_bccd")
    parser.add_argument("--image_size", type=int, default=416)
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[8, 16])
    parser.add_argument("--cores", type=int, nargs="*", default=[cores], help="a part of the table for each")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS; default: as many as cores")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="that are counted, after the first")
    parser.add_argument("--bare_steps", type=int, default=4, help="before and after the epochs; 0 = none")
    parser.add_argument("--work", type=Path, default=Path("runs/detection_speed"), help="for data, runs and logs")
    options = parser.parse_args()
    given = dict(word.split("=", 1) for word in options.set)
    options.set = {key: yaml.safe_load(value) for key, value in given.items()}
    options.set = options.set or {f"model.{name}": value for name, value in TINY.items()}
    return options


def main() -> None:
    options = arguments()
    options.work = options.work.resolve()
    print(f"{machine()}; bf16 in hardware: {'yes' if has_bf16() else 'no'}")
    if options.only != "training":
        nms(20)
    if options.only == "nms":
        return
    if not options.peer_python:
        raise SystemExit("give --peer_python (ultralytics_command.py says how to make it), or --only nms")
    data = prepare(Path(os.environ["LIT_VISION_DATA"]).resolve() / options.pack, options.work / "data" / options.pack)
    rows = []
    for cores in options.cores:
        peer = Ultralytics(options.peer_python, options.work, options.threads or cores)
        for batch in options.batch_sizes:
            rows += Training(options, data, peer).compare(batch, cores)
    header = ["batch", "cores busy", "side", "precision, layout", "GFLOPs", "images/s", "ratio", "at equal work"]
    print(table([*header, "loop over bare step"], rows))


if __name__ == "__main__":
    main()
