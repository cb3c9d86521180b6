"""What features computed once save: seconds of a head-only epoch with and without cache_features.

    python benchmarks/feature_cache.py [--rounds 5] [--epochs 4] [--size 224] [--batch 32] [--augmentation none]
        [--shared ../shared] [--pictures 320]

Trains the last layer of MobileNet v1 x0.25 through the command line, checkpoints, metrics and validation included, on
the shared flowers with the shared ImageNet weights where they are, else on drawn pictures with random weights. Rounds
with and without the cache take turns; medians of each kind of epoch: without the cache, the first of each view with
it (which computes the features), and later ones. An epoch runs from its start to the start of the next. Epochs from
pictures leave out the first, in which the loader's processes start.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml

from lit_vision.cli.vision_cli import run
from lit_vision.data.shapes import draw_shapes

VIEWS = 2


class Epochs(pl.Callback):
    """Seconds from the start of each epoch to the start of the next; the validation's part of it."""

    seconds: list[float] = []  # noqa: RUF012  read after the run, in which the command line makes the object
    images = 0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._mark()

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._mark()
        loader: Any = trainer.train_dataloader
        Epochs.images = len(loader) * loader.batch_size

    def _mark(self) -> None:
        now = time.perf_counter()
        if hasattr(self, "_start"):
            self.seconds.append(now - self._start)
        self._start = now


def experiment(options: argparse.Namespace, root: Path, weights: Path | None, cached: bool) -> dict[str, Any]:
    network = {"backbone": "mobilenetv1_100", "backbone_args": {"channel_multiplier": 0.25, "pad_type": "same"}}
    cache = {"cache_features": cached, "cache_views": VIEWS} if cached else {}
    data = {"root": str(root), "image_size": options.size, "fit": "crop", "batch_size": options.batch}
    return {
        "model": {
            "class_path": "TransferClassifier",
            "init_args": {**network, "weights": str(weights) if weights else None, "freeze": "backbone", **cache},
        },
        "data": {
            "class_path": "ClassificationDataModule",
            "init_args": {**data, "augmentation": options.augmentation, "num_workers": options.workers},
        },
        "trainer": {
            "max_epochs": options.epochs,
            "callbacks": [{"class_path": "__main__.Epochs"}],
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "wandb": "off",
    }


def epochs(options: argparse.Namespace, root: Path, weights: Path | None, cached: bool) -> list[float]:
    """Seconds of each epoch of one run."""
    Epochs.seconds = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(yaml.safe_dump(experiment(options, root, weights, cached)))
        run("fit", ["-c", str(path), "--runs", f"{folder}/runs"])
    return Epochs.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--augmentation", default="none", choices=("none", "default"))
    parser.add_argument("--pictures", type=int, default=320)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    root, weights = (
        options.shared / "data/cls_flowers5",
        options.shared / "weights/mobilenetv1_025_imagenet.safetensors",
    )
    with tempfile.TemporaryDirectory() as folder:
        if not root.is_dir():
            root = draw_shapes(Path(folder) / "drawn", options.pictures // 2, 40, 2, size=256) / "classification"
        compare(options, root, weights if weights.is_file() else None)


def compare(options: argparse.Namespace, root: Path, weights: Path | None) -> None:
    views = VIEWS if options.augmentation != "none" else 1
    kinds: dict[str, list[float]] = {"pictures": [], "features, computed": [], "features, kept": []}
    for number in range(options.rounds):
        plain, kept = (epochs(options, root, weights, cached) for cached in (False, True))
        kinds["pictures"] += plain[1:]
        kinds["features, computed"] += kept[:views]
        kinds["features, kept"] += kept[views:]
        print(f"round {number}: {[round(s, 2) for s in plain]} {[round(s, 2) for s in kept]}", flush=True)
    base = statistics.median(kinds["pictures"])
    print(f"\n{Epochs.images} training pictures of {root.name}, {options.size} px, batches of {options.batch}")
    print(f"{'epoch from':<22}{'seconds':>9}{'x faster':>10}{'images/s':>10}")
    for name, seconds in kinds.items():
        middle = statistics.median(seconds)
        print(f"{name:<22}{middle:>9.3f}{base / middle:>10.1f}{Epochs.images / middle:>10.0f}")


if __name__ == "__main__":
    main()
