"""argparse for the commands that are not Lightning's, with errors of one sentence. Needs no torch."""

import argparse
import re
from typing import NoReturn

from lit_vision.cli.names import nearest
from lit_vision.errors import UserError


class Arguments(argparse.ArgumentParser):
    """argparse with errors of one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raises a UserError with the nearest right word."""
        choice = re.match(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            name, value, given = choice.groups()
            choices = given.replace("'", "").split(", ")
            hint = nearest(value, choices)
            raise UserError(f"{self.prog}: {name} is {value}, but must be one of {', '.join(choices)}{hint}")
        options = [option for action in self._actions for option in action.option_strings]
        word = message.removeprefix("unrecognized arguments: ").split(" ")[0]
        hint = nearest(word, options) if word.startswith("--") else ""
        raise UserError(f"{self.prog}: {message}{hint}")
