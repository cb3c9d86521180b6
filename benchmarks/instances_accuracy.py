"""What the second network is worth: one mask against two, on nuclei of DSB 2018, all trained for the same CPU seconds.

For each seed two U-Nets are trained together on the training split, and from the very same maps of the validation
pictures objects are made in five ways:

    one network + components          network one alone, connected parts
    one network + distance watershed  network one alone, scikit-image's usual pipeline
    two networks, subtracted          mask one minus mask two, connected parts
    two networks, given back          the same, and the border given back; the best thresholds of a grid
    ..., as the task seeks            the same with those that are surely better than the usual ones: InstanceSegmenter

Each way has its own thresholds, found on one half of the validation pictures and reported on the other, and the other
way round, so that nothing is tuned on what it is measured on. The rows with one network pay for half a training only:
--train pixels gives one network all the CPU seconds. Peers are measured from label maps that they have written:
see benchmarks/instances_peers.py and --label_maps.

    LIT_VISION_DATA=../shared/data python benchmarks/instances_accuracy.py --output dsb.jsonl --seeds 0 1 2
    python benchmarks/instances_accuracy.py --output dsb.jsonl --show

A line of JSON for each way and seed; what is there is not done again.
"""

import argparse
import json
import os
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from instances_ways import SURE, Picture, best_of, measured, pictures_of, reported, surest_of, ways_of
from torch.optim import AdamW

from lit_vision.data.decode import read_label_map
from lit_vision.data.instances import InstanceDataModule
from lit_vision.ops.instances import relabel
from lit_vision.ops.separation import LEVELS, Maps
from lit_vision.tasks.instances import InstanceSegmenter

NETWORK: dict[str, Any] = {
    "decoder": "unet",
    "encoder": "mobilenetv1_100",
    "encoder_args": {"channel_multiplier": 0.25, "pad_type": "same"},
    "decoder_args": {"decoder_channels": [64, 32, 24, 16, 8]},
}
USUAL_DATA = "inst_dsb2018"
SHOWN = ("ap", "ap_50", "pq", "f1_50", "f1_75", "f1_90", "aji", "merged", "split", "count_error")
WARM = 4  # steps that say how long one takes


# --- training -------------------------------------------------------------------------------------------------------
class StopWatch(pl.Callback):
    """CPU seconds of the training, of all threads of this process, step by step with the reading of its pictures.

    The peers' seconds hold theirs, too; without, this side would train longer.
    """

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_fit_start(self, *_: Any) -> None:
        self.last = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.process_time()
        self.steps.append(now - self.last)
        self.last = now


def data_of(options: argparse.Namespace) -> InstanceDataModule:
    return InstanceDataModule(
        str(options.data),
        format="labelmaps",
        options={"classes": ["nucleus"]},
        image_size=options.crop,
        fit="native",
        depth=options.depth,
        batch_size=options.batch,
        num_workers=0,
        border_radius=int(options.radius) if options.radius.isdigit() else "auto",
        gap_weight=options.gap_weight,
        seed=options.seed,
        check=False,
    )


def task_of(options: argparse.Namespace) -> InstanceSegmenter:
    return InstanceSegmenter(
        ["nucleus"],
        weights=options.weights,
        shared_encoder=options.shared,
        train=options.train,
        border_pixel_weight=options.border_pixel_weight,
        optimizer=partial(AdamW, lr=options.lr, weight_decay=0.05),
        pixel_threshold=0.5,
        border_threshold=0.3,
        min_area=20,
        **{**NETWORK, **options.network},
    )


def trainer_of(steps: int, watch: StopWatch, precision: Any) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[watch],
    )


def trained(options: argparse.Namespace) -> tuple[InstanceSegmenter, dict[str, float]]:
    """The networks after as many steps as the CPU seconds allow, a few steps of which were used to find out."""
    pl.seed_everything(options.seed, verbose=False)
    trial = StopWatch()
    trainer_of(WARM, trial, options.precision).fit(task_of(options), data_of(options))
    steps = max(round((options.seconds - sum(trial.steps)) / float(np.median(trial.steps[1:]))), 2)
    pl.seed_everything(options.seed, verbose=False)
    task, watch = task_of(options), StopWatch()
    trainer_of(steps, watch, options.precision).fit(task, data_of(options))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    spent = {"steps": steps, "cpu_seconds": round(sum(trial.steps) + sum(watch.steps), 1), "gib": round(peak, 2)}
    return task.eval(), spent


# --- files ----------------------------------------------------------------------------------------------------------
def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    values = ", ".join(f"{name} {row['metrics'][name]:.3f}" for name in SHOWN[:5])
    print(f"seed {row['seed']}, {row['way']}: {values}", flush=True)


def settings_of(options: argparse.Namespace) -> dict[str, str]:
    """What rows must share to be of one table; data and network only where they are not the usual ones."""
    settings = {name: str(value) for name, value in vars(options).items() if name in SETTINGS}
    if options.network:
        settings = {"network": json.dumps(options.network), **settings}
    return settings if options.data.name == USUAL_DATA else {"data": options.data.name, **settings}


def run_seed(options: argparse.Namespace) -> None:
    settings = settings_of(options)
    done = {
        row["way"] for row in lines_of(options.output) if (row["seed"], row["settings"]) == (options.seed, settings)
    }
    ways = {name: way for name, way in ways_of(options.train).items() if name not in done}
    if not ways:
        return
    task, spent = trained(options)
    pictures = pictures_of(task, data_of(options))
    for name, way in ways.items():
        metrics = reported(way, pictures, surest_of if name == SURE else best_of)
        row = {"seed": options.seed, "way": name, "settings": settings, **spent, "metrics": metrics}
        add(options.output, row)


def from_label_maps(options: argparse.Namespace) -> None:
    """Measures what a peer has written: <folder>/<name of the picture>.png or .tif for each validation picture."""
    data = data_of(options)
    found, dataset = [], data.dataset("val")
    for place, i in enumerate(data.index.indices("val").tolist()):
        sample = dataset[place]
        height, width = sample["size"].tolist()
        truth = sample["instances"].numpy()[:height, :width]
        stem = Path(data.index.files.text(i)).stem
        file = next(path for path in sorted(options.label_maps.glob(f"{stem}.*")) if path.suffix in (".png", ".tif"))
        predicted = relabel(read_label_map(file))[0]
        sure = np.full(truth.shape, LEVELS, np.uint8)  # peers' label maps have no scores: only unranked metrics compare
        found.append((Picture(Maps(sure, sure, sure), truth, stem), predicted))
    facts = json.loads((options.label_maps / "facts.json").read_text())
    settings = {} if options.data.name == USUAL_DATA else {"data": options.data.name}
    add(options.output, {"seed": options.seed, "settings": settings, "metrics": measured(found), **facts})


def show(path: Path) -> None:
    rows = lines_of(path)
    keys = list(dict.fromkeys((row["way"], json.dumps(row["settings"])) for row in rows))
    for settings in dict.fromkeys(key[1] for key in keys):
        print(f"\n{settings}")
        print(f"| way | seeds | CPU s | GiB | {' | '.join(SHOWN)} |\n| --- | --- | --- | --- |{' --- |' * len(SHOWN)}")
        for way in [way for way, own in keys if own == settings]:
            mine = [row for row in rows if (row["way"], json.dumps(row["settings"])) == (way, settings)]
            means = [np.mean([row["metrics"][name] for row in mine]) for name in SHOWN]
            ends = [[row["metrics"][name] for row in mine] for name in SHOWN]
            cells = [
                f"{m:.3f}" + (f" ({min(e):.3f}-{max(e):.3f})" if len(e) > 1 else "")
                for m, e in zip(means, ends, strict=True)
            ]
            seconds = f"{np.mean([row['cpu_seconds'] for row in mine]):.0f}"
            peak = min(row.get("gib", float("nan")) for row in mine)  # a later seed's holds what earlier ones left
            print(f"| {way} | {len(mine)} | {seconds} | {peak} | {' | '.join(cells)} |")


SETTINGS = (
    "seconds",
    "scratch",
    "crop",
    "batch",
    "lr",
    "precision",
    "shared",
    "train",
    "radius",
    "gap_weight",
    "border_pixel_weight",
    "depth",
)


def main() -> None:
    root = Path(os.environ.get("LIT_VISION_DATA", "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--show", action="store_true", help="only print the table")
    parser.add_argument("--data", type=Path, default=root / USUAL_DATA, help="label maps with splits")
    parser.add_argument("--weights", default=str(root / "../weights/mobilenetv1_025_imagenet.safetensors"))
    parser.add_argument("--scratch", action="store_true", help="no pretrained encoder, as the peers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds of each training")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--network", type=yaml.safe_load, default={}, help="YAML of other arguments of the task")
    parser.add_argument("--shared", action="store_true", help="one encoder for both decoders")
    parser.add_argument("--train", choices=["both", "pixels"], default="both")
    parser.add_argument("--precision", default="32-true", help="of ours: bf16-mixed takes half the seconds of a step")
    parser.add_argument("--radius", default="auto", help="of the border: auto, or pixels")
    parser.add_argument("--gap_weight", type=float, default=0.0)
    parser.add_argument("--border_pixel_weight", type=float, default=5.0)
    parser.add_argument("--depth", default="full", help="stretch_all spreads each picture's own range, as the peers do")
    parser.add_argument("--label_maps", type=Path, help="a folder of a peer's label maps to measure instead")
    options = parser.parse_args()
    if options.scratch:
        options.weights = None
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for seed in [] if options.show else options.seeds:
        options.seed = seed
        from_label_maps(options) if options.label_maps else run_seed(options)
    show(options.output)


if __name__ == "__main__":
    main()
