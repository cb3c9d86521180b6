"""Semantic segmentation of CamVid: ways to train, two decoders, against a plain loop with segmentation_models_pytorch.

    LIT_VISION_DATA=../shared/data python benchmarks/segmentation.py --output segmentation.jsonl
    LIT_VISION_DATA=../shared/data python benchmarks/segmentation.py --output segmentation.jsonl --only unet 'smp loop'
    LIT_VISION_DATA=../shared/data python benchmarks/segmentation.py --output segmentation.jsonl --device cuda --jobs 12
    python benchmarks/segmentation.py --output segmentation.jsonl --show

All rows see the same number of crops of 256 pixels, have the same encoder (MobileNet v1 x0.25), decoder and learning
rate, and are tested once, after the last step, on the whole frames of the validation split, by one count of pixels.
Each cell runs in a process of its own, on one thread, --jobs of them at a time. Cells that the output holds already are
left out. Like for like with the plain loop is "pretrained, crops and mirroring"; the other rows have the default
augmentation.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, Dataset

import lit_vision.networks.mobilenet  # noqa: F401  adds the narrow MobileNet to timm's names, for both sides
from lit_vision.callbacks.seeding import StepSeeds
from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing
from lit_vision.data.augmentation import Augmentation
from lit_vision.data.segmentation import SegmentationDataModule
from lit_vision.losses.pixel_choice import OHEMCrossEntropyLoss
from lit_vision.losses.segmentation import CrossEntropyLoss, DiceLoss, SumLoss
from lit_vision.networks.weights import load_weights
from lit_vision.tasks.segmentation import SemanticSegmenter

PACK = "sem_camvid"
DECODERS: dict[str, dict[str, Any]] = {
    "unet": {"decoder_channels": [64, 32, 24, 16, 8]},
    "deeplabv3plus": {"decoder_channels": 64},
}
SEEDS = (0, 1, 2)
SIDE, BATCH, RATE, DECAY = 256, 8, 2e-3, 0.05
PLAIN = "smp loop"


@dataclass(frozen=True)
class Row:
    """One way to train with lit_vision.

    Args:
        pretrained: begins with ImageNet weights.
        at: shares of the run at which thirds of the encoder open; None = all of it trains from the start.
        loss: makes the loss; cross entropy + Dice by default.
        data: further arguments of the data module.
    """

    pretrained: bool = True
    at: tuple[float, ...] | None = None
    loss: Any = lambda: SumLoss([CrossEntropyLoss(), DiceLoss()])
    data: dict[str, Any] = field(default_factory=dict)


def hard_and_rare() -> SumLoss:
    """Cross entropy of the hardest pixels, rare classes weighted, + Dice."""
    return SumLoss([OHEMCrossEntropyLoss(class_weights="auto"), DiceLoss()])


ROWS = {
    "from scratch": Row(pretrained=False),
    "pretrained": Row(),
    "pretrained, crops and mirroring": Row(data={"augmentation": Augmentation(flip=0.5)}),  # what the plain loop sees
    "pretrained, gradual": Row(at=(0.1, 0.2, 0.3)),
    "pretrained, for rare classes": Row(loss=hard_and_rare, data={"rare_crops": 0.5}),
    "pretrained, for rare classes, crops and mirroring": Row(
        loss=hard_and_rare, data={"rare_crops": 0.5, "augmentation": Augmentation(flip=0.5)}
    ),
}


# --- lit_vision -------------------------------------------------------------------------------------------------
def train_ours(decoder: str, row: Row, seed: int, epochs: int, data: Path, device: str) -> dict[str, float]:
    """Trains and tests with lit_vision."""
    pl.seed_everything(seed)
    settings: dict[str, Any] = {"image_size": SIDE, "fit": "native", "batch_size": BATCH, "num_workers": 0}
    module = SegmentationDataModule(str(data / PACK), check=False, seed=seed, **settings, **row.data)
    task = SemanticSegmenter(
        module.class_names,
        decoder=decoder,
        encoder="mobilenetv1_100",
        encoder_args={"channel_multiplier": 0.25, "pad_type": "same"},
        weights=str(weights_of(data)) if row.pretrained else None,
        decoder_args=DECODERS[decoder],
        mean=[0.5] * 3,
        std=[0.5] * 3,
        loss=row.loss(),
        optimizer=lambda groups: AdamW(groups, lr=RATE, weight_decay=DECAY),
    )
    callbacks: list[pl.Callback] = [StepSeeds(seed)]
    if row.at is not None:
        callbacks.append(ProgressiveUnfreezing(list(row.at), "fraction", max_stages=3, measure=False))
    trainer = quiet_trainer(accelerator=device, max_epochs=epochs, callbacks=callbacks, limit_val_batches=0)
    trainer.fit(task, module)
    values = trainer.test(task, module, verbose=False)[0]
    return {name.removeprefix("test/"): value for name, value in values.items()}


def quiet_trainer(**options: Any) -> pl.Trainer:
    """A Trainer on one device that writes nothing."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(
        devices=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=tempfile.gettempdir(),
        **off,
        **options,
    )


# --- the plain loop ---------------------------------------------------------------------------------------------
class Frames(Dataset[tuple[Tensor, Tensor]]):
    """Normalised pictures and masks of a split; random crops and mirroring in training, padded frames otherwise."""

    def __init__(self, root: Path, split: str, crops: bool) -> None:
        self.images = sorted((root / "images" / split).iterdir())
        self.masks, self.crops = root / "masks" / split, crops

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = cv2.imread(str(self.images[i]))[:, :, ::-1]
        mask = cv2.imread(str(self.masks / f"{self.images[i].stem}.png"), cv2.IMREAD_UNCHANGED)
        if self.crops:
            y, x = (int(torch.randint(side - SIDE + 1, ())) for side in mask.shape)
            image, mask = image[y : y + SIDE, x : x + SIDE], mask[y : y + SIDE, x : x + SIDE]
            if torch.rand(()) < 0.5:
                image, mask = image[:, ::-1], mask[:, ::-1]
        else:
            below, right = (-side % 32 for side in mask.shape)
            image = np.pad(image, ((0, below), (0, right), (0, 0)))
            mask = np.pad(mask, ((0, below), (0, right)), constant_values=255)
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        return torch.from_numpy(pixels / 127.5 - 1), torch.from_numpy(mask.astype(np.int64))


def train_plain(decoder: str, seed: int, epochs: int, data: Path, device: str) -> dict[str, float]:
    """Trains and tests with a loop as in the examples of segmentation_models_pytorch."""
    pl.seed_everything(seed)
    names = json.loads((data / PACK / "classes.json").read_text())["classes"]
    network = smp.create_model(decoder, "tu-mobilenetv1_025", None, classes=len(names), **DECODERS[decoder])
    load_weights(network.encoder.model, weights_of(data))
    network.to(device)
    loader = DataLoader(Frames(data / PACK, "train", crops=True), BATCH, shuffle=True, drop_last=True)
    cross_entropy = nn.CrossEntropyLoss(ignore_index=255)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=255)
    optimizer = AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    network.train()
    for images, masks in (batch for _ in range(epochs) for batch in loader):
        images, masks = images.to(device), masks.to(device)
        logits = network(images)
        loss = cross_entropy(logits, masks) + dice(logits, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return _tested(network.eval(), DataLoader(Frames(data / PACK, "val", crops=False), 1), names, device)


@torch.inference_mode()
def _tested(network: nn.Module, loader: DataLoader[Any], names: Sequence[str], device: str) -> dict[str, float]:
    counts = np.zeros((len(names), len(names)), np.int64)
    for image, mask in loader:
        known, guess = mask != 255, network(image.to(device)).argmax(1).cpu()
        pairs = (mask * len(names) + guess)[known]
        counts += torch.bincount(pairs, minlength=counts.size).view(counts.shape).numpy()
    hit = counts.diagonal()
    iou = hit / (counts.sum(0) + counts.sum(1) - hit)
    by_class = {f"iou/{name}": float(value) for name, value in zip(names, iou, strict=True)}
    return {"miou": float(iou.mean()), "pixel_accuracy": float(hit.sum() / counts.sum()), **by_class}


# --- cells ------------------------------------------------------------------------------------------------------
def weights_of(data: Path) -> Path:
    """The encoder's ImageNet weights, which both sides begin with."""
    return data.parent / "weights/mobilenetv1_025_imagenet.safetensors"


def work(cell: tuple[str, str, int], epochs: int, data: Path, output: Path, device: str) -> None:
    """One cell in this process, and its line. GiB are the process's, or the GPU's that its tensors took."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    warnings.filterwarnings("ignore")
    decoder, name, seed = cell
    start, cpu = time.perf_counter(), time.process_time()
    values = (
        train_plain(decoder, seed, epochs, data, device)
        if name == PLAIN
        else train_ours(decoder, ROWS[name], seed, epochs, data, device)
    )
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**30
    result = {"decoder": decoder, "row": name, "seed": seed, "epochs": epochs, "device": device, **values}
    with output.open("a") as file:
        file.write(json.dumps({**result, "seconds": seconds, "cpu_seconds": cpu, "gib": peak}) + "\n")
    print(f"{cell}: mIoU {values['miou']:.3f} in {cpu:.0f} s of CPU", flush=True)


def done(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text().splitlines()] if output.is_file() else []


def show(results: Sequence[dict[str, Any]]) -> None:
    """Mean and range over the seeds; the three hardest classes beside the mean IoU."""
    hard = ("pole", "sign_symbol", "pedestrian")
    for epochs, device in sorted({(r["epochs"], r["device"]) for r in results}):
        header = [f"{epochs} epochs, {device}", "seeds", "mIoU", ", ".join(hard), "CPU seconds", "GiB"]
        print(f"\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
        for decoder in DECODERS:
            for name in (PLAIN, *ROWS):
                about = (decoder, name, epochs, device)
                cell = [r for r in results if (r["decoder"], r["row"], r["epochs"], r["device"]) == about]
                if cell:
                    ious = ", ".join(f"{statistics.mean(r.get(f'iou/{one}', 0.0) for r in cell):.2f}" for one in hard)
                    seconds = statistics.mean(r["cpu_seconds"] for r in cell)
                    words = [f"{decoder}, {name}", str(len(cell)), _spread([r["miou"] for r in cell]), ious]
                    print(f"| {' | '.join(words)} | {seconds:.0f} | {max(r['gib'] for r in cell):.2f} |")


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def _cells(only: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    cells = ((decoder, row, seed) for seed in SEEDS for decoder in DECODERS for row in (PLAIN, *ROWS))
    return (cell for cell in cells if all(any(word == str(value) for value in cell) for word in only))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12, help="of 45 steps each")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, each on one thread of the processor")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="*", default=[], help="words that a cell must hold, such as unet 'smp loop' 0")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if options.show:
        show(done(options.output))
        return
    data = Path(os.environ["LIT_VISION_DATA"]).resolve()
    held = {(r["decoder"], r["row"], r["seed"], r["epochs"], r["device"]) for r in done(options.output)}
    todo = [cell for cell in _cells(options.only) if (*cell, options.epochs, options.device) not in held]
    one = partial(work, epochs=options.epochs, data=data, output=options.output, device=options.device)
    start = "fork" if options.device == "cpu" else "spawn"  # CUDA does not survive a fork
    with multiprocessing.get_context(start).Pool(options.jobs, maxtasksperchild=1) as pool:
        for _ in pool.imap_unordered(one, todo):
            pass


if __name__ == "__main__":
    main()
