"""From what two runs wrote to a table of checks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.table import Table

Place = tuple[int, int]  # epoch, batch
RANKS = 2
STOPPED = 143  # exit code after SIGTERM


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Args:
        name: what is looked at.
        holds: whether it is right; None where there is nothing to be wrong.
        detail: what was seen.
    """

    name: str
    holds: bool | None
    detail: str


class Evidence:
    """What one run wrote while it was rehearsed; see `callbacks/rehearsal.py`.

    Args:
        folder: of the run's steps, log and run folders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lines(self, rank: int, event: str) -> list[dict[str, Any]]:
        """All lines of a rank about an event; a last line that a kill cut short is left out."""
        path = self.folder / f"steps-{rank}.jsonl"
        text = path.read_text() if path.is_file() else ""
        whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]
        return [line for line in whole if line["event"] == event]

    def last_step(self) -> int:
        """Optimizer steps done by the slower rank."""
        return min(max((line["step"] for line in self.lines(rank, "batch")), default=0) for rank in range(RANKS))

    @cached_property
    def batches(self) -> list[dict[Place, list[dict[str, Any]]]]:
        """By rank: (epoch, batch) -> its lines; several where a resumed run repeated it."""
        found: list[dict[Place, list[dict[str, Any]]]] = []
        for rank in range(RANKS):
            places: dict[Place, list[dict[str, Any]]] = {}
            for line in self.lines(rank, "batch"):
                places.setdefault((line["epoch"], line["batch"]), []).append(line)
            found.append(places)
        return found

    @cached_property
    def ends(self) -> list[dict[str, Any]]:
        """By rank, what it wrote at the end of training; empty where it did not get there."""
        paths = [self.folder / f"end-{rank}.json" for rank in range(RANKS)]
        return [json.loads(path.read_text()) if path.is_file() else {} for path in paths]

    @cached_property
    def run_folders(self) -> list[Path]:
        """The run folders that it made."""
        return sorted((self.folder / "runs" / "rehearsal").glob("*"))

    def wandb_ids(self) -> set[str]:
        """Ids of its W&B runs."""
        found = (self.folder / "runs" / "rehearsal").glob("*/wandb/*run-*")
        names = (path.name.partition("run-")[2] for path in found if path.is_dir())
        return {name.split("-")[1] for name in names}  # <time>-<id>, and -1 behind it where two begin in one second


def checks(whole: Evidence, broken: Evidence, codes: Sequence[Sequence[int]], steps: tuple[int, int]) -> list[Check]:
    """The report.

    Args:
        whole: the run without a break.
        broken: the run with a kill, a stop and two resumptions.
        codes: exit codes of its three launches, by rank.
        steps: of kill and stop.
    """
    return [
        _exits(codes, steps),
        _one_folder(broken),
        _ranks(whole, broken),
        _weights(whole, broken),
        _losses(whole, broken),
        _sets(whole, broken),
        _unused(whole),
        _counts(whole),
        _wandb(broken),
        _sizes(broken),
        Check(
            "memory", None, " and ".join(f"{end.get('gib', 0):.2f} GiB" for end in whole.ends) + " at most, by process"
        ),
    ]


def _exits(codes: Sequence[Sequence[int]], steps: tuple[int, int]) -> Check:
    right = [set(found) == {expected} for found, expected in zip(codes, (-9, STOPPED, 0), strict=True)]
    seen = [" and ".join(str(code) for code in dict.fromkeys(found)) for found in codes]
    words = [f"killed after step {steps[0]} ({seen[0]})", f"stopped after step {steps[1]} ({seen[1]})"]
    return Check("kill -9 and SIGTERM", all(right), ", ".join([*words, f"ended ({seen[2]})"]))


def _one_folder(broken: Evidence) -> Check:
    return Check("one run folder", len(broken.run_folders) == 1, f"{len(broken.run_folders)} after three launches")


def _ranks(whole: Evidence, broken: Evidence) -> Check:
    weights = [[end.get("weights") for end in one.ends] for one in (whole, broken)]
    equal = all(None not in pair and len(set(pair)) == 1 for pair in weights)
    return Check("ranks hold the same weights", equal, "both runs, at the end" if equal else f"{weights}"[:80])


def _weights(whole: Evidence, broken: Evidence) -> Check:
    first, second = (one.ends[0].get("weights") for one in (whole, broken))
    equal = first is not None and first == second
    return Check("resumed = uninterrupted", equal, "all weights to the last bit" if equal else "the weights differ")


def _losses(whole: Evidence, broken: Evidence) -> Check:
    differing, repeated = [], 0
    for rank in range(RANKS):
        for place, lines in broken.batches[rank].items():
            expected = whole.batches[rank].get(place, [{}])[0].get("loss")
            repeated += len(lines) - 1
            differing += [(*place, rank)] if {line["loss"] for line in lines} != {expected} else []
        differing += [(*place, rank) for place in whole.batches[rank].keys() - broken.batches[rank].keys()]
    count = sum(len(places) for places in whole.batches)
    if differing:
        epoch, batch, rank = min(differing)
        return Check(
            "losses", False, f"{len(differing)} of {count} differ, first: epoch {epoch}, batch {batch}, rank {rank}"
        )
    return Check("losses", count > 0, f"{count} equal to the last bit, {repeated} of them repeated after a break")


def _sets(whole: Evidence, broken: Evidence) -> Check:
    seen: dict[Place, set[int]] = {}
    for places in [*whole.batches, *broken.batches]:
        for place, lines in places.items():
            seen.setdefault(place, set()).update(line["set"] for line in lines)
    wrong = [place for place, sets in seen.items() if len(sets) > 1]
    if wrong:
        return Check("what trains", False, f"differs at epoch {min(wrong)[0]}, batch {min(wrong)[1]}")
    counts = list(dict.fromkeys(lines[0]["trainable"] for _, lines in sorted(whole.batches[0].items())))
    return Check("what trains", bool(counts), " -> ".join(f"{n:,}" for n in counts) + " parameters, alike everywhere")


def _unused(whole: Evidence) -> Check:
    names = sorted({name for rank in range(RANKS) for line in whole.lines(rank, "unused") for name in line["names"]})
    if names:
        return Check("unused parameters", False, f"{len(names)} get no gradient, such as {names[0]}: freeze them")
    return Check("unused parameters", True, "none")


def _counts(whole: Evidence) -> Check:
    counts = [len(places) for places in whole.batches]
    return Check("batches per rank", len(set(counts)) == 1, " and ".join(map(str, counts)))


def _wandb(broken: Evidence) -> Check:
    ids = broken.wandb_ids()
    right = len(ids) == 1 and all(folder.name.endswith(f"-{one}") for folder in broken.run_folders for one in ids)
    return Check("one W&B id", right, ", ".join(sorted(ids)) or "none")


def _sizes(broken: Evidence) -> Check:
    sizes = [path.stat().st_size for folder in broken.run_folders for path in folder.glob("checkpoints/last.ckpt")]
    return Check("checkpoint", bool(sizes), f"{max(sizes, default=0) / 2**20:.1f} MiB")


def table_of(found: Sequence[Check]) -> Table:
    """The report as it is shown."""
    marks = {True: "[green]yes[/green]", False: "[red]NO[/red]", None: ""}
    table = Table("check", "holds", "seen")
    for one in found:
        table.add_row(one.name, marks[one.holds], one.detail)
    return table
