"""Fine-tuning by lit_vision against a plain loop of timm's own pieces: same network, weights, data, epochs, optimizer.

    LIT_VISION_DATA=../shared/data python benchmarks/transfer.py [--pack flowers5] [--epochs 8] [--seeds 0 1 2]

Prints accuracy on the validation split after the last epoch, and the median seconds of a training epoch without the
first, in which the loaders start. The two take turns within each seed, and who begins changes with it.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import AdamW

from lit_vision.callbacks.seeding import StepSeeds
from lit_vision.data import ClassificationDataModule
from lit_vision.tasks import TransferClassifier

BATCH, WORKERS, LR, DECAY, SMOOTHING = 32, 2, 1e-3, 0.05, 0.1
CROP_AREA, JITTER = (0.35, 1.0), 0.25
HALVES = [0.5, 0.5, 0.5]  # mean and std of the weights' pixels


class Clock(pl.Callback):
    """Seconds of each training epoch, as the loop over its batches."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def ours(root: Path, weights: Path, size: int, epochs: int, seed: int) -> tuple[float, list[float]]:
    """Accuracy and seconds of each epoch."""
    pl.seed_everything(seed)
    options: dict[str, Any] = {"image_size": size, "fit": "crop", "batch_size": BATCH, "num_workers": WORKERS}
    data = ClassificationDataModule(str(root), check=False, seed=seed, **options)
    task = TransferClassifier(
        data.class_names,
        backbone="mobilenetv1_100",
        backbone_args={"channel_multiplier": 0.25, "pad_type": "same"},
        weights=str(weights),
        label_smoothing=SMOOTHING,
        optimizer=lambda groups: AdamW(groups, lr=LR, weight_decay=DECAY),
    )
    clock = Clock()
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[StepSeeds(seed), clock],
        limit_val_batches=0,
        use_distributed_sampler=False,
        default_root_dir=tempfile.gettempdir(),
        **off,
    )
    trainer.fit(task, data)
    return trainer.test(task, data, verbose=False)[0]["test/accuracy"], clock.seconds


def plain(root: Path, weights: Path, size: int, epochs: int, seed: int) -> tuple[float, list[float]]:
    """The same with timm's dataset, transforms, loader, optimizer, schedule and loss, as its train.py puts them."""
    from safetensors.torch import load_file
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.models.efficientnet import _gen_mobilenet_v1
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    torch.manual_seed(seed)
    classes = len(list((root / "train").iterdir()))
    variant: dict[str, Any] = {"channel_multiplier": 0.25, "pad_type": "same", "num_classes": classes}
    network: nn.Module = _gen_mobilenet_v1("mobilenetv1_100", pretrained=False, **variant)
    tensors = {key: value for key, value in load_file(weights).items() if not key.startswith("classifier")}
    network.load_state_dict(tensors, strict=False)
    network = network.to(memory_format=torch.channels_last)
    common: dict[str, Any] = {"input_size": (3, size, size), "batch_size": BATCH, "use_prefetcher": False}
    common |= {"mean": HALVES, "std": HALVES, "num_workers": WORKERS, "device": torch.device("cpu")}
    folders = {name: create_dataset("", root=str(root), split=name) for name in ("train", "val")}
    augment = {"scale": CROP_AREA, "color_jitter": JITTER, "is_training": True, "persistent_workers": True}
    train = create_loader(folders["train"], **common, **augment)
    test = create_loader(folders["val"], **common, crop_pct=1.0, persistent_workers=False)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=LR, weight_decay=DECAY)
    steps = epochs * len(train)
    schedule = CosineLRScheduler(
        optimizer, steps, LR * 0.01, warmup_t=steps // 20, warmup_lr_init=LR / 10, t_in_epochs=False
    )
    loss_of, seconds, step = LabelSmoothingCrossEntropy(SMOOTHING), [], 0
    for _ in range(epochs):
        network.train()
        start = time.perf_counter()
        for images, labels in train:
            loss = loss_of(network(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            schedule.step_update(step)
        seconds.append(time.perf_counter() - start)
    network.eval()
    with torch.no_grad():
        right = [(network(images).argmax(1) == labels).float() for images, labels in test]
    return float(torch.cat(right).mean()), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", default="flowers5")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    data = Path(os.environ["LIT_VISION_DATA"]).resolve()
    root, weights = data / f"cls_{options.pack}", data.parent / "weights/mobilenetv1_025_imagenet.safetensors"
    ways = {"lit_vision": ours, "plain timm": plain}
    found: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in ways}
    for turn, seed in enumerate(options.seeds):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            found[name].append(ways[name](root, weights, options.size, options.epochs, seed))
    medians = {name: statistics.median(s for _, seconds in runs for s in seconds[1:]) for name, runs in found.items()}
    for name, runs in found.items():
        values = [value for value, _ in runs]
        shown = ", ".join(f"{value:.3f}" for value in values)
        ratio = medians[name] / medians["plain timm"]
        print(
            f"{name:<12} accuracy {statistics.mean(values):.3f} ({shown}), {medians[name]:.2f} s an epoch, x{ratio:.2f}"
        )


if __name__ == "__main__":
    main()
