import numpy as np
import pytest

from lit_vision.data.sampler import PADDING_EPOCH, EpochSampler


def keys(length: int, epoch: int = 0, **settings: int | bool) -> list[list[tuple[int, int]]]:
    """The keys of both processes of two."""
    shares = []
    for rank in range(2):
        sampler = EpochSampler(length, rank=rank, world_size=2, **settings)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
    return shares


def test_order_is_a_function_of_seed_and_epoch() -> None:
    sampler = EpochSampler(50, seed=3, shuffle=True)
    sampler.set_epoch(4)
    first, again = list(sampler), list(sampler)
    other = EpochSampler(50, seed=3, shuffle=True)
    other.set_epoch(4)
    assert first == again == list(other)
    assert sorted(position for _, position in first) == list(range(50))
    other.set_epoch(5)
    assert [position for _, position in other] != [position for _, position in first]


def test_keys_carry_the_epoch() -> None:
    sampler = EpochSampler(3, shuffle=True)
    sampler.set_epoch(7)
    assert {epoch for epoch, _ in sampler} == {7}


@pytest.mark.parametrize("length", [8, 9])
def test_two_processes_share_an_epoch(length: int) -> None:
    first, second = keys(length, epoch=2, seed=1, shuffle=True)
    assert len(first) == len(second) == (length + 1) // 2
    positions = [position for _, position in first + second]
    assert set(positions) == set(range(length))
    assert len(positions) - len(set(positions)) == length % 2


def test_repeats_in_evaluation_are_marked_as_padding() -> None:
    first, second = keys(5)
    assert first == [(0, 0), (0, 2), (0, 4)]
    assert second == [(0, 1), (0, 3), (PADDING_EPOCH, 0)]


def test_one_image_on_four_processes_is_counted_once() -> None:
    shares = [list(EpochSampler(1, rank=rank, world_size=4)) for rank in range(4)]
    assert shares == [[(0, 0)], [(PADDING_EPOCH, 0)], [(PADDING_EPOCH, 0)], [(PADDING_EPOCH, 0)]]


def test_one_process_in_evaluation_goes_in_order() -> None:
    assert [position for _, position in EpochSampler(4)] == list(np.arange(4))
