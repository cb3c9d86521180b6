"""bf16-mixed on a CPU, end to end in every task: what leaves a task is float32 all the same."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny import OUTPUTS, TASKS, command, outputs_of, write_experiment
from torch import Tensor

from lit_vision.predict import predict_images


def tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def float_types(value: Any) -> set[torch.dtype]:
    found = [one for one in tensors(value) if one.is_floating_point()]
    assert all(bool(torch.isfinite(one).all()) for one in found)
    return {one.dtype for one in found}


@pytest.mark.parametrize("task", TASKS)
def test_trains_validates_draws_and_predicts(task: str, workspace: Path, drawn: Path) -> None:
    low = {"objectness_threshold": 0.0, "score_threshold": 0.01} if task == "detection" else {}
    experiment = write_experiment(Path("half.yaml"), task, drawn, low, callbacks=[OUTPUTS])
    options = ["--trainer.precision", "bf16-mixed"]
    fitted = command("fit", experiment, *options, "--trainer.limit_train_batches", "2")
    seen = outputs_of(fitted)
    assert torch.bfloat16 in seen.inside  # the network did calculate in bf16
    assert float_types(seen.given) == {torch.float32}
    assert np.isfinite([fitted.metrics["train/loss"], fitted.metrics["val/loss"]]).all()
    assert {value.dtype for value in fitted.model.parameters()} == {torch.float32}
    for name in ("first_batch", "val_epoch_000"):
        picture = cv2.imread(str(fitted.folder.path / "pictures" / f"{name}.jpg"))
        assert picture is not None
        assert picture.std() > 10

    done = command("predict", experiment, *options)
    predicted = outputs_of(done)
    if task == "detection":  # predicts by a folded copy
        predicted.inside = {value.dtype for value in done.model._inference._copy.parameters()}
    assert torch.bfloat16 in predicted.inside
    assert len(predicted.given) == (10 if task == "classification" else 5)
    assert float_types(predicted.given) == {torch.float32}
    checkpoint, picture = fitted.folder.checkpoints / "last.ckpt", next((drawn / task).rglob("test_*.jpg"))
    assert (predict_images(checkpoint, picture, Path("alone")) / "pictures").is_dir()
    if task == "classification":
        assert torch.bfloat16 not in outputs_of(command("predict", experiment)).inside  # the negative control
