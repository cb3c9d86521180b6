"""The `lit-vision` command of the tree that this file lies in, run as a process of its own."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from process_cost import Cost, run

TREE = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "lit_vision"]


def variables(threads: int) -> dict[str, str]:
    """Of the environment: this tree's package, benchmarks' callbacks, and threads of OpenMP."""
    return {"PYTHONPATH": os.pathsep.join([str(TREE), str(TREE / "benchmarks")]), "OMP_NUM_THREADS": str(threads)}


def fit(
    experiment: str, settings: Mapping[str, Any], folder: Path, log: Path, threads: int, cores: int | None = None
) -> tuple[Cost, list[str]]:
    """`lit-vision fit`; gives its cost and the command. The run lies in `folder`."""
    own = ["--run_dir", str(folder.resolve()), "--wandb", "off"]
    words = [*COMMAND, "fit", "-c", str(TREE / experiment), *words_of(settings), *own]
    return run(words, log, variables(threads), log.parent, cores), words


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """{"model.lr_decay": 0.9} as --model.lr_decay 0.9; lists, mappings and null as JSON."""
    words: list[str] = []
    for name, value in settings.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


def predict(checkpoint: Path, images: Path, output: Path, threshold: float, log: Path, threads: int) -> Path:
    """`lit-vision predict`; gives its predictions.json."""
    options = {"ckpt_path": checkpoint, "images": images, "output": output, "threshold": threshold}
    words = [*COMMAND, "predict", *words_of({name: str(value) for name, value in options.items()})]
    run(words, log, variables(threads), log.parent)
    return output / "predictions.json"


def size_of(checkpoint: Path, image_size: int) -> dict[str, float]:
    """Parameters, and GFLOPs of a forward pass: two for each multiply-add of convolutions and matrix products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lit_vision.tasks.checkpoints import load_task

    task = load_task(checkpoint)
    images = torch.zeros(1, task.hparams.get("in_channels", 3), image_size, image_size, dtype=torch.uint8)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        task(images)
    parameters = sum(parameter.numel() for parameter in task.parameters())
    return {"parameters": parameters, "gflops": round(counter.get_total_flops() / 1e9, 3)}
