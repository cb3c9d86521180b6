"""SIGTERM, which a scheduler sends before it takes the machine away: noted at once, obeyed between two steps."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.runs.folder import rank

EXIT_CODE = 128 + signal.SIGTERM
AGAIN_SECONDS = 5.0  # a launcher forwards the signal that its processes have had already; later, somebody means it
Handler = Callable[[int, FrameType | None], Any] | int | None


class Stopped(SystemExit):
    """A SIGTERM ended the run. Its code is 143, for the shell and the scheduler."""

    def __init__(self, code: int = EXIT_CODE) -> None:
        super().__init__(code)


class StopSignal:
    """Takes SIGTERM while training runs, in place of Lightning's handler.

    That one sends to all processes from inside the handler, in the middle of whatever they are sending each other.
    """

    def __init__(self) -> None:
        self.received = False
        self._first = 0.0
        self._before: Handler = None
        self._trainer: Any = None

    def install(self, trainer: pl.Trainer) -> None:
        """From now on a SIGTERM is noted; a second one, some seconds later, ends the process at once."""
        if threading.current_thread() is not threading.main_thread() or self._trainer is not None:
            return
        self.received, self._trainer = False, trainer
        self._before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._note)
        # Lightning puts its own handler before the one it finds. What is left of that one does nothing.
        self._trainer._signal_connector._sigterm_notifier_fn = _ignore

    def remove(self) -> None:
        """Puts the earlier handler back."""
        if self._trainer is None:
            return
        before = signal.SIG_DFL if self._before is None else self._before
        # After an exception Lightning puts back what it found, which was this object's handler, only later.
        if signal.SIGTERM in self._trainer._signal_connector._original_handlers:
            self._trainer._signal_connector._original_handlers[signal.SIGTERM] = before
        signal.signal(signal.SIGTERM, before)
        self._trainer = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._first = True, now
            _say("SIGTERM: the run ends after this step, or after this validation")
        elif now - self._first > AGAIN_SECONDS:
            _say("SIGTERM again: the run ends at once")
            end_launched(self._trainer)
            os._exit(EXIT_CODE)


def _ignore(*_: object) -> None: ...


def _say(sentence: str) -> None:
    # Not print: a handler may run in the middle of another write.
    if rank() == 0:
        os.write(2, f"{sentence}\n".encode())


def exit_code(trainer: pl.Trainer) -> int:
    """What this process ends with when the run is stopped.

    Lightning kills all processes, rank 0 included, as soon as one that it has launched ends with another code than 0.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    launched = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
    return 0 if launched else EXIT_CODE


def end_launched(trainer: Any, seconds: float = 0.0) -> None:
    """Ends the processes that Lightning has launched from this one, which would wait for it for ever.

    Args:
        trainer: the Trainer.
        seconds: how long they may take to end by themselves.
    """
    end = time.monotonic() + seconds
    for process in getattr(trainer.strategy.launcher, "procs", []):
        left = max(end - time.monotonic(), 0)
        if isinstance(process, BaseProcess):  # ddp_fork and ddp_spawn: this process trains nothing itself
            process.terminate()
            process.join(left)
        with suppress(subprocess.TimeoutExpired, AttributeError):
            process.wait(left)
        process.kill()  # nothing happens to one that has ended


@contextmanager
def stopped_before_training() -> Iterator[None]:
    """Inside, a SIGTERM ends the process at once, as long as training has not taken the signal over."""

    def end(number: int, frame: FrameType | None) -> None:
        rank_zero_info("SIGTERM: stopped before training began; no checkpoint was written")
        raise Stopped

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
