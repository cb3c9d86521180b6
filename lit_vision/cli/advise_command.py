"""`lit-vision advise`, first stage: its words, without importing torch."""

from pathlib import Path

from lit_vision.cli.arguments import Arguments
from lit_vision.cli.experiment_files import config_paths
from lit_vision.cli.screens import ADVISE
from lit_vision.cli.training_commands import checked
from lit_vision.errors import UserError


def advise(words: list[str]) -> int:
    """`lit-vision advise`; gives the exit code."""
    if "-h" in words or "--help" in words:
        print(ADVISE, end="")
        return 0
    parser = Arguments("lit-vision advise", allow_abbrev=False, add_help=False)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=3.0)
    options, words = parser.parse_known_args(words)
    if options.images < 10 or not options.minutes > 0:
        raise UserError(f"--images is {options.images} and --minutes {options.minutes}: give at least 10, and above 0")
    words = checked("advise", words)
    paths = config_paths(words)
    output = options.output or Path(f"{paths[0].stem if paths else 'experiment'}_advised.yaml")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    if any(output.resolve() == path.resolve() for path in paths):
        raise UserError(f"--output {output} is the experiment that is asked about: name another file")
    from lit_vision.cli.advise import run

    run(words, output, options.images, options.minutes)
    return 0
