"""Sizes of batches and the length of runs."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lit_vision.data.sampler import Turn
from lit_vision.data.sampling import TurnSampler
from lit_vision.data.scales import closing_epochs, draw_size, planned_epochs, training_sizes
from lit_vision.errors import UserError


def test_sizes_are_the_multiples_within_the_factors() -> None:
    assert training_sizes((416, 416), 0.5, 32) == [(side, side) for side in range(224, 609, 32)]
    assert training_sizes((416, 416), (0.76, 1.47), 32) == [(side, side) for side in range(320, 609, 32)]  # Darknet's
    assert training_sizes((416, 416), 0.1, 32) == [(384, 384), (416, 416), (448, 448)]
    assert training_sizes((64, 64), 0.0, 32) == [(64, 64)]
    assert training_sizes((100, 100), 0.0, 32) == [(128, 128)]  # none lies within


def test_sizes_keep_the_shape_of_the_input() -> None:
    assert training_sizes((256, 512), (0.5, 1.0), 64) == [(128, 256), (192, 384), (256, 512)]


@pytest.mark.parametrize("wrong", [1.5, -0.1, (1.0, 0.5), (0.5,), (0.01, 1)])
def test_wrong_factors_are_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"data\.multi_scale is .*; give s from 0 to 0\.9"):
        training_sizes((416, 416), wrong, 32)


def test_all_sizes_occur_alike_and_all_processes_draw_the_same() -> None:
    sizes = training_sizes((416, 416), 0.5, 32)
    batches = []
    for rank in range(3):
        keys = list(TurnSampler(3000, 1, rank, 3))
        batches.append([draw_size(sizes, 1, Turn(*keys[first])) for first in range(0, 1000, 2)])
    assert batches[0] == batches[1] == batches[2]
    counts = np.bincount([side // 32 for side, _ in batches[0]], minlength=20)[7:]
    assert counts.min() > 20
    assert counts.max() < 60
    assert draw_size(sizes, 1, Turn(0, 5, 0, 64)) == draw_size(sizes, 1, Turn(0, 9, 1, 64))


def trainer(epochs: int | None = None, steps: int = -1, limit: float = 1.0, accumulate: int = 1) -> Any:
    return SimpleNamespace(
        max_epochs=epochs, max_steps=steps, limit_train_batches=limit, accumulate_grad_batches=accumulate
    )


def test_length_of_runs() -> None:
    assert planned_epochs(trainer(60), 10) == 60
    assert planned_epochs(trainer(-1, 95), 10) == 10
    assert planned_epochs(trainer(60, 95), 10) == 10
    assert planned_epochs(trainer(5, 95), 10) == 5
    assert planned_epochs(trainer(None, 95, accumulate=4), 10) == 32  # three steps of an epoch
    assert planned_epochs(trainer(None, 95, limit=5), 10) == 19
    assert planned_epochs(trainer(None, 95, limit=0.5), 10) == 19
    assert planned_epochs(trainer(None, 95, limit=0), 10) == 95  # it trains nothing, and must not fail
    assert planned_epochs(trainer(-1), 10) is None
    assert planned_epochs(trainer(None), 10) is None


def test_last_epochs_without_mosaics() -> None:
    assert [closing_epochs(None, epochs) for epochs in (1, 4, 25, 60, 300)] == [0, 0, 5, 10, 10]
    assert [closing_epochs(close, 60) for close in (15, 1, 0.25, 0.0)] == [15, 1, 15, 0]
