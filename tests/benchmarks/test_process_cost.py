"""What a command costs, measured on commands whose least cost is known."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from process_cost import descendants, memory_gib, run

# Each process works until it has had half a second of CPU; the second is a child of the first.
WORK = """
import subprocess, sys, time
if len(sys.argv) > 1:
    subprocess.run([sys.executable, __file__])
while time.process_time() < 0.5:
    pass
"""


def test_cpu_seconds_include_those_of_children(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    alone = run([sys.executable, str(tmp_path / "work.py")], tmp_path / "a.log")
    both = run([sys.executable, str(tmp_path / "work.py"), "child"], tmp_path / "b.log")
    assert alone.cpu_seconds >= 0.5
    assert both.cpu_seconds >= 1.0
    assert both.wall_seconds > 0


def test_memory_is_that_of_all_descendants() -> None:
    code = "block = bytearray(b'x' * 2**27); print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in descendants(os.getpid())
        assert memory_gib(os.getpid()) - memory_gib(child.pid) > 0
        assert memory_gib(child.pid) > 0.125
        child.communicate(b"\n")
    assert child.pid not in descendants(os.getpid())


def test_environment_folder_and_cores_are_those_asked_for(tmp_path: Path) -> None:
    code = "import os; print(os.environ['WHAT'], os.getcwd(), len(os.sched_getaffinity(0)))"
    run([sys.executable, "-c", code], tmp_path / "log", {"WHAT": "this"}, tmp_path, cores=1)
    assert (tmp_path / "log").read_text().split() == ["this", str(tmp_path), "1"]


def test_a_failed_command_ends_all_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)exit code 3; .*the reason"):
        run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path / "log")
