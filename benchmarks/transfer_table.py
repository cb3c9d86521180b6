"""Which transfer strategy? Each way to train on each pack, amount of data and seed, by one recipe.

    LIT_VISION_DATA=../shared/data python benchmarks/transfer_table.py --output table.jsonl [--part 0/2]
    LIT_VISION_DATA=../shared/data python benchmarks/transfer_table.py --output table.jsonl --advice
    python benchmarks/transfer_table.py --output table.jsonl --show

Each cell trains in a process of its own, on one thread, and is tested once, after its last step: nothing is chosen
on the pictures that it is tested on. Cells that the output holds already are left out, so a cut run goes on.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.optim import AdamW

from lit_vision.callbacks.seeding import StepSeeds
from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.data import ClassificationDataModule
from lit_vision.data.index import Index
from lit_vision.tasks import TransferClassifier
from lit_vision.transfer.advice import advise
from lit_vision.transfer.similarity import measure, pictures_per_class

PACKS = {"hymenoptera": "crop", "flowers5": "crop", "bloodcells": "stretch"}
SIZES = {"hymenoptera": 160, "flowers5": 160, "bloodcells": 128}
AMOUNTS = ("all", "20 %", "5 a class")
SEEDS = (0, 1, 2)
BATCH = 32
LEAST_EPOCHS, LEAST_STEPS = 12, 150
ADVICE = "advice"


@dataclass(frozen=True)
class Row:
    """One way to train.

    Args:
        lr: of the head.
        lr_decay: factor for each stage farther from it.
        at: shares of the run at which thirds of the backbone open; None = all of it trains from the start.
        pretrained: begins with ImageNet weights.
    """

    lr: float
    lr_decay: float = 1.0
    at: tuple[float, ...] | None = None
    pretrained: bool = True


ROWS = {
    "head only": Row(5e-3, at=()),
    "last stage": Row(2e-3, 0.5, at=(0.2,)),
    "gradual": Row(2e-3, 0.5, at=(0.2, 0.4, 0.6)),
    "head, then all": Row(2e-3, 0.5, at=(0.2, 0.2, 0.2)),
    "all layers": Row(1e-3, 0.8),
    "from scratch": Row(2e-3, pretrained=False),
}


def fewer(index: Index, amount: str, seed: int) -> Index:
    """The data set with a part of its training split: a fifth, or five of each class; the same for every row."""
    if amount == "all":
        return index
    train, splits = index.indices("train"), index.splits.copy()
    labels = index.labels[index.offsets[train]]
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        own = rng.permutation(train[labels == label])
        splits[own[5 if amount == "5 a class" else max(round(0.2 * len(own)), 1) :]] = -1
    return index.with_splits(splits)


def built(pack: str, amount: str, row: Row, seed: int, data: Path) -> tuple[TransferClassifier, Any]:
    """Task and data of one cell."""
    settings: dict[str, Any] = {"image_size": SIZES[pack], "fit": PACKS[pack], "batch_size": BATCH, "num_workers": 0}
    module = ClassificationDataModule(str(data / f"cls_{pack}"), check=False, seed=seed, **settings)
    module.__dict__["index"] = fewer(module.index, amount, seed)
    task = TransferClassifier(
        module.class_names,
        backbone="mobilenetv1_100",
        backbone_args={"channel_multiplier": 0.25, "pad_type": "same"},
        weights=str(data.parent / "weights/mobilenetv1_025_imagenet.safetensors") if row.pretrained else None,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        label_smoothing=0.1,
        optimizer=lambda groups: AdamW(groups, lr=row.lr, weight_decay=0.05),
        lr_decay=row.lr_decay,
    )
    return task, module


def train(pack: str, amount: str, name: str, seed: int, data: Path) -> dict[str, Any]:
    """Trains and tests one cell."""
    row = ROWS[name]
    pl.seed_everything(seed)
    task, module = built(pack, amount, row, seed, data)
    pictures = len(module.index.indices("train"))
    steps = max(pictures // BATCH, 1)
    epochs = max(LEAST_EPOCHS, -(-LEAST_STEPS // steps))
    callbacks: list[pl.Callback] = [StepSeeds(seed)]
    if row.at is not None:
        callbacks.append(ProgressiveUnfreezing(list(row.at), "fraction", max_stages=3, measure=False))
    start, cpu = time.perf_counter(), time.process_time()
    trainer = quiet_trainer(max_epochs=epochs, callbacks=callbacks, limit_val_batches=0)
    trainer.fit(task, module)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    accuracy = trainer.test(task, module, verbose=False)[0]["test/accuracy"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    where = {"pack": pack, "amount": amount, "row": name, "seed": seed, "pictures": pictures, "epochs": epochs}
    return {**where, "accuracy": accuracy, "seconds": seconds, "cpu_seconds": cpu, "gib": peak}


def ask(pack: str, amount: str, name: str, seed: int, data: Path) -> dict[str, Any]:
    """What the adviser, who sees the training pictures alone, says of one column and seed."""
    start = time.process_time()
    task, module = built(pack, amount, ROWS["head only"], seed, data)
    found = measure(task, module, seed=seed)
    pictures, parameters = len(module.index.indices("train")), sum(p.numel() for p in task.parameters())
    advice = advise(pictures, pictures_per_class(module), BATCH, parameters, found)
    row = next((name for name, row in ROWS.items() if row.at == advice.recipe.at), str(advice.recipe.at))
    said = {"pack": pack, "amount": amount, "row": ADVICE, "seed": seed, "advised": row, "case": advice.case}
    return {**said, "verdict": found.verdict, "cpu_seconds": time.process_time() - start}


def quiet_trainer(**options: Any) -> pl.Trainer:
    """A Trainer on one CPU that writes nothing."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=tempfile.gettempdir(),
        **off,
        **options,
    )


def work(cell: tuple[str, str, str, int], data: Path, output: Path) -> None:
    """One cell in this process, and its line."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    warnings.filterwarnings("ignore")
    result = (ask if cell[2] == ADVICE else train)(*cell, data)
    with output.open("a") as file:
        file.write(json.dumps(result) + "\n")
    said = result.get("advised") or f"{result['accuracy']:.3f}"
    print(f"{cell}: {said} in {result['cpu_seconds']:.0f} s of CPU", flush=True)


def done(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text().splitlines()] if output.is_file() else []


def show(results: Sequence[dict[str, Any]]) -> None:
    """Mean and range of the accuracy over seeds, CPU seconds and peak memory; then what was advised."""
    trained = [r for r in results if r["row"] != ADVICE]
    for pack in PACKS:
        print(f"\n| {pack} | " + " | ".join(AMOUNTS) + " | CPU seconds (all, 20 %, 5) | GiB |\n|" + " --- |" * 6)
        for name in ROWS:
            cells = [[r for r in trained if (r["pack"], r["amount"], r["row"]) == (pack, a, name)] for a in AMOUNTS]
            if any(cells):
                words = [_accuracy([r["accuracy"] for r in cell]) for cell in cells]
                seconds = ", ".join(f"{statistics.mean(r['cpu_seconds'] for r in c):.0f}" if c else "-" for c in cells)
                peak = max(r["gib"] for cell in cells for r in cell)
                print(f"| {name} | {' | '.join(words)} | {seconds} | {peak:.2f} |")
    print("\n| pack | data | best row | advised (seeds) | accuracy as advised | below the best |\n|" + " --- |" * 6)
    for pack in PACKS:
        for amount in AMOUNTS:
            _judge(pack, amount, [r for r in results if (r["pack"], r["amount"]) == (pack, amount)])


def _judge(pack: str, amount: str, column: Sequence[dict[str, Any]]) -> None:
    """One line: the mean accuracy of what was advised, seed by seed, against that of the best row."""
    values = {(r["row"], r["seed"]): r["accuracy"] for r in column if r["row"] != ADVICE}
    advised = {r["seed"]: r["advised"] for r in column if r["row"] == ADVICE}
    means = {row: statistics.mean(v for (name, _), v in values.items() if name == row) for row, _ in values}
    if not advised or any((row, seed) not in values for seed, row in advised.items()):
        return
    best = max(means, key=lambda row: means[row])
    own = statistics.mean(values[row, seed] for seed, row in advised.items())
    said = ", ".join(
        f"{row} ({', '.join(str(s) for s in advised if advised[s] == row)})" for row in {*advised.values()}
    )
    print(f"| {pack} | {amount} | {best} {means[best]:.3f} | {said} | {own:.3f} | {100 * (means[best] - own):.1f} |")


def _accuracy(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="k/n: every n-th cell, from the k-th on")
    parser.add_argument(
        "--only", nargs="*", default=[], help="words that a cell must hold, such as flowers5 'head only'"
    )
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--advice", action="store_true", help="ask the adviser about every column instead of training")
    options = parser.parse_args()
    if options.show:
        show(done(options.output))
        return
    part, parts = map(int, options.part.split("/"))
    data = Path(os.environ["LIT_VISION_DATA"]).resolve()
    rows = [ADVICE] if options.advice else list(ROWS)
    cells = [(p, a, row, seed) for seed in SEEDS for a in reversed(AMOUNTS) for p in PACKS for row in rows]
    cells = [cell for cell in cells if all(any(word == str(value) for value in cell) for word in options.only)]
    held = {(r["pack"], r["amount"], r["row"], r["seed"]) for r in done(options.output)}
    fork = multiprocessing.get_context("fork")
    for cell in cells[part::parts]:
        if cell not in held:
            child = fork.Process(target=work, args=(cell, data, options.output))
            child.start()
            child.join()
            if child.exitcode:
                raise SystemExit(f"{cell} failed with exit code {child.exitcode}")


if __name__ == "__main__":
    main()
