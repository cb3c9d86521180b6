"""Two gloo processes: a cut run ends with the very bits of an uncut one, case by case."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from resuming import CASES

TESTS = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run_on_two(output: Path) -> dict[str, dict[str, bool]]:
    """What resuming_on_two.py has found."""
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    command = [sys.executable, str(TESTS / "resuming_on_two.py"), str(output)]
    processes = [
        subprocess.Popen(command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, error = process.communicate(timeout=600)
            assert process.returncode == 0, error.decode()[-3000:]
    finally:
        for process in processes:
            process.kill()
    return dict(json.loads(output.read_text()))


@pytest.mark.slow
def test_cut_runs_of_two_processes_equal_uncut_ones(tmp_path: Path) -> None:
    found = run_on_two(tmp_path / "found.json")
    print("\n".join(f"{name:28}{places['epoch']!s:8}{places['inside']!s:8}" for name, places in found.items()))
    control = found.pop("without seeds")
    assert set(found) == set(CASES)
    assert [name for name, places in found.items() if not all(places.values())] == []
    assert not any(control.values())
