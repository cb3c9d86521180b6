"""Errors that a user can mend: one clear sentence each, shown without a traceback by the command line."""

from collections.abc import Sequence

SHOWN = 20


class UserError(Exception):
    """Something the user gave is wrong. The message is one sentence naming the file, key or value and the mend."""


class DataError(UserError):
    """A data set has problems; all of them are collected before this is raised.

    Args:
        problems: one sentence each, naming the file and the mend. The first 20 are shown, then a count.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        lines = list(self.problems[:SHOWN])
        if len(self.problems) > SHOWN:
            lines.append(f"... and {len(self.problems) - SHOWN} more problems")
        super().__init__("\n".join(lines))
