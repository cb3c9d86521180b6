"""Random numbers of a step: the same for the same place, others for every other."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from resuming import Case, train

from lit_vision.callbacks.boundaries import Boundaries
from lit_vision.callbacks.seeding import StepSeeds, reseed


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002  the global state is meant


def test_all_three_generators_follow_the_place() -> None:
    reseed(0, 1, 2, 3)
    first = drawn()
    reseed(0, 1, 2, 3)
    assert drawn() == first
    for place in ((1, 1, 2, 3), (0, 2, 2, 3), (0, 1, 3, 3), (0, 1, 2, 4), (0, 1, 3, 2)):
        reseed(*place)
        assert not set(drawn()) & set(first)


def test_seed_is_that_of_the_run(monkeypatch: Any) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert (StepSeeds().seed, StepSeeds(3).seed) == (7, 3)
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert StepSeeds().seed == 0


class Draw(Callback):
    """Keeps what each step and each validation draws."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.validations: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.steps.append(float(torch.rand(())))

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.validations.append(float(torch.rand(())))


def test_every_step_draws_its_own_numbers_again(tmp_path: Path) -> None:
    def run(name: str, **changes: Any) -> Draw:
        draw = Draw()
        train(tmp_path / name, Case(callbacks=lambda: [draw], **changes))
        return draw

    first, second = run("first"), run("second", model={"dropout": 0.5})  # draws more in between
    assert first.steps == second.steps
    assert len(set(first.steps)) == 18
    assert first.validations == second.validations
    unseeded = [
        run(name, first=lambda: [Boundaries()], model={"dropout": rate}) for name, rate in (("a", 0.0), ("b", 0.5))
    ]
    assert unseeded[0].steps != unseeded[1].steps
