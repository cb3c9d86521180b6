"""When stages open: exact numbers."""

import math
from typing import Any

import pytest

from lit_vision.callbacks.unfreezing_schedule import Gain, Plateau, Schedule, better, even_schedule
from lit_vision.errors import UserError


def test_epochs_and_steps() -> None:
    epochs = Schedule([1, 3, 3])
    assert [epochs.due(epoch, 0, 0) for epoch in range(5)] == [0, 1, 1, 3, 3]
    steps = Schedule([0, 5], "step")
    assert [steps.due(9, step, 0) for step in (0, 4, 5, 50)] == [1, 1, 2, 2]
    assert [epochs.when(stage) for stage in (0, 3)] == ["epoch 1", "stays closed"]


def test_fractions_round_up_to_whole_steps() -> None:
    schedule = Schedule([0.25, 0.5], "fraction")
    assert [schedule.due(0, step, 10) for step in (0, 2, 3, 4, 5, 10)] == [0, 0, 1, 1, 2, 2]
    assert schedule.when(0) == "at 25% of the run"


@pytest.mark.parametrize(
    ("times", "unit", "message"),
    [
        ([2, 1], "epoch", "not decrease"),
        ([-1], "step", "not be negative"),
        ([math.nan], "step", "not be negative"),
        ([0.5, 1.5], "fraction", "no time is above 1"),
        ([0.5], "epoch", "an epoch is a whole number"),
    ],
)
def test_impossible_times_are_refused(times: list[float], unit: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Schedule(times, unit)


def test_even_spacing_gives_the_head_the_first_part() -> None:
    schedule = even_schedule(3, 12)
    assert (list(schedule.times), schedule.unit) == ([3, 6, 9], "epoch")
    short = even_schedule(3, 2)  # fewer epochs than parts: between them
    assert (list(short.times), short.unit) == ([0.25, 0.5, 0.75], "fraction")
    assert even_schedule(1, None).unit == "fraction"


def test_plateau_opens_after_so_many_validations_without_improvement() -> None:
    plateau = Plateau(patience=2, min_delta=0.1)
    values = [1.0, 0.8, 0.75, 0.72, 0.9, 0.65, math.nan, 0.7]
    assert [plateau.update(value, "min") for value in values] == [False, False, False, True, False, False, False, True]
    assert plateau.best == 0.65


def test_plateau_continues_from_its_state() -> None:
    first, second = Plateau(patience=2), Plateau(patience=2)
    for value in (0.5, 0.4):
        first.update(value, "max")
    second.load_state_dict(first.state_dict())
    assert second.update(0.5, "max") is first.update(0.5, "max") is True
    assert Plateau(patience=2).update(0.5, "max") is False  # one that knows nothing


def test_gain_takes_back_what_has_not_paid() -> None:
    gain = Gain(patience=2, min_gain=0.05)
    assert [gain.update(value, "max") for value in (0.5, 0.6)] == ["best", "best"]
    gain.opened()
    assert [gain.update(value, "max") for value in (0.64, 0.62)] == ["keep", "roll back"]
    assert gain.best == 0.6
    assert not gain.on_trial


def test_gain_keeps_what_has_paid() -> None:
    gain = Gain(patience=2, min_gain=0.05)
    gain.update(0.6, "max")
    gain.opened()
    assert [gain.update(value, "max") for value in (0.5, 0.66, 0.1, 0.2, 0.3)] == [
        "keep",
        "best",
        "keep",
        "keep",
        "keep",
    ]


def test_the_first_stage_is_not_judged_without_a_value_from_before() -> None:
    gain = Gain(patience=1)
    gain.opened()
    assert [gain.update(value, "min") for value in (9.0, 10.0, 11.0)] == ["best", "keep", "keep"]


def test_nan_is_never_better() -> None:
    assert not better(math.nan, None, "max", 0.0)
    assert better(-5.0, None, "max", 0.0)


@pytest.mark.parametrize("make", [lambda: Plateau(patience=0), lambda: Gain(patience=0), lambda: Gain(min_gain=-1)])
def test_impossible_patience_is_refused(make: Any) -> None:
    with pytest.raises(UserError, match="at least"):
        make()
