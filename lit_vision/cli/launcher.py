"""`lit-vision` commands as processes of their own, one after the other. Needs no torch."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

PROGRAM = (sys.executable, "-m", "lit_vision")
SIGTERM_CODE = 128 + signal.SIGTERM
PATIENCE = 30.0  # seconds that a command has after Ctrl-C, which its terminal has sent to it as well


class Launcher:
    """Starts commands while it is entered; a SIGTERM is passed on to the one that runs, and none is started after it.

    A process of its own for each keeps them apart: its memory, its signals and the processes that it launches itself
    are those of the plain command.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._before: Any = None

    def __enter__(self) -> "Launcher":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self._process is not None:
            self._process.terminate()

    def run(self, words: Sequence[str], **environment: str) -> int:
        """One command; gives its exit code.

        Args:
            words: after `lit-vision`.
            environment: variables of that process alone.

        Raises:
            SystemExit: there was a SIGTERM; with code 143.
        """
        self._end_if_stopped()
        # Each process has a W&B service of its own: a shared one would hold the id of a run that is killed.
        inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        self._process = subprocess.Popen([*PROGRAM, *words], env={**inherited, **environment})
        try:
            if self.stopped:
                self._process.terminate()  # it came while the process was started
            code = self._wait(self._process)
        finally:
            self._process = None
        self._end_if_stopped()
        return code

    def _end_if_stopped(self) -> None:
        if self.stopped:
            raise SystemExit(SIGTERM_CODE)

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        try:
            return process.wait()
        except KeyboardInterrupt:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
            raise
