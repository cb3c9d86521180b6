"""What `lit-vision compare` shows and writes: a table, compare.json, and a picture of the intervals."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lit_vision.charts import intervals
from lit_vision.compare import Comparison, Measured, compare
from lit_vision.compare_runs import collected
from lit_vision.metrics.weighted import LOWER_IS_BETTER
from lit_vision.plotting import write_picture


def main(
    groups: list[list[Path]],
    metric: str | None,
    split: str,
    resamples: int | None,
    level: float,
    seed: int,
    output: Path | None,
) -> None:
    """Compares, prints and writes; see `compare`."""
    found = compare(collected(groups, split), metric, resamples, level, seed)
    console = Console()
    console.print(table_of(found))
    for line in sentences(found):
        console.print(line, highlight=False)
    if output is not None:
        console.print(f"written: {write(found, split, output)}", soft_wrap=True)


def table_of(found: Comparison) -> Table:
    """A row for each run or group of runs, the baseline first."""
    share = f"{found.level * 100:g} %"
    table = Table(
        title=f"{found.metric} on {found.pictures} pictures, {found.resamples} resamples", title_justify="left"
    )
    table.add_column("run", overflow="fold")
    several = any(one.spread is not None for one in found.values)
    for heading in (found.metric, share, *(["over seeds"] if several else []), "difference", share, "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    corrected = len(found.differences) > 1
    if corrected:
        table.add_column("p (Holm)", justify="right", no_wrap=True)
    for k, (group, value) in enumerate(zip(found.groups, found.values, strict=True)):
        spread = [f"± {value.spread:.4f}" if value.spread is not None else ""] if several else []
        row = [f"{value.value:.4f}", _ends(value), *spread]
        row += _compared(found.differences[k - 1], corrected) if k else ["baseline", "", ""]
        table.add_row(group.name, *row)
    return table


def _compared(one: Measured, corrected: bool) -> list[str]:
    values = [one.p, one.corrected] if corrected else [one.p]
    return [f"{one.value:+.4f}", _ends(one, "+"), *(f"{p:.4f}" if p is not None else "" for p in values)]


def _ends(one: Measured, sign: str = "") -> str:
    return f"{one.low:{sign}.4f} .. {one.high:{sign}.4f}"


def sentences(found: Comparison) -> list[str]:
    """What the numbers say, and what else to know."""
    lines = []
    limit = 1 - found.level
    for group, one in zip(found.groups[1:], found.differences, strict=True):
        p = one.corrected if one.corrected is not None else one.p or 0.0
        worse = (one.value < 0) != (found.metric in LOWER_IS_BETTER)
        told = f"{'worse' if worse else 'better'} than the baseline" if p <= limit else "not told from luck"
        lines.append(f"{group.name}: {told} (p = {p:.4f})")
    if any("val" in str(fact) for group in found.groups for fact in group.facts("split")):
        lines.append("validation split: best checkpoints were chosen on it, which flatters every run")
    if any(one.spread is not None for one in found.values):
        lines.append("runs of a group are averaged; intervals and p are of the luck with pictures, not with seeds")
    else:
        lines.append("p is of the luck with pictures; another seed is other luck: give several, joined by commas")
    return lines + list(found.notes)


def write(found: Comparison, split: str, output: Path) -> Path:
    """Writes <output>/compare.json and compare.png; gives the former."""
    output.mkdir(parents=True, exist_ok=True)
    facts = {"metric": found.metric, "split": split, "pictures": found.pictures, "resamples": found.resamples}
    facts |= {"level": found.level, "seed": found.seed, "notes": list(found.notes)}
    groups = [
        {"name": group.name, "runs": [str(run) for run in group.runs], **_plain(value), "spread": value.spread}
        for group, value in zip(found.groups, found.values, strict=True)
    ]
    differences = [
        {"name": group.name, "baseline": found.groups[0].name, **_plain(one), "p": one.p, "p_holm": one.corrected}
        | {"method": one.method}
        for group, one in zip(found.groups[1:], found.differences, strict=True)
    ]
    path = output / "compare.json"
    path.write_text(json.dumps({**facts, "groups": groups, "differences": differences}, indent=1) + "\n")
    names = [group.name for group in found.groups]
    panels = {
        found.metric: [(name, one.value, one.low, one.high) for name, one in zip(names, found.values, strict=True)],
        f"difference to {names[0]}": [
            (name, one.value, one.low, one.high) for name, one in zip(names[1:], found.differences, strict=True)
        ],
    }
    write_picture(output / "compare.png", intervals(panels))
    return path


def _plain(one: Measured) -> dict[str, object]:
    return {name: value for name, value in asdict(one).items() if name in ("value", "low", "high", "each")}
