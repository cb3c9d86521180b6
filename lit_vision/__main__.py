"""The `lit-vision` command, first stage: answers all that can be answered without importing torch.

Help, version, completion, misspelt commands, missing or broken experiments: tens of milliseconds. The commands stand in
`lit_vision.cli.commands`; training itself goes on in `lit_vision.cli.vision_cli`.
"""

import os
import sys
from collections.abc import Sequence

from lit_vision.cli import screens
from lit_vision.cli.commands import COMMANDS
from lit_vision.cli.names import TRAINING, nearest
from lit_vision.errors import UserError, find_user_error

USER_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: words after `lit-vision`; None = those of this process.

    Returns:
        Exit code: 0, or 2 where the user can mend it (one sentence on stderr), or 130 after Ctrl-C.
    """
    # Before torch is loaded: its threads, waiting for each other, spin shortly and then sleep. By default they spin on
    # and take the cores from the loader's workers and from other runs: steps were up to 30 times slower on 2 shared
    # cores. Sleeping at once (OMP_WAIT_POLICY=PASSIVE) cost a third of the speed on idle ones; this value costs none.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "50000")
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        return _dispatch([word for word in words if word != "--debug"])
    except Exception as error:
        sentence = _sentence(error)
        if debug or sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return 130
    except SystemExit as exit:  # --print_config and --help-all end so, and Lightning after Ctrl-C
        return exit.code if isinstance(exit.code, int) else 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(screens.MAIN, end="")
        return 0
    name = "version" if words[0] == "--version" else words[0]
    if name.startswith("-"):
        raise UserError(f"the command comes first: lit-vision {'|'.join(TRAINING)} {name} ...")
    if name not in COMMANDS:
        raise UserError(f"no command '{name}'{nearest(name, COMMANDS)} (lit-vision --help lists all)")
    return COMMANDS[name](words[1:])


def _sentence(error: BaseException) -> str | None:
    """What to tell the user; None where only a traceback helps."""
    known = find_user_error(error)
    if known is not None:
        return str(known)
    # Named, not imported: their homes import torch.
    if type(error).__name__ == "MisconfigurationException":
        return " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError":
        return "out of memory on the device; lower data.batch_size or data.image_size"
    return None


if __name__ == "__main__":
    sys.exit(main())
