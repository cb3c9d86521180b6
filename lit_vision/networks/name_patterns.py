"""How a user names parameters: by their name, by a module around them, or by a regular expression."""

import difflib
import re
from collections.abc import Sequence

from lit_vision.errors import UserError


def matching(key: str, pattern: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that `pattern` means.

    Args:
        key: of the YAML, for errors.
        pattern: a parameter, a module, or else a regular expression that matches the beginning of names. So "layer1"
            does not mean a module called "layer10".
        names: of parameters.

    Raises:
        UserError: it means none of them, or is no regular expression.
    """
    found = [name for name in names if name == pattern or name.startswith(pattern + ".")]
    if not found:
        try:
            found = [name for name in names if re.match(pattern, name)]
        except re.error as error:
            raise UserError(f"{key}: {pattern!r} is no regular expression ({error}).") from error
    if not found:
        raise UserError(
            f"{key}: {pattern!r} is no part of the backbone; did you mean {', '.join(_near(pattern, names))}?"
        )
    return found


def _near(pattern: str, names: Sequence[str]) -> list[str]:
    modules = sorted({name.rsplit(".", depth)[0] for name in names for depth in range(1, 4)})
    return difflib.get_close_matches(pattern, modules, n=3, cutoff=0.5) or modules[:5]
