"""All commands by name, and those that neither train nor measure. Needs no torch.

A new command is a function that takes the words after its name and gives the exit code, and a row in COMMANDS.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from lit_vision import __version__
from lit_vision.cli.advise_command import advise
from lit_vision.cli.arguments import Arguments
from lit_vision.cli.compare_command import compare
from lit_vision.cli.darknet_commands import export_darknet, import_darknet
from lit_vision.cli.names import READER_OPTIONS, TRAINING
from lit_vision.cli.training_commands import rehearse, training
from lit_vision.errors import UserError


def convert(words: list[str]) -> int:
    """`lit-vision convert`; gives the exit code."""
    parser = Arguments(
        "lit-vision convert",
        allow_abbrev=False,
        description="One data format into another.",
        epilog="options of the readers (docs/data_formats.md explains them):\n"
        + "".join(f"  {name + ':':<11}{', '.join(options)}\n" for name, options in READER_OPTIONS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="folder or file of the data set; it is never changed")
    parser.add_argument("--output", required=True, type=Path, help="folder to be written")
    parser.add_argument("--to", required=True, choices=("coco", "voc", "yolo"), help="format to be written")
    parser.add_argument(
        "--format", default="auto", help="of the source: " + ", ".join(READER_OPTIONS) + "; default: auto"
    )
    parser.add_argument("--link", action="store_true", help="symbolic links to the images instead of copies")
    # Only for the help: argparse cannot take names that it does not know.
    parser.add_argument("--options.NAME", metavar="VALUE", help="of the reader, such as --options.classes cat,dog")
    words, reader_options = _reader_options(words)
    options = parser.parse_args(words)
    if not options.source.exists():
        raise UserError(f"data set not found: {options.source}")
    from lit_vision.data.convert import convert_by_words

    for note in convert_by_words(
        options.source, options.output, options.to, options.format, reader_options, options.link
    ):
        print(note)
    return 0


def _reader_options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words without `--options.NAME VALUE` (or NAME=VALUE), and these by name."""
    rest: list[str] = []
    found: dict[str, str] = {}
    following = iter(words)
    for word in following:
        name, given, value = word.partition("=")
        if not name.startswith("--options."):
            rest.append(word)
            continue
        value = value if given else next(following, "--")
        if not given and value.startswith("--"):
            raise UserError(f"lit-vision convert: {name} needs a value: {name} VALUE")
        found[name.removeprefix("--options.")] = value
    return rest, found


def quickstart(words: list[str]) -> int:
    """`lit-vision quickstart`; gives the exit code."""
    parser = Arguments("lit-vision quickstart", allow_abbrev=False, description="All four tasks on drawn pictures.")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of the run folders")
    options = parser.parse_args(words)
    from lit_vision.quickstart import main as run_all

    run_all(options.output)
    return 0


def completion(words: list[str]) -> int:
    """`lit-vision completion`; gives the exit code."""
    from lit_vision.cli.completion import script

    if len(words) != 1:
        raise UserError("which shell? lit-vision completion bash|zsh|fish")
    print(script(words[0], list(COMMANDS)), end="")
    return 0


def version(words: list[str]) -> int:
    """`lit-vision version`; gives the exit code."""
    print(f"lit-vision {__version__}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    **{command: training(command) for command in TRAINING},
    "advise": advise,
    "compare": compare,
    "convert": convert,
    "import-darknet": import_darknet,
    "export-darknet": export_darknet,
    "rehearse": rehearse,
    "quickstart": quickstart,
    "completion": completion,
    "version": version,
}
