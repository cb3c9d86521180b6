"""Milliseconds from a picture in memory to its boxes, one picture at a time: a detector of ours against Ultralytics.

Ultralytics runs in a process of its own, by the interpreter named (its environment stays apart), once as it predicts
by default and once from its ONNX export by onnxruntime. Weights are random on both sides, so that nothing is loaded
from anywhere; its model comes from a YAML that it ships. All take turns, so that a busy machine slows all of them, and
on the same cores; medians are compared, also per multiplication, since no two networks have the same number.

    python benchmarks/detection_inference.py --peer /tmp/peers/bin/python [--ours "architecture: yolov3-tiny"]
        [--theirs yolov3-tiny.yaml] [--size 416] [--cores 1] [--rounds 40] [--precisions 32 bf16] [--cpu-time]
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from lit_vision.data.transforms import Transform
from lit_vision.tasks.detection import YOLODetector
from lit_vision.tasks.optimization import as_channels_last

WARM = 5  # rounds that do not count
PICTURE = 640  # side of the picture; square, so that both networks see `size` x `size`

# Reads the name of a way from each line, runs it once and answers with its milliseconds.
PEER = """
import json, sys, time, warnings
answers, sys.stdout = sys.stdout, sys.stderr  # whatever the libraries print goes to the log
warnings.filterwarnings("ignore")
import numpy as np, onnxruntime, torch
from torch.utils.flop_counter import FlopCounterMode
from ultralytics import YOLO

name, size, picture = sys.argv[1], int(sys.argv[2]), np.load("picture.npy")
clock, cores = getattr(time, sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(cores)
plain_session = onnxruntime.InferenceSession

def session(path, settings=None, **options):  # by default a thread for each core of the machine, allowed or not
    settings = settings or options.pop("sess_options", None) or onnxruntime.SessionOptions()
    settings.intra_op_num_threads = cores
    return plain_session(path, settings, **options)

onnxruntime.InferenceSession = session
torch.manual_seed(0)
model = YOLO(name)
with FlopCounterMode(display=False) as counter, torch.inference_mode():
    model.model.eval()(torch.zeros(1, 3, size, size))
facts = {"gflop": counter.get_total_flops() / 1e9, "parameters": sum(p.numel() for p in model.model.parameters())}
ways = {"torch": YOLO(name)}
model.save("model.pt")
ways["onnx"] = YOLO(YOLO("model.pt").export(format="onnx", imgsz=size, simplify=False), task="detect")
print(json.dumps(facts), file=answers, flush=True)
for line in sys.stdin:
    start = clock()
    ways[line.strip()].predict(picture, imgsz=size, device="cpu", verbose=False)
    print(1000 * (clock() - start), file=answers, flush=True)
"""


class Peer:
    """Ultralytics in a process of its own."""

    def __init__(self, python: str, name: str, size: int, clock: str, cores: int, picture: Any, folder: Path) -> None:
        np.save(folder / "picture.npy", picture)
        quiet = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(folder)}
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [python, "-c", PEER, name, str(size), clock, str(cores)],
            cwd=folder,
            env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **quiet},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.facts = json.loads(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer has ended:\n{Path(self.log.name).read_text()[-2000:]}")
        return line

    def run(self, way: str) -> float:
        """Milliseconds of one picture."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{way}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


def detector(arguments: dict[str, Any]) -> YOLODetector:
    torch.manual_seed(0)
    task = YOLODetector([f"class {k}" for k in range(80)], **arguments).eval()
    as_channels_last(task)
    return task


def ours(task: YOLODetector, size: int, picture: Any, precision: str) -> Callable[[], object]:
    transform = Transform((size, size), "letterbox")

    def run() -> object:
        warped = transform(picture)
        batch: Any = {"image": warped.image[None], "index": torch.tensor([0])}
        batch |= {"frame": torch.as_tensor(warped.frame)[None], "size": torch.tensor([picture.shape[:2]])}
        rounded = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
        with torch.inference_mode(), rounded:
            return task.predict_step(batch, 0)

    return run


def facts_of(task: YOLODetector, size: int) -> dict[str, float]:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        task.network(torch.zeros(1, 3, size, size))
    count = sum(parameter.numel() for parameter in task.network.parameters())
    return {"gflop": counter.get_total_flops() / 1e9, "parameters": count}


def timed(way: Callable[[], object], clock: str) -> Callable[[], float]:
    now = getattr(time, clock)

    def run() -> float:
        start = now()
        way()
        return float(1000 * (now() - start))

    return run


def medians(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Of each way's milliseconds, taking turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + WARM):
        for name, way in ways.items():
            milliseconds = way()
            if turn >= WARM:
                found[name].append(milliseconds)
    return {name: float(np.median(values)) for name, values in found.items()}


def report(times: dict[str, float], facts: dict[str, dict[str, float]]) -> None:
    references = [name for name in times if name.startswith("ultralytics")]
    print(f"{'':34}{'ms':>8}{'GFLOP':>8}{'M param':>9}" + "".join(f"{f'/ {name[12:]}':>22}" for name in references))
    for name, ms in times.items():
        own = facts["ultralytics" if name in references else "ours"]
        row = f"{name:34}{ms:8.1f}{own['gflop']:8.2f}{own['parameters'] / 1e6:9.2f}"
        for reference in references:
            faster = times[reference] / ms
            equal = faster * own["gflop"] / facts["ultralytics"]["gflop"]
            row += f"{f'{faster:.2f}x, {equal:.2f}x/GFLOP':>22}"
        print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer", help="python of an environment with ultralytics, onnx and onnxruntime; none: ours alone"
    )
    parser.add_argument("--ours", default="architecture: yolov3-tiny", help="arguments of YOLODetector, as YAML")
    parser.add_argument("--theirs", default="yolov3-tiny.yaml")
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="of the process, not of the clock: on a busy machine")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--precisions", nargs="+", default=["32", "bf16"], choices=["32", "bf16"])
    options = parser.parse_args()
    clock = "process_time" if options.cpu_time else "perf_counter"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    os.environ["OMP_NUM_THREADS"] = str(options.cores)
    torch.set_num_threads(options.cores)
    cv2.setNumThreads(options.cores)
    coarse = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (PICTURE, PICTURE), interpolation=cv2.INTER_CUBIC)
    arguments = yaml.safe_load(options.ours)
    tasks = {f"lit_vision, {precision}": detector(arguments) for precision in options.precisions}
    ways = {
        name: timed(ours(task, options.size, picture, name.rpartition(" ")[2]), clock) for name, task in tasks.items()
    }
    facts = {"ours": facts_of(detector(arguments), options.size)}
    with tempfile.TemporaryDirectory() as folder:
        peer = (
            Peer(options.peer, options.theirs, options.size, clock, options.cores, picture, Path(folder))
            if options.peer
            else None
        )
        if peer is not None:
            facts["ultralytics"] = peer.facts
            ways |= {f"ultralytics {way}": lambda way=way: peer.run(way) for way in ("torch", "onnx")}  # type: ignore[misc]
        try:
            print(f"{options.ours} against {options.theirs}, {options.size} px, {options.cores} core(s)")
            report(medians(ways, options.rounds), facts)
        finally:
            if peer is not None:
                peer.end()


if __name__ == "__main__":
    main()
