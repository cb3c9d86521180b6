"""metrics.csv of a run that is continued: one line of history, without what was written after the checkpoint."""

import csv
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_info


def drop_rows(path: Path, first_step: int) -> int:
    """Drops the last rows of a metrics.csv: those from a step on, and one that a kill has torn.

    Rows are dropped from the end only, up to the last one of an earlier step.

    Args:
        path: the file; it may be missing.
        first_step: the first step that is dropped.

    Returns:
        The number of rows dropped.
    """
    text = path.read_text() if path.is_file() else ""
    if "\n" not in text:
        path.unlink(missing_ok=True)  # not even the header is whole
        return 0
    header, *rows = text.splitlines()
    if rows and not text.endswith("\n"):
        rows[-1] = ""
    column = header.split(",").index("step")
    kept = len(rows)
    while kept and _step_of(rows[kept - 1], column) >= first_step:
        kept -= 1
    if kept < len(rows):
        partial = path.with_suffix(".partial")
        partial.write_text("\n".join([header, *rows[:kept]]) + "\n")
        partial.replace(path)
        rank_zero_info(f"metrics.csv: {len(rows) - kept} rows from step {first_step} on dropped, to be logged again")
    return len(rows) - kept


def _step_of(row: str, column: int) -> float:
    cells = next(csv.reader([row]), [])
    return float(cells[column]) if len(cells) > column and cells[column].isdigit() else float("inf")
