"""The `lit-vision` command, first stage: answers all that can be answered without importing torch.

Help, version, completion, misspelt commands, missing or broken experiments: tens of milliseconds. Training itself goes
on in `lit_vision.cli`. A new command is a function here and a row in COMMANDS.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from lit_vision import __version__
from lit_vision.cli import experiment_files, screens
from lit_vision.cli.names import KEYS, READER_OPTIONS, TRAINING, nearest
from lit_vision.errors import UserError, find_user_error
from lit_vision.runs import folder as run_folder

USER_ERROR = 2
LEADING = (*KEYS, "config", "print_config", "help", "help-all")


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


# --- commands ---------------------------------------------------------------------------------------------------
def _training(command: str) -> Callable[[list[str]], int]:
    def start(words: list[str]) -> int:
        if "-h" in words or "--help" in words:
            print(screens.training_screen(command), end="")
            return 0
        if command == "predict" and any(word.partition("=")[0] == "--images" for word in words):
            return _predict_images(words)
        words = _checked(command, words)
        from lit_vision.cli import vision_cli as cli

        cli.run(command, words)
        return 0

    return start


def _checked(command: str, words: list[str]) -> list[str]:
    """The words as stage two takes them, after everything that can be wrong without torch has been looked at."""
    if "--help-all" in words:
        return ["--help"]
    for word in words:
        name = word[2:].partition("=")[0].partition(".")[0].rstrip("+")
        if word.startswith("--") and name not in LEADING:
            raise UserError(f"unknown option {word.partition('=')[0]}{nearest(name, LEADING)}")
    options = [word for word in words if word.startswith("--") and ".help" not in word]
    paths = experiment_files.config_paths(words)
    resumes = any(word.partition("=")[0] == "--resume" for word in words)
    if not paths and (not options or command != "fit" or resumes):
        own = _config_of_run(words)
        if own is not None:
            words, paths = ["-c", str(own), *words], [own]
    if not paths and not any(word.partition("=")[0].endswith(("--model", ".help")) for word in words):
        raise UserError(f"{command} needs an experiment: lit-vision {command} -c experiments/<task>/<name>.yaml")
    replaced = experiment_files.replaced_callbacks(experiment_files.read_configs(paths))
    if replaced:
        print(replaced, file=sys.stderr)
    return words


def _config_of_run(words: list[str]) -> Path | None:
    """config.yaml of the run that --resume, --run_dir or a checkpoint file names; None where none does."""
    parser = _Arguments(add_help=False, allow_abbrev=False)
    parser.add_argument("--ckpt_path")
    parser.add_argument("--run_dir", type=Path)
    parser.add_argument("--resume", type=Path)
    known, _ = parser.parse_known_args(words)
    folder = known.resume if known.resume and str(known.resume) != "auto" else known.run_dir
    if folder is None and known.ckpt_path and Path(known.ckpt_path).is_file():
        run = run_folder.of_checkpoint(Path(known.ckpt_path))
        folder = run.path if run else None
    return folder / "config.yaml" if folder and (folder / "config.yaml").is_file() else None


def _predict_images(words: list[str]) -> int:
    parser = _Arguments("lit-vision predict", allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True, help="checkpoint file; it holds all that is needed")
    parser.add_argument("--images", required=True, help="picture, folder or glob")
    parser.add_argument("--output", required=True, type=Path, help="folder for pictures and result files")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read pictures; 0 = this one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument("--threshold", type=float, help="lowest score or probability that counts")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds files")
    options = parser.parse_args(words)
    checkpoint = run_folder.find_checkpoint(options.ckpt_path, Path("runs"), "")
    from lit_vision.predict import predict_images

    predict_images(
        checkpoint,
        options.images,
        options.output,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        device=options.device,
        threshold=options.threshold,
        overwrite=options.overwrite,
    )
    return 0


def _convert(words: list[str]) -> int:
    parser = _Arguments(
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


def _quickstart(words: list[str]) -> int:
    parser = _Arguments("lit-vision quickstart", allow_abbrev=False, description="All four tasks on drawn pictures.")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of the run folders")
    options = parser.parse_args(words)
    from lit_vision.quickstart import main as quickstart

    quickstart(options.output)
    return 0


def _rehearse(words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        print(screens.REHEARSE, end="")
        return 0
    parser = _Arguments("lit-vision rehearse", allow_abbrev=False, add_help=False)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--folder", type=Path)
    options, words = parser.parse_known_args(words)
    words = _checked("fit", words)
    from lit_vision.rehearse import main as rehearse

    return rehearse(words, options.seed, options.folder)


def _completion(words: list[str]) -> int:
    from lit_vision.cli import completion

    if len(words) != 1:
        raise UserError("which shell? lit-vision completion bash|zsh|fish")
    print(completion.script(words[0], list(COMMANDS)), end="")
    return 0


def _version(words: list[str]) -> int:
    print(f"lit-vision {__version__}")
    return 0


class _Arguments(argparse.ArgumentParser):
    """argparse with errors of one sentence."""

    def error(self, message: str) -> NoReturn:
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


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    **{command: _training(command) for command in TRAINING},
    "convert": _convert,
    "rehearse": _rehearse,
    "quickstart": _quickstart,
    "completion": _completion,
    "version": _version,
}

if __name__ == "__main__":
    sys.exit(main())
