"""A loader that begins when its first batch is asked for, and where its epoch was left."""

import hashlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lit_vision.data.dataset import VisionDataset, one_thread
from lit_vision.data.sampler import EpochSampler, Key
from lit_vision.types import Batch, Sample

PATIENCE = 60  # seconds for which a worker outlives a SIGTERM that was meant for the whole run


class BatchSource(Protocol):
    """What batches can come from without decoding pictures, as long as it is `current`."""

    def current(self) -> bool:
        """Asked before each batch; from the first False on, the epoch goes on from pictures."""

    def batch(self, keys: Sequence[Key]) -> Batch:
        """The batch of these keys."""


class StoppableLoader(DataLoader[Any]):
    """A DataLoader whose workers, with `start_worker`, are never ended by the first SIGTERM, not while they start."""

    def __iter__(self) -> Any:
        with _sigterm_held(self.worker_init_fn):
            return super().__iter__()


class EpochLoader(StoppableLoader):
    """A DataLoader over an EpochSampler that can continue an epoch.

    Lightning makes its iterator long before training knows where it stands: before the progress of a checkpoint is
    restored, and before the epoch is set. So nothing starts before the first batch is asked for. The global random
    numbers are left alone.

    Args:
        dataset: the images.
        done: how many batches of the epoch this process has had; asked at the first batch of each pass.
        options: those of DataLoader.
    """

    def __init__(self, dataset: Dataset[Sample], *, done: Callable[[], int] = lambda: 0, **options: Any) -> None:
        super().__init__(dataset, **{"generator": torch.Generator(), **options})
        self.done = done
        self.find_source: Callable[[], BatchSource | None] = lambda: None  # asked at the first batch of each pass
        self._origin = (-1, 0, 0)  # epoch, images of it seen by all processes, batches that these count for
        self._files: str | None = None

    def __iter__(self) -> Any:
        return _Late(self._begin)

    def _begin(self) -> Iterator[Batch]:
        sampler = self.sampler
        if isinstance(sampler, EpochSampler):
            done = self.done()
            sampler.start = self.seen(done)
            source = self.find_source()
            if source is not None:
                return self._from_source(source, done)
        return self._from_pictures()

    def _from_pictures(self) -> Iterator[Batch]:
        sampler = self.sampler
        if isinstance(sampler, EpochSampler):
            seed = np.random.SeedSequence((sampler.seed, sampler.epoch)).generate_state(1)
            cast(torch.Generator, self.generator).manual_seed(int(seed[0]))
        return cast(Iterator[Batch], super().__iter__())

    def _from_source(self, source: BatchSource, done: int) -> Iterator[Batch]:
        for count, keys in enumerate(cast(Any, self.batch_sampler)):
            if not source.current():
                cast(EpochSampler, self.sampler).start = self.seen(done + count)
                yield from self._from_pictures()
                return
            yield source.batch(keys)

    @property
    def continuable(self) -> bool:
        """Whether the order is an EpochSampler's; with overfit_batches Lightning puts one of its own in its place."""
        return isinstance(self.sampler, EpochSampler)

    # --- where an epoch stands ----------------------------------------------------------------------------------
    def seen(self, batches: int) -> int:
        """Images of the epoch's order that all processes together have seen after so many batches of each."""
        sampler = cast(EpochSampler, self.sampler)
        _, images, counted = self._origin if self._origin[0] == sampler.epoch else (-1, 0, 0)
        return min(images + (batches - counted) * cast(int, self.batch_size) * sampler.world_size, sampler.length)

    def go_on(self, epoch: int, images: int) -> int:
        """Continues an epoch of which so many images have been seen, whatever batch size and processes saw them.

        At least one batch remains: where the rest is too small for one, some images are shown again.

        Args:
            epoch: the epoch.
            images: of its order, seen by all processes together.

        Returns:
            The number of batches that count as done, so that the epoch ends with the last image.
        """
        sampler, size = cast(EpochSampler, self.sampler), cast(int, self.batch_size)
        needed = (size - 1) * sampler.world_size + 1 if self.drop_last else 1  # fewer would make no batch
        images = max(min(images, sampler.length - needed), 0)
        share = -(-(sampler.length - images) // sampler.world_size)
        left = share // size if self.drop_last else -(-share // size)
        self._origin = (epoch, images, len(self) - left)
        return len(self) - left

    def facts(self) -> dict[str, int | str]:
        """What has to be the same for an epoch to be continued (images, order), and what may change."""
        sampler = cast(EpochSampler, self.sampler)
        self._files = fingerprint(self.dataset) if self._files is None else self._files
        return {
            "images": sampler.length,
            "files": self._files,
            "seed": int(sampler.seed),
            "batch_size": cast(int, self.batch_size),
            "processes": sampler.world_size,
        }

    def state_dict(self) -> dict[str, Any]:
        """Lightning asks for it to see that the loader can continue; where it stands follows from the progress."""
        return {"batches": len(self)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Nothing to restore: `done` is asked when the first batch is."""


class _Late(Iterator[Batch]):
    """An iterator that is made when it is first asked for something."""

    def __init__(self, begin: Callable[[], Iterator[Batch]]) -> None:
        self._begin = begin
        self._iterator: Iterator[Batch] | None = None

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._begin()
        return next(self._iterator)


def fingerprint(dataset: Dataset[Sample]) -> str:
    """A short text that changes with the files of a split or their order; "" for a dataset of another kind."""
    if not isinstance(dataset, VisionDataset):
        return ""
    files = dataset.index.files
    digest = hashlib.blake2b(files.data.tobytes(), digest_size=8)
    digest.update(files.offsets.tobytes())
    digest.update(np.ascontiguousarray(dataset.positions).tobytes())
    return digest.hexdigest()


def start_worker(worker_id: int) -> None:
    """One thread, and no death by the first SIGTERM.

    A scheduler sends that to every process of a run. The main process ends at its next step and then ends the
    workers; a worker that went before would make it fail.
    """
    one_thread(worker_id)
    if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, _wait_for_main)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


@contextmanager
def _sigterm_held(worker_init_fn: Any) -> Iterator[None]:
    # A worker begins with a handler of torch that dies of SIGTERM. One that is started in here gets the signal after
    # start_worker, which lets it through; another function would not.
    if sys.platform == "win32" or worker_init_fn is not start_worker:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_main(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the second one, or the clock, ends the worker
    signal.alarm(PATIENCE)
