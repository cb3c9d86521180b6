"""The loader that begins late and goes on where its epoch was left."""

import os
import random
import signal
import time
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.types import _Stateful  # what Lightning asks before it warns
from torch.utils.data import Dataset, DistributedSampler
from torch.utils.data._utils import signal_handling

from lit_vision.data.loader import EpochLoader, fingerprint, start_worker
from lit_vision.data.sampler import EpochSampler


class Keys(Dataset[Any]):
    """Gives back the key that it is asked for."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


class Slow(Keys):
    """Takes a while, and says who has made it."""

    def __getitem__(self, key: Any) -> Any:
        time.sleep(0.2)
        return os.getpid()


def loader(
    length: int = 23, done: int = 0, rank: int = 0, processes: int = 1, size: int = 4, **rest: Any
) -> EpochLoader:
    sampler = EpochSampler(length, 3, True, rank, processes)
    options = {"batch_size": size, "sampler": sampler, "drop_last": True, "collate_fn": list, **rest}
    return EpochLoader(Keys(), done=lambda: done, **options)


def positions(loader: EpochLoader) -> list[int]:
    return [position for batch in loader for _, position in batch]


def order(length: int = 23) -> list[int]:
    return [int(position) for position in EpochSampler(length, 3, True).order()]


# --- beginning late ---------------------------------------------------------------------------------------------
def test_nothing_begins_before_the_first_batch() -> None:
    asked: list[int] = []

    def done() -> int:
        asked.append(1)
        return 0

    sampler = EpochSampler(8, 3, True)
    iterator = iter(EpochLoader(Keys(), done=done, batch_size=4, sampler=sampler, collate_fn=list))
    assert asked == []
    sampler.set_epoch(5)  # Lightning sets the epoch after it has asked for the iterator
    assert {epoch for epoch, _ in next(iterator)} == {5}
    assert asked == [1]


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_numbers_are_left_alone(workers: int) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002  the global one
    assert len(positions(loader(num_workers=workers))) == 20
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002  the global one
    assert random.getstate() == states[2]
    iter(torch.utils.data.DataLoader(Keys()))  # torch's own draws its workers' seed
    next(iter(torch.utils.data.DataLoader(Keys())))
    assert not torch.equal(torch.get_rng_state(), states[0])


def test_persistent_workers_serve_every_epoch() -> None:
    slow = EpochLoader(Slow(), batch_size=1, sampler=EpochSampler(2), num_workers=1, persistent_workers=True)
    first, second = ([int(batch) for batch in slow] for _ in range(2))
    assert first == second
    assert first[0] != os.getpid()


def test_lightning_takes_it_for_resumable_and_unwrapped() -> None:
    assert isinstance(loader(), _Stateful)
    assert isinstance(loader().sampler, DistributedSampler)


# --- going on ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_done_are_left_out(workers: int) -> None:
    assert positions(loader(done=2, num_workers=workers)) == order()[8:20]
    assert len(loader(done=2)) == 5  # the whole epoch's


@pytest.mark.parametrize("processes", [2, 3])
def test_each_process_goes_on_in_its_own_share(processes: int) -> None:
    for rank in range(processes):
        whole = positions(loader(rank=rank, processes=processes, size=2))
        assert positions(loader(done=1, rank=rank, processes=processes, size=2)) == whole[2:]


def test_the_next_epoch_begins_at_its_beginning() -> None:
    done = [2, 0]
    one = EpochLoader(
        Keys(), done=lambda: done.pop(0), batch_size=4, sampler=EpochSampler(23, 3, True), collate_fn=list
    )
    assert len(positions(one)) == 15
    assert len(positions(one)) == 23


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2), (2, 3), (4, 2)])
def test_another_number_of_processes_goes_on_in_the_same_order(before: int, now: int) -> None:
    """Together they show the rest of the epoch's order, none twice; what makes no whole batch is left out."""
    length, size, done = 64, 4, 2
    seen = loader(length, 0, before - 1, before, size).seen(done)
    assert seen == done * size * before
    shares = []
    for rank in range(now):
        one = loader(length, 0, rank, now, size)
        counted = one.go_on(epoch=0, images=seen)
        one.done = lambda counted=counted: counted  # type: ignore[misc]
        shares.append(positions(one))
        assert counted + len(shares[-1]) // size == len(one)  # the epoch's loop ends with the images
        assert one.seen(counted) == seen
        assert one.seen(counted + 1) == seen + size * now
    together = [position for batch in zip(*shares, strict=True) for position in batch]
    assert together == order(length)[seen : seen + len(together)]
    assert len(together) > length - seen - size * now


def test_another_batch_size_goes_on_in_the_same_order() -> None:
    one = loader(23, size=3)
    counted = one.go_on(epoch=0, images=8)
    one.done = lambda: counted
    assert positions(one) == order()[8:23]
    assert counted == 2  # five of seven batches are left


@pytest.mark.parametrize(("length", "done"), [(23, 4), (24, 5), (26, 5), (27, 5)])
def test_unchanged_run_counts_the_same_batches(length: int, done: int) -> None:
    for processes in (1, 2, 3):
        for rank in range(processes):
            one = loader(length, 0, rank, processes, size=2)
            done = min(done, len(one) - 1)
            assert one.go_on(epoch=0, images=one.seen(done)) == done


def test_too_small_a_rest_is_filled_up_to_one_batch() -> None:
    one = loader(23, size=8)
    counted = one.go_on(epoch=0, images=20)
    one.done = lambda: counted
    assert positions(one) == order()[15:23]


# --- what has to be the same ------------------------------------------------------------------------------------
def test_facts_name_what_an_epoch_depends_on() -> None:
    facts = loader(processes=2).facts()
    assert facts == {"images": 23, "files": "", "seed": 3, "batch_size": 4, "processes": 2}


def test_fingerprint_changes_with_the_files(drawn: Any) -> None:
    from lit_vision.data.classification import ClassificationDataModule

    def of(**options: Any) -> str:
        module = ClassificationDataModule(root=str(drawn / "classification"), check=False, **options)
        return fingerprint(module.dataset("train"))

    assert of() == of(image_size=32)
    folds = {of(folds=2, fold=fold) for fold in (0, 1)}
    assert len(folds | {of()}) == 3


# --- SIGTERM ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("careful", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_workers_outlive_the_first_sigterm(careful: bool) -> None:
    """A scheduler signals every process of a run; the main one still needs its workers until it ends them."""
    init = start_worker if careful else None
    slow = EpochLoader(Slow(), batch_size=1, sampler=EpochSampler(6), num_workers=1, worker_init_fn=init)
    iterator = iter(slow)
    worker = int(next(iterator))
    os.kill(worker, signal.SIGTERM)
    if careful:
        assert [int(one) for one in iterator] == [worker] * 5
    else:
        with pytest.raises(RuntimeError, match=r"killed by signal|exited unexpectedly"):
            list(iterator)


@pytest.mark.parametrize("held", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_workers_outlive_a_sigterm_while_they_start(held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when torch has put its own handler in place, and start_worker not yet ours."""
    ready = signal_handling._set_worker_signal_handlers

    def signalled() -> None:
        ready()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", signalled)
    init = start_worker if held else lambda worker_id: start_worker(worker_id)
    iterator = iter(EpochLoader(Slow(), batch_size=1, sampler=EpochSampler(3), num_workers=1, worker_init_fn=init))
    if held:
        assert len({int(one) for one in iterator}) == 1
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())  # the main process hears it
    else:
        with pytest.raises(RuntimeError, match=r"killed by signal|exited unexpectedly"):
            list(iterator)


def test_the_second_sigterm_ends_a_worker() -> None:
    pid = os.fork()
    if pid == 0:
        start_worker(0)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


# --- another source ---------------------------------------------------------------------------------------------
class Kept:
    """Gives batches of its own, so many of them."""

    def __init__(self, count: int) -> None:
        self.left = count

    def current(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def batch(self, keys: Any) -> Any:
        return [(-1, position) for _, position in keys]


@pytest.mark.parametrize("count", [0, 1, 3, 9])
@pytest.mark.parametrize("done", [0, 2])
def test_an_epoch_goes_on_from_pictures_at_the_next_batch(count: int, done: int) -> None:
    plain, other = loader(done=done), loader(done=done, num_workers=1)
    other.find_source = lambda: Kept(count)
    wanted, given = list(plain), list(other)
    assert [[p for _, p in batch] for batch in given] == [[p for _, p in batch] for batch in wanted]
    assert len(given) == 5 - done
    assert [batch[0][0] == -1 for batch in given] == [k < count for k in range(5 - done)]
