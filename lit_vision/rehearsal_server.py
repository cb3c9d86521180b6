"""A process that has imported everything once, and of which each process of a rehearsal is a copy.

A rehearsal starts eight processes, and importing takes longer than their training. What is forked off here has its
own pid, its own process group and nothing but modules in memory: it is killed, stopped and resumed as any other.

One line of JSON on stdin asks for a process, see `Launch`; two lines on stdout give its pid, and later its exit code.
"""

import contextlib
import gc
import json
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NoReturn, TypedDict

FORKS = sys.platform == "linux"  # elsewhere system libraries do not bear it: there a process is a new interpreter
# What tasks, loggers and callbacks import when they need it. Only for the time: what is missing here is left out.
LATER = ("timm", "matplotlib.pyplot", "wandb", "wandb.sdk.launch", "wandb.apis.public")


class Launch(TypedDict):
    """A process that is asked for: words after `lit-vision`, environment variables, file for its output."""

    words: Sequence[str]
    environment: Mapping[str, str]
    log: str


def serve(words: Sequence[str]) -> None:
    """Starts what stdin asks for, one process at a time, until stdin ends.

    Args:
        words: options of `lit-vision fit`; the tasks and data modules that they name are imported first.
    """
    if FORKS:
        _import(words)
    while line := sys.stdin.readline():
        launch: Launch = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(launch)
        print(pid, flush=True)
        print(_wait(pid), flush=True)


def _import(words: Sequence[str]) -> None:
    from lit_vision.cli.vision_cli import import_named

    import_named(words)
    for name in LATER:
        with contextlib.suppress(ImportError):
            import_module(name)
    gc.freeze()  # no process goes through, or copies, what all of them share


def _run(launch: Launch) -> NoReturn:
    """The process itself; it leaves by SystemExit, so that all that is to be done at exit is done."""
    os.setsid()
    for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, _log(launch)), (2, _log(launch))):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(launch["environment"])
    command = [sys.executable, "-m", "lit_vision", *launch["words"]]
    if not FORKS:
        os.execv(sys.executable, command)
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from lit_vision.__main__ import main

    # Lightning has looked at the server's environment.
    rank_zero_only.rank = int(os.environ["RANK"])  # type: ignore[attr-defined]  # an attribute of a function
    sys.argv = command[2:]
    sys.exit(main(launch["words"]))


def _log(launch: Launch) -> int:
    return os.open(launch["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def _wait(pid: int) -> int:
    """The exit code; -9 for a process that a SIGKILL ended. Whoever asked being gone, the process has to go, too."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if select.select([sys.stdin], [], [], 0.02)[0]:  # nothing is asked for meanwhile: this is the end of stdin
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            sys.exit(1)


if __name__ == "__main__":
    serve(sys.argv[1:])
