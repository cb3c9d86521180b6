"""Starts the two processes of a rehearsal, kills or stops them, and waits for them."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from lit_vision.data import FILES_CHECKED
from lit_vision.errors import UserError
from lit_vision.rehearsal_report import RANKS, Evidence
from lit_vision.rehearsal_server import Launch

PATIENCE = 300.0  # seconds without a step before a launch counts as hung
GRACE = 5.0  # seconds for which a process outlives the other one, which has failed: it may wait for that for ever
End = tuple[int, signal.Signals]  # optimizer steps, and what is sent to all processes once they are done


class Servers:
    """Two servers, of which every process of the rehearsal is a copy; see `rehearsal_server.py`.

    Each has a hash seed of its own, and the run that is broken has its ranks on the other ones than the uninterrupted
    run: whatever goes by the order of a Python set still differs, between ranks and after a restart.

    Args:
        words: options of `lit-vision fit`, for what to import.
        folder: of the rehearsal.
    """

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
        threads = str(max(cores // RANKS, 1))
        self._environment = {"OMP_NUM_THREADS": threads, **os.environ, "CUDA_VISIBLE_DEVICES": ""}
        self._environment[FILES_CHECKED] = str(folder / "files.npz")
        # W&B's service of a process around this one would hold the id of a run that is killed for ever.
        self._environment.pop("WANDB_SERVICE", None)
        self._servers = [
            subprocess.Popen(
                [sys.executable, "-m", "lit_vision.rehearsal_server", *words],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for this process, which then ends them
            )
            for _ in range(RANKS)
        ]

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in self._servers:
            server.communicate()  # closes its stdin: it ends, and with it what it has started

    def run(self, words: Sequence[str], folder: Path, end: End | None, swapped: bool) -> list[int]:
        """One start of a command on two processes, as torchrun would; gives their exit codes by rank.

        Args:
            words: after `lit-vision`.
            folder: of its run folders, steps and log.
            end: a signal for both processes, and those they have started, after so many optimizer steps.
            swapped: rank 0 comes from the second server.
        """
        folder.mkdir(parents=True, exist_ok=True)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(RANKS)}
        shared |= {"LOCAL_WORLD_SIZE": str(RANKS), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "rehearsal"}
        servers = self._servers[::-1] if swapped else self._servers
        for rank, server in enumerate(servers):
            environment = {**self._environment, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            _ask(server, {"words": list(words), "environment": environment, "log": str(folder / "log.txt")})
        pids = [int(_answer(server)) for server in servers]
        try:
            return _watch(servers, pids, folder, end)
        finally:
            _signal(pids, signal.SIGKILL)  # whatever is left of their groups


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _ask(server: "subprocess.Popen[str]", launch: Launch) -> None:
    assert server.stdin is not None
    server.stdin.write(json.dumps(launch) + "\n")
    server.stdin.flush()


def _answer(server: "subprocess.Popen[str]") -> str:
    line = _output(server).readline()
    if not line:
        raise UserError(f"a process of the rehearsal has died with {server.wait()}; see what it wrote above")
    return line


def _output(server: "subprocess.Popen[str]") -> IO[str]:
    assert server.stdout is not None
    return server.stdout


def _watch(servers: "Sequence[subprocess.Popen[str]]", pids: Sequence[int], folder: Path, end: End | None) -> list[int]:
    evidence, seen, since = Evidence(folder), -1, time.monotonic()
    codes: dict[int, int] = {}
    failed = since
    while len(codes) < len(pids):
        step = evidence.last_step()
        if step != seen:
            seen, since = step, time.monotonic()
        if any(codes.values()) and time.monotonic() - failed > GRACE:
            _signal(pids, signal.SIGKILL)
        if end and step >= end[0]:
            _signal(pids, end[1])
            end = None
        if time.monotonic() - since > PATIENCE:
            raise UserError(f"no step within {PATIENCE:.0f} s: the rehearsal hangs; see {folder / 'log.txt'}")
        waiting = {_output(server).fileno(): rank for rank, server in enumerate(servers) if rank not in codes}
        for file in select.select(list(waiting), [], [], 0.005)[0]:
            codes[waiting[file]], failed = int(_answer(servers[waiting[file]])), time.monotonic()
    return [codes[rank] for rank in range(len(pids))]


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(pid, number)
