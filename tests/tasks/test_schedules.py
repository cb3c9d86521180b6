"""Schedulers of the user's own: lengths that miss the run's, and rates by group in cycles."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from quiet import quiet_trainer
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)
from torch.utils.data import DataLoader

from lit_vision.errors import UserError
from lit_vision.tasks.optimization import check_optimization
from lit_vision.tasks.segmentation import SemanticSegmenter

NETWORK = {"encoder": "mobilenetv3_small_050", "decoder_args": {"decoder_channels": [8, 8, 8, 8, 4]}}


def loader() -> DataLoader[Any]:
    """Two batches of two pictures."""
    image, mask = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.ones(32, 32, dtype=torch.int64)
    return DataLoader([{"image": image, "mask": mask, "index": i} for i in range(4)], batch_size=2)  # type: ignore[arg-type]  # a list is enough


def fit(scheduler: Callable[..., Any], interval: str, **settings: Any) -> list[dict[str, Any]]:
    """The optimizer's groups as a training begins with them."""
    length = settings.pop("length", {"max_epochs": 4})
    task = SemanticSegmenter(["a", "b"], scheduler=scheduler, scheduler_interval=interval, **NETWORK, **settings)
    trainer = quiet_trainer(**length)
    trainer.fit(task, loader())
    return [dict(group) for group in trainer.optimizers[0].param_groups]


@pytest.mark.parametrize(
    ("scheduler", "interval", "length", "said"),
    [
        (
            partial(PolynomialLR, total_iters=2),
            "epoch",
            {"max_epochs": 4},
            "PolynomialLR has total_iters 2, but the run has 4 epochs: after 2 the rate is 0; set total_iters: 4, or "
            "scheduler_interval: step if that is what it counts",
        ),
        (
            partial(CosineAnnealingLR, T_max=4),
            "step",
            {"max_epochs": 4},
            "CosineAnnealingLR has T_max 4, but the run has 8 steps: after 4 the rate climbs again; set T_max: 8, or "
            "scheduler_interval: epoch if that is what it counts",
        ),
        (
            partial(OneCycleLR, max_lr=0.1, total_steps=9),
            "step",
            {"max_steps": 3},
            "OneCycleLR has total_steps 9, but the run has 3 steps: the rate falls only a part of its way; set "
            "total_steps: 3, or scheduler_interval: epoch if that is what it counts",
        ),
        (
            partial(PolynomialLR, total_iters=3),
            "epoch",
            {"max_steps": 3},
            "PolynomialLR has total_iters 3, but the run has 2 epochs: the rate falls only a part of its way; set "
            "total_iters: 2, or scheduler_interval: step if that is what it counts",
        ),
        (partial(PolynomialLR, total_iters=2), "epoch", {"max_steps": 3}, None),
        (partial(PolynomialLR, total_iters=8), "step", {"max_epochs": 4}, None),
        (partial(CosineAnnealingLR, T_max=3), "epoch", {"max_epochs": 4}, None),
        (partial(OneCycleLR, max_lr=0.1, epochs=4, steps_per_epoch=2), "step", {"max_epochs": 4}, None),
        (partial(StepLR, step_size=1), "epoch", {"max_epochs": 4}, None),
    ],
)
def test_a_length_that_is_not_the_runs_is_said(
    scheduler: Callable[..., Any],
    interval: str,
    length: dict[str, int],
    said: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        fit(scheduler, interval, length=length)
    found = [record.getMessage() for record in caplog.records if "model.scheduler" in record.getMessage()]
    assert found == ([] if said is None else [f"model.scheduler: {said}"])


def test_a_cycle_that_ends_before_the_run_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        fit(partial(OneCycleLR, max_lr=0.1, total_steps=7), "step")
    assert str(caught.value) == (
        "model.scheduler: OneCycleLR has total_steps 7, but the run has 8 steps, and it cannot go on after its end: "
        "set total_steps: 8"
    )


def test_a_resumed_schedule_is_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = partial(SemanticSegmenter, ["a", "b"], scheduler=partial(PolynomialLR, total_iters=1), **NETWORK)
    first = quiet_trainer(max_epochs=1)
    first.fit(task(), loader())
    first.save_checkpoint(tmp_path / "a.ckpt")
    with caplog.at_level(logging.INFO):
        quiet_trainer(max_epochs=2).fit(task(), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert "model.scheduler" not in caplog.text


@pytest.mark.parametrize(
    ("scheduler", "step", "head"),
    [
        (partial(OneCycleLR, max_lr=0.1, total_steps=8, div_factor=10, pct_start=0.25), 0, 0.01),
        (partial(OneCycleLR, max_lr=0.1, total_steps=8, div_factor=10, pct_start=0.25), 1, 0.1),
        (partial(OneCycleLR, max_lr=0.1, total_steps=8, div_factor=10, final_div_factor=100), 7, 0.0001),
        (partial(CyclicLR, base_lr=0.1, max_lr=0.4, step_size_up=3), 0, 0.1),
        (partial(CyclicLR, base_lr=0.1, max_lr=0.4, step_size_up=3), 2, 0.3),
    ],
)
def test_cycles_keep_the_rates_of_the_stages(scheduler: Callable[..., Any], step: int, head: float) -> None:
    optimizer = partial(SGD, lr=1.0, momentum=0.9)
    task = SemanticSegmenter(["a", "b"], optimizer=optimizer, scheduler=scheduler, lr_decay=0.5, **NETWORK)
    made = task.configure_optimizers()
    for _ in range(step):
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    scales = [group["lr_scale"] for group in made["optimizer"].param_groups]
    assert {1, 0.5, 0.25} <= set(scales)
    rates = [group["lr"] for group in made["optimizer"].param_groups]
    assert rates == pytest.approx([head * scale for scale in scales])


def test_a_cycle_goes_on_with_its_rates_from_a_checkpoint() -> None:
    make = partial(CyclicLR, base_lr=0.1, max_lr=0.4, step_size_up=2)
    tasks = [
        SemanticSegmenter(["a", "b"], optimizer=partial(SGD, momentum=0.9), scheduler=make, lr_decay=0.5, **NETWORK)
        for _ in range(2)
    ]
    first, second = (task.configure_optimizers() for task in tasks)
    for _ in range(3):
        first["optimizer"].step()
        first["lr_scheduler"]["scheduler"].step()
    second["optimizer"].load_state_dict(first["optimizer"].state_dict())
    second["lr_scheduler"]["scheduler"].load_state_dict(first["lr_scheduler"]["scheduler"].state_dict())
    for made in (first, second):
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    rates = [[group["lr"] for group in made["optimizer"].param_groups] for made in (first, second)]
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0] == pytest.approx([0.1 * group["lr_scale"] for group in first["optimizer"].param_groups])


def test_a_warm_up_beside_a_scheduler_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        SemanticSegmenter(["a", "b"], scheduler=StepLR, warmup=0.3, optimizer=partial(AdamW, lr=0.1), **NETWORK)
    assert str(caught.value) == (
        "model.warmup is 0.3, but only the default schedule warms up, and model.scheduler takes its place: leave one "
        "of them out"
    )
    check_optimization(0.0, 1.0, "epoch", scheduled=True)
    check_optimization(0.05, 1.0, "epoch", scheduled=True)
    check_optimization(0.3, 1.0, "epoch", scheduled=False)


def test_a_plateau_of_the_task_s_own_metric_is_told_which_way_is_better() -> None:
    def made(**settings: Any) -> Any:
        make = partial(ReduceLROnPlateau, **settings)
        return SemanticSegmenter(["a", "b"], scheduler=make, **NETWORK).configure_optimizers()["lr_scheduler"]

    with pytest.raises(UserError) as caught:
        made()
    assert str(caught.value) == (
        "model.scheduler: ReduceLROnPlateau has mode min, but val/miou is better where it is higher: set mode: max, or "
        "another monitor"
    )
    assert made(mode="max")["monitor"] == "val/miou"
