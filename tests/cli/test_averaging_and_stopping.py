"""Lightning's own EMA and early stopping, named in a YAML: what they leave in the run folder is what predicts."""

import csv
import logging
from pathlib import Path

import pytest
import torch
from tiny import MODELS, RECORD, command, recorded, write_experiment
from torch import Tensor

from lit_vision.predict import predict_images
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.detection import YOLODetector

DECAY = 0.7
EMA = {"class_path": "EMAWeightAveraging", "init_args": {"decay": DECAY}}


def running_average(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The first step's weights, then DECAY of the average and the rest of the new ones, in double precision."""
    average = {name: value.double() for name, value in steps[0].items()}
    for step in steps[1:]:
        average = {name: DECAY * average[name] + (1 - DECAY) * value.double() for name, value in step.items()}
    return average


def farthest(state: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert set(state) == set(other)
    return max(float((state[name].double() - other[name].double()).abs().max()) for name in weights(state))


def weights(state: dict[str, Tensor]) -> list[str]:
    return [name for name, value in state.items() if value.is_floating_point()]


def first_row(folder: Path) -> list[float]:
    with (folder / "predictions.csv").open(newline="") as file:
        return [float(value) for value in list(csv.reader(file))[1][3:]]


def test_checkpoint_metrics_and_predictions_are_of_the_averaged_weights(workspace: Path, drawn: Path) -> None:
    experiment = write_experiment(
        workspace / "ema.yaml", "classification", drawn, max_epochs=2, callbacks=[EMA, RECORD], model={"warmup": 0.0}
    )
    fitted = command("fit", experiment)
    steps = recorded(fitted).weights
    assert len(steps) == 4  # 8 pictures, 4 at a time, twice
    file = fitted.folder.checkpoints / "last.ckpt"
    saved = torch.load(file, weights_only=True)["state_dict"]
    assert farthest(saved, running_average(steps)) < 1e-6
    assert farthest(saved, steps[-1]) > 1e-4  # the negative control: training's own weights are others
    assert farthest(saved, running_average(steps[1:])) > 1e-4  # as is an average that leaves a step out

    validated = command("validate", experiment, "--ckpt_path", str(file))
    assert validated.metrics["val/loss"] == pytest.approx(fitted.metrics["val/loss"], abs=1e-6)

    picture = next((drawn / "classification" / "test").rglob("*.jpg"))
    shown = first_row(predict_images(file, picture, workspace / "out"))
    task = load_task(file)
    batch = next(iter(fitted.datamodule.test_dataloader()))
    rows = {}
    for name, state in (("averaged", running_average(steps)), ("last", steps[-1])):
        task.load_state_dict(state)
        rows[name] = task(batch["image"][:1]).softmax(1)[0].tolist()
    assert fitted.datamodule.index.path(int(batch["index"][0])) == picture
    assert shown == pytest.approx(rows["averaged"], abs=2e-6)
    assert shown != pytest.approx(rows["last"], abs=2e-6)


def test_without_it_the_checkpoint_holds_the_last_steps_weights(workspace: Path, drawn: Path) -> None:
    experiment = write_experiment(workspace / "plain.yaml", "classification", drawn, max_epochs=2, callbacks=[RECORD])
    fitted = command("fit", experiment)
    saved = torch.load(fitted.folder.checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    assert farthest(saved, recorded(fitted).weights[-1]) == 0


def test_anchors_clustered_after_the_average_was_made_reach_the_checkpoint(workspace: Path, drawn: Path) -> None:
    fitted = command("fit", write_experiment(workspace / "boxes.yaml", "detection", drawn, callbacks=[EMA]))
    task = load_task(fitted.folder.checkpoints / "last.ckpt")
    assert torch.equal(task.network.anchors, fitted.model.network.anchors)
    assert not torch.equal(
        task.network.anchors, YOLODetector(["a"], **MODELS["detection"]["init_args"]).network.anchors
    )


def test_weights_of_the_classes_do_not_disturb_the_average(workspace: Path, drawn: Path) -> None:
    model = {"class_weights": [1.0, 2.0, 3.0, 4.0]}
    experiment = write_experiment(workspace / "classes.yaml", "classification", drawn, model=model, callbacks=[EMA])
    assert command("fit", experiment).model.class_weight.tolist() == [1.0, 2.0, 3.0, 4.0]


class Heard(logging.Handler):
    """What Lightning's early stopping says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.mark.parametrize(("stop", "epochs"), [(True, 2), (False, 3)])
def test_training_ends_when_nothing_improves(
    stop: bool, epochs: int, workspace: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    monkeypatch.setattr(logging.getLogger("pytorch_lightning.callbacks.early_stopping"), "handlers", [heard])
    early = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/accuracy", "mode": "max", "verbose": True}}
    early["init_args"] |= {"patience": 1, "min_delta": 1.0}  # an accuracy above 0 cannot gain 1
    experiment = write_experiment(
        workspace / "early.yaml", "classification", drawn, max_epochs=3, callbacks=[early] if stop else []
    )
    fitted = command("fit", experiment)
    assert fitted.trainer.current_epoch == epochs
    with (fitted.folder.path / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/accuracy"]]
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(epochs)]
    names = {str(path.relative_to(fitted.folder.path)) for path in fitted.folder.path.rglob("*") if path.is_file()}
    pictures = {f"pictures/val_epoch_{epoch:03d}.jpg" for epoch in range(epochs)}
    assert {"config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "pictures/first_batch.jpg"} <= names
    assert pictures == {name for name in names if name.startswith("pictures/val_epoch")}
    assert torch.load(fitted.folder.checkpoints / "last.ckpt", weights_only=True)["epoch"] == epochs - 1
    reasons = [line for line in heard.lines if "did not improve in the last 1 records" in line]
    assert len(reasons) == (1 if stop else 0)
