"""How many epochs fit into a budget, from two short runs; and a file of results that a cut series goes on with."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def cost_of_epochs(short: tuple[int, float], longer: tuple[int, float]) -> tuple[float, float]:
    """Seconds of everything around the epochs (start, last validation), and of one epoch, from two runs.

    Args:
        short: epochs and seconds of a run.
        longer: of a longer one.

    Raises:
        ValueError: the longer run has no more epochs, or took no longer.
    """
    epochs, seconds = longer[0] - short[0], longer[1] - short[1]
    if epochs <= 0 or seconds <= 0:
        raise ValueError(
            f"runs of {short} and {longer} (epochs, seconds) tell nothing of an epoch: take longer short_runs"
        )
    each = seconds / epochs
    return max(short[1] - short[0] * each, 0.0), each


def epochs_within(budget: float, around: float, each: float) -> int:
    """Whole epochs that fit into a budget of seconds, at least one."""
    return max(int((budget - around) / each), 1)


def read_records(file: Path) -> list[Record]:
    """All lines of a JSONL file; a last line that was cut in writing is left out."""
    lines = file.read_text().splitlines() if file.is_file() else []
    if lines and not _is_whole(lines[-1]):
        lines.pop()
    return [json.loads(line) for line in lines]


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def find_record(records: Iterable[Record], wanted: Mapping[str, Any]) -> Record | None:
    """The last record that has all wanted values, None where none has."""
    found = [one for one in records if all(one.get(key) == value for key, value in wanted.items())]
    return found[-1] if found else None


def add_record(file: Path, record: Mapping[str, Any]) -> None:
    """Appends a line; after a line that was cut, on a new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = read_records(file)
    if file.is_file() and len(kept) != len(file.read_text().splitlines()):
        file.write_text("".join(json.dumps(one) + "\n" for one in kept))
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
