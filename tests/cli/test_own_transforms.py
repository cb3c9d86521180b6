"""The user's own torchvision v2 transforms, named in a YAML: what the network is given in training."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import RECORD, TASKS, command, recorded, write_experiment

from lit_vision.__main__ import main

MIRROR = {"class_path": "torchvision.transforms.v2.RandomHorizontalFlip", "init_args": {"p": 1.0}}
DARK = {"class_path": "torchvision.transforms.v2.ColorJitter", "init_args": {"brightness": [0.5, 0.5]}}
RANDOM = [
    {"class_path": "torchvision.transforms.v2.RandomHorizontalFlip", "init_args": {"p": 0.5}},
    {"class_path": "torchvision.transforms.v2.ColorJitter", "init_args": {"brightness": 0.5, "hue": 0.2}},
    {"class_path": "torchvision.transforms.v2.RandomRotation", "init_args": {"degrees": [-20, 20]}},
]


def first_batches(task: str, root: Path, transforms: list[Any] | None, epochs: int = 1, **data: Any) -> list[Any]:
    """The batches of a training from the command line."""
    settings = {"augmentation": "none", "transforms": transforms, **data}
    options = {"max_epochs": epochs, "callbacks": [RECORD], "limit_val_batches": 0, "num_sanity_val_steps": 0}
    experiment = write_experiment(Path("own.yaml"), task, root, data=settings, **options)
    return recorded(command("fit", experiment)).batches


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert set(one) == set(other)
    return all(torch.equal(a, b) for key in one for a, b in zip(one[key], other[key], strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_labels_move_with_the_pictures(task: str, workspace: Path, drawn: Path) -> None:
    plain = first_batches(task, drawn, None)[0]
    moved = first_batches(task, drawn, [MIRROR, DARK])[0]
    assert plain["index"].tolist() == moved["index"].tolist()
    mirrored = plain["image"].flip(-1)
    assert not torch.equal(mirrored, plain["image"])
    assert (moved["image"].float() - mirrored.float() * 0.5).abs().max() <= 1  # halved, rounded down
    for key in ("mask", "instances", "border"):
        if key in plain:
            assert torch.equal(moved[key], plain[key].flip(-1))
            assert not torch.equal(moved[key], plain[key])
    if task == "detection":
        for boxes, before in zip(moved["boxes"], plain["boxes"], strict=True):
            assert torch.equal(
                boxes, torch.stack([64 - before[:, 2], before[:, 1], 64 - before[:, 0], before[:, 3]], 1)
            )
    for key in ("label", "labels"):
        if key in plain:
            assert all(torch.equal(a, b) for a, b in zip(plain[key], moved[key], strict=True))


def test_a_random_transform_is_the_same_in_every_worker(workspace: Path, drawn: Path) -> None:
    here = first_batches("detection", drawn, RANDOM, epochs=2)
    there = first_batches("detection", drawn, RANDOM, epochs=2, num_workers=2)
    assert len(here) == len(there) > 1
    assert all(same(one, other) for one, other in zip(here, there, strict=True))
    other = first_batches("detection", drawn, RANDOM, epochs=2, seed=1)
    assert not any(same(one, two) for one, two in zip(here, other, strict=True))
    seen: dict[int, list[torch.Tensor]] = {}
    for batch in here:
        for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
            seen.setdefault(index, []).append(image)
    assert all(len(images) == 2 and not torch.equal(*images) for images in seen.values())  # another draw each epoch


def v2(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"torchvision.transforms.v2.{name}", "init_args": arguments}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"class_path": "torch.nn.ReLU"}, "transforms: torch.nn.modules.activation.ReLU is no torchvision.transforms"),
        (v2("RandomHorizontalFlip", q=1), "data.transforms: unknown option 'q' of RandomHorizontalFlip; it has p"),
        (v2("Resize", size=[8, 8]), "transforms: yours turned images of (3, 64, 64) torch.uint8 into (3, 8, 8)"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    wrong: Any, sentence: str, workspace: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = write_experiment(Path("own.yaml"), "classification", drawn, data={"transforms": [wrong]})
    assert main(["fit", "-c", str(experiment)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {sentence}")


def saved_again(transform: dict[str, Any], root: Path) -> dict[str, Any]:
    """A transform as config.yaml of a run names it; that file starts a run, too."""
    experiment = write_experiment(Path("own.yaml"), "classification", root, data={"transforms": [transform]})
    config = command("fit", experiment, "--trainer.limit_train_batches", "1").folder.path / "config.yaml"
    (saved,) = yaml.safe_load(config.read_text())["data"]["init_args"]["transforms"]
    assert main(["fit", "-c", str(config), "--trainer.fast_dev_run", "true"]) == 0
    assert isinstance(saved, dict)
    return saved


def test_saved_config_starts_the_same_again(workspace: Path, drawn: Path) -> None:
    assert saved_again(MIRROR, drawn) == MIRROR


def test_numbers_are_saved_as_numbers(workspace: Path, drawn: Path) -> None:
    assert saved_again(v2("RandomRotation", degrees=20), drawn)["init_args"]["degrees"] == 20
