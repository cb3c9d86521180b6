"""Orders: rare classes more often, like shapes together."""

from pathlib import Path

import numpy as np
import pytest

from lit_vision.data.index import Index, Packed
from lit_vision.data.sampler import PADDING_EPOCH, EpochSampler, Turn
from lit_vision.data.sampling import ShapeSampler, TurnSampler, draw_repeats, repeat_factors


def index(labels: list[list[int]], crowd: list[list[bool]] | None = None) -> Index:
    counts = [len(one) for one in labels]
    return Index(
        root=Path(),
        format="coco",
        class_names=("a", "b", "c"),
        files=Packed.pack(f"{i}.jpg" for i in range(len(labels))),
        sizes=np.zeros((len(labels), 2), np.int32),
        splits=np.zeros(len(labels), np.int8),
        offsets=np.cumsum([0, *counts]).astype(np.int64),
        labels=np.array([label for one in labels for label in one], np.int32),
        crowd=None if crowd is None else np.array([flag for one in crowd for flag in one], bool),
    )


# --- factors ----------------------------------------------------------------------------------------------------
def test_factors_by_hand() -> None:
    """Of ten pictures a is on eight, b on two, c on one; the threshold is 0.4."""
    labels = [[0, 0], [0], [0], [0, 1], [1, 1, 1], [0], [0], [0], [0, 2], []]
    factors = repeat_factors(index(labels), np.arange(10), 0.4)
    expected = np.ones(10)
    expected[[3, 4]], expected[8] = np.sqrt(0.4 / 0.2), np.sqrt(0.4 / 0.1)
    np.testing.assert_allclose(factors, expected)


def test_factors_know_only_their_split_and_no_crowds() -> None:
    labels, crowd = [[0], [0, 1], [1], [0]], [[False], [False, True], [False], [False]]
    np.testing.assert_allclose(repeat_factors(index(labels, crowd), np.arange(4), 0.5), [1, 1, np.sqrt(2), 1])
    np.testing.assert_allclose(repeat_factors(index(labels, crowd), np.array([0, 1, 3]), 0.5), [1, 1, 1])


def test_repeats_are_rounded_either_way_and_always_as_many() -> None:
    factors = np.array([1.0, 1.3, 2.5, 1.0, 3.9, 1.05])  # 10.75 in all
    drawn = np.array([draw_repeats(factors, np.random.default_rng(seed)) for seed in range(4000)])
    assert (drawn.sum(axis=1) == 11).all()
    enlarged = factors * 11 / 10.75
    assert (drawn >= np.floor(enlarged)).all()
    assert (drawn <= np.ceil(enlarged)).all()
    np.testing.assert_allclose(drawn.mean(axis=0), enlarged, atol=0.03)


def test_whole_factors_are_kept_to_the_letter() -> None:
    factors = np.array([1.0, 2.0, 1.0, 4.0])
    for seed in range(50):
        assert draw_repeats(factors, np.random.default_rng(seed)).tolist() == [1, 2, 1, 4]


# --- the training order -----------------------------------------------------------------------------------------
def turns(sampler: EpochSampler, epoch: int = 0) -> list[Turn]:
    sampler.set_epoch(epoch)
    return [key for key in sampler if isinstance(key, Turn)]


def test_without_factors_the_order_is_the_old_one() -> None:
    old, new = EpochSampler(11, 5, True, 1, 3), TurnSampler(11, 5, 1, 3)
    for epoch in range(3):
        old.set_epoch(epoch)
        assert [(turn.epoch, turn.position) for turn in turns(new, epoch)] == list(old)
        assert {turn.repeat for turn in turns(new, epoch)} == {0}
    old.start = new.start = 6
    assert [turn[:2] for turn in turns(new, 2)] == list(old)


def test_rare_pictures_come_as_often_as_asked_and_say_which_time_it_is() -> None:
    factors = np.array([1.0, 3.0, 1.5, 1.5])
    sampler = TurnSampler(4, 0, factors=factors)
    assert len(sampler) == 7
    counts = np.zeros(4)
    for epoch in range(300):
        seen = turns(sampler, epoch)
        assert len(seen) == len(set(seen)) == 7
        assert sorted(turn.repeat for turn in seen if turn.position == 1) == [0, 1, 2]
        counts += np.bincount([turn.position for turn in seen], minlength=4)
    np.testing.assert_allclose(counts / 300, factors, atol=0.1)
    assert turns(sampler, 3) == turns(TurnSampler(4, 0, factors=factors), 3)
    assert turns(sampler, 3) != turns(sampler, 4)


@pytest.mark.parametrize("start", [0, 3, 4])
def test_processes_share_the_order_and_agree_on_where_they_are(start: int) -> None:
    factors = np.array([1.0, 3.0, 1.5, 1.5, 1.2])  # 8.2: nine turns
    shares = []
    for rank in range(2):
        sampler = TurnSampler(5, 0, rank, 2, factors)
        sampler.start = start
        shares.append(turns(sampler, 1))
    assert [turn.seen for turn in shares[0]] == [turn.seen for turn in shares[1]] == list(range(start, 9, 2))
    whole = [turn[:3] for turn in turns(TurnSampler(5, 0, factors=factors), 1)]
    together = [turn[:3] for pair in zip(*shares, strict=True) for turn in pair]
    missing = len(together) - (9 - start)
    assert together == whole[start:] + whole[:missing]


# --- the evaluation order ---------------------------------------------------------------------------------------
def test_like_shapes_follow_each_other_and_all_are_shown_once() -> None:
    shapes = np.array([[64, 96], [96, 64], [64, 96], [64, 64], [96, 64]])
    assert [key[1] for key in ShapeSampler(shapes)] == [3, 0, 2, 1, 4]
    first, second = (list(ShapeSampler(shapes, rank, 2)) for rank in range(2))
    assert [key[1] for key in first] == [3, 2, 4]
    assert second == [(0, 0), (0, 1), (PADDING_EPOCH, 3)]
