"""Errors that a user can mend: one clear sentence each, shown without a traceback by the command line."""

from collections.abc import Iterator, Sequence

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


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, what caused that, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def find_user_error(error: BaseException) -> UserError | None:
    """The UserError that a library has wrapped in errors of its own; None where there is none."""
    return next((link for link in chain(error) if isinstance(link, UserError)), None)
