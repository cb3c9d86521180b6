"""What a command costs: CPU seconds, wall seconds and peak memory of it and of all processes that it starts."""

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

POLL = 5.0  # seconds between two looks at the memory, which cost some milliseconds per GiB


@dataclass(frozen=True)
class Cost:
    """Of one command.

    Args:
        cpu_seconds: user and system, of the process and of every descendant that was waited for (loader workers).
        wall_seconds: from start to end.
        peak_gib: largest sum of the proportional set sizes (PSS) of all its processes, seen every POLL seconds.
    """

    cpu_seconds: float
    wall_seconds: float
    peak_gib: float

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def run(
    command: Sequence[str],
    log: Path,
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
    cores: int | None = None,
) -> Cost:
    """Runs a command to its end; what it prints goes to a file.

    Args:
        command: its words.
        log: file for its output.
        variables: of the environment, beside this process's own.
        folder: where it runs.
        cores: hold it and its descendants to the first so many of this process's cores; None = all.

    Raises:
        SystemExit: it failed; the last lines of its output are shown.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    allowed = sorted(os.sched_getaffinity(0))
    start = time.perf_counter()
    with log.open("wb") as output:
        options = {"stdout": output, "stderr": subprocess.STDOUT, "cwd": folder}
        hold = None if cores is None else lambda: os.sched_setaffinity(0, allowed[:cores])
        process = subprocess.Popen(command, env={**os.environ, **(variables or {})}, preexec_fn=hold, **options)
    peak, ended = [0.0], threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peak, ended), daemon=True)
    watcher.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()
        raise
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    watcher.join()
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").replace("\r", "\n").splitlines()[-15:])
        raise SystemExit(f"{' '.join(command)}\nended with exit code {process.returncode}; {log} ends with\n{tail}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, peak[0])


def _watch(pid: int, peak: list[float], ended: threading.Event) -> None:
    while not ended.wait(POLL):
        peak[0] = max(peak[0], memory_gib(pid))


def memory_gib(pid: int) -> float:
    """Proportional set size, GiB, of a process and its descendants: pages that they share count once."""
    total = 0
    for one in descendants(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended since
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 2**20


def descendants(pid: int) -> list[int]:
    """The process and all that descend from it and live."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parent = int(stat.rpartition(")")[2].split()[1])  # the name before it may hold spaces
            children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found
