"""Milliseconds of one core for a training sample of detection: alone, mosaic, mosaic and mixup; 640 x 480 JPEGs to 416.

Counted is the time of the processor, batches of 16 and their collation included, so that other work on the machine
disturbs little; the ways take turns, and medians are compared. The same ranges of augmentation everywhere.

    python benchmarks/detection_samples.py [--rounds 20] [--peers <python that has ultralytics>]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

PICTURES, BATCH, SIDE = 320, 16, 416  # more pictures than ultralytics keeps between batches (8 batches)
RANGES = {"flip": 0.5, "scale": 0.5, "translate": 0.1, "hue": 0.015, "saturation": 0.7, "brightness": 0.4}
THEIRS = {"fliplr": 0.5, "scale": 0.5, "translate": 0.1, "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4}
MIXES = {"alone": (0.0, 0.0), "mosaic": (1.0, 0.0), "mosaic + mixup": (1.0, 1.0)}

Make = Callable[[int], object]  # a batch, from its number


def draw(root: Path) -> Path:
    """Pictures with nine boxes each, in YOLO's layout."""
    rng = np.random.default_rng(0)
    for split, count in (("train", PICTURES), ("val", 2)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            picture = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / "images" / split / f"{i}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
            lines = [f"{k % 2} {x} {y} 0.14 0.15" for k, (x, y) in enumerate(rng.uniform(0.1, 0.9, (9, 2)))]
            (root / "labels" / split / f"{i}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: a, 1: b}\n")
    return root


def numbered(batch: int) -> list[int]:
    """Pictures of a batch, from one epoch to the next the same ones."""
    return [(batch * BATCH + k) % PICTURES for k in range(BATCH)]


def ours(root: Path) -> dict[str, Make]:
    import torch

    from lit_vision.data.augmentation import Augmentation
    from lit_vision.data.detection import DetectionDataModule
    from lit_vision.data.sampler import Turn

    torch.set_num_threads(1)

    def way(mosaic: float, mixup: float, cache_gib: float) -> Make:
        augmentation = Augmentation(**RANGES, mosaic=mosaic, mixup=mixup)
        settings = {"image_size": SIDE, "batch_size": BATCH, "num_workers": 0, "cache_gib": cache_gib}
        loader = DetectionDataModule(str(root), augmentation=augmentation, **settings).train_dataloader()
        make, collate = loader.dataset.__getitems__, loader.collate_fn
        return lambda number: collate(make([Turn(number, i, 0, k) for k, i in enumerate(numbered(number))]))

    ways = {name: way(*mix, 0.0) for name, mix in MIXES.items()}
    return ways | {f"{name}, pictures in memory": way(*mix, 1.0) for name, mix in MIXES.items()}


def ultralytics(root: Path) -> dict[str, Make]:
    """Runs in the other Python. Its defaults but for what is compared."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset

    def way(mosaic: float, mixup: float) -> Make:
        chosen = {**THEIRS, "mosaic": mosaic, "mixup": mixup, "imgsz": SIDE, "task": "detect", "cache": False}
        names = {"names": {0: "a", 1: "b"}, "nc": 2, "channels": 3}
        images = str(root / "images" / "train")
        dataset = build_yolo_dataset(get_cfg(overrides=chosen), images, BATCH, names, mode="train")
        return lambda number: dataset.collate_fn([dataset[i] for i in numbered(number)])

    return {name: way(*mix) for name, mix in MIXES.items()}


def seconds(ways: dict[str, Make], turn: int) -> dict[str, float]:
    """Processor seconds of one batch in each way."""
    taken = {}
    for name, make in ways.items():
        start = time.thread_time()
        make(turn)
        taken[name] = time.thread_time() - start
    return taken


def medians(ways: dict[str, Make], peer: "Peer | None", rounds: int) -> dict[str, float]:
    """Milliseconds of a sample in each way; all take turns, since how fast the machine is changes by the second."""
    warm = PICTURES // BATCH  # the first epoch fills what is kept in memory
    rows = [seconds(ways, turn) | (peer.seconds(turn) if peer else {}) for turn in range(rounds + warm)][warm:]
    return {name: 1000 * float(np.median([row[name] for row in rows])) / BATCH for name in rows[0]}


class Peer:
    """Another Python that makes a batch in each of its ways when asked to."""

    def __init__(self, python: str, root: Path) -> None:
        command = [python, __file__, "--inside", str(root)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, turn: int) -> dict[str, float]:
        """Processor seconds of one batch in each way."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{turn}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries print other things
                return {f"ultralytics: {name}": taken for name, taken in json.loads(line).items()}
        raise SystemExit("the other Python has ended; see its message above")


def answer(root: Path) -> None:
    """The other side of `Peer`."""
    ways = ultralytics(root)
    for line in sys.stdin:
        print(json.dumps(seconds(ways, int(line))), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peers", help="a Python with ultralytics")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.inside:
        answer(Path(arguments.inside))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = draw(Path(folder))
        peer = Peer(arguments.peers, root) if arguments.peers else None
        times = medians(ours(root), peer, arguments.rounds)
        if peer:
            peer.process.communicate()  # nothing more to do: it ends
    print(f"{'a sample':44}{'ms':>6}{'per s':>8}{'of ours alone':>15}{'of ours alike':>15}")
    for name, ms in times.items():
        alike = times[name.removeprefix("ultralytics: ")]
        print(f"{name:44}{ms:6.2f}{1000 / ms:8.0f}{ms / times['alone']:14.2f}x{ms / alike:14.2f}x", file=sys.stdout)


if __name__ == "__main__":
    main()
