"""Runs a test file as a program in two processes, as torchrun would: gloo, one thread each."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def both(file: str, part: str, folder: Path) -> list[Any]:
    """What the two processes print in their last lines, as JSON.

    Args:
        file: the program.
        part: its first argument.
        folder: its second one.
    """
    command = [sys.executable, file, part, str(folder)]
    cluster = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    # GROUP_RANK and the id tell Lightning that it was launched.
    cluster |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "0", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    tests = Path(__file__).parent
    cluster["PYTHONPATH"] = os.pathsep.join([str(tests), str(tests.parent)])  # this checkout, whatever is installed
    running = [
        subprocess.Popen(
            command, env={**os.environ, **cluster, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
