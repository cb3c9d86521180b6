"""torch.compile as an option: same losses, same checkpoints, in every task."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import RECORD, command, recorded, write_experiment
from torch import nn

from lit_vision.cli.vision_cli import VisionCLI
from lit_vision.tasks.checkpoints import load_task

COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")


def losses(task: str, root: Path, **model: Any) -> tuple[VisionCLI, list[float]]:
    """A training of two steps, and its losses: of each step, of validation."""
    sgd = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.001}}}
    options = {"limit_train_batches": 2, "callbacks": [RECORD], "num_sanity_val_steps": 0}
    experiment = write_experiment(
        Path(f"{'compiled' if model else 'eager'}.yaml"), task, root, {**sgd, **model}, {"batch_size": 2}, **options
    )
    done = command("fit", experiment)
    return done, [*recorded(done).losses, done.metrics["val/loss"]]


def agree(task: str, root: Path) -> None:
    _, expected = losses(task, root)
    compiled, found = losses(task, root, compile=True)
    assert len(found) == 3
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert expected[0] != pytest.approx(expected[1], rel=1e-4, abs=1e-4)  # the tolerance tells steps apart
    file = compiled.folder.checkpoints / "last.ckpt"
    plain = load_task(file)
    assert not plain.compiled
    batch = next(iter(compiled.datamodule.val_dataloader()))
    compiled.model.eval()
    with torch.inference_mode():
        one, other = plain(batch["image"]), compiled.model(batch["image"])
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="inductor writes C++ for CPUs, and here is no C++ compiler")
def test_compiled_by_inductor(workspace: Path, drawn: Path) -> None:
    agree("classification", drawn)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "network"), [("segmentation", "Segmenter"), ("instances", "Segmenter"), ("detection", "YOLO")]
)
def test_every_task_is_traced(
    task: str, network: str, workspace: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without code generation, which is what takes the time; what cannot be traced would fail here, too."""
    traced: list[str] = []
    compile_module = nn.Module.compile

    def compile_for_eager(module: nn.Module, *args: Any, **kwargs: Any) -> None:
        traced.append(type(module).__name__)
        compile_module(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_for_eager)
    torch._dynamo.reset()
    agree(task, drawn)
    assert network in traced
