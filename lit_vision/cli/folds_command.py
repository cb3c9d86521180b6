"""`lit-vision fit --folds k`, as far as it can be answered without importing torch."""

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from lit_vision.cli.arguments import Arguments
from lit_vision.cli.experiment_files import config_paths, read_configs, setting
from lit_vision.errors import UserError
from lit_vision.runs import folder as run_folder
from lit_vision.runs.folds_file import NAME, Folds, new, newest, read

Check = Callable[[str, list[str]], list[str]]


def asks(command: str, words: Sequence[str]) -> bool:
    """Whether a command is about folds: by --folds, or by --resume of a folder of folds.

    Raises:
        UserError: another command than fit.
    """
    options, _ = _parsed([word for word in words if not word.endswith("--folds")])
    folds = any(word.partition("=")[0] == "--folds" for word in words)
    if folds and command != "fit":
        raise UserError(
            f"--folds belongs to fit; to {command} one fold, name it with --run_dir <folder of folds>/fold0"
        )
    return folds or (command == "fit" and options.resume is not None and (Path(options.resume) / NAME).is_file())


def fit_folds(words: list[str], checked: Check) -> int:
    """`lit-vision fit --folds k`; gives the exit code.

    Args:
        words: after `lit-vision fit`.
        checked: looks at what can be wrong with the options of a command.
    """
    options, rest = _parsed(words)
    _check(options)
    if options.experiment is None and config_paths(rest):
        options.experiment = config_paths(rest)[0].stem
    if config_paths(rest):
        checked("fit", rest)
        rest = _without_fractions(rest)
    folds = _resumed(options)
    if folds is not None:
        folds.words = rest if config_paths(rest) else [*folds.words, *rest]
    elif not config_paths(rest):
        raise UserError("fit --folds needs an experiment: lit-vision fit -c experiments/<task>/<name>.yaml --folds 5")
    else:
        folds = new(options.runs, options.experiment, options.folds, rest, options.run_dir)
    from lit_vision.folds import main

    return main(folds, options.ckpt_path or "last")


def _parsed(words: Sequence[str]) -> tuple[Namespace, list[str]]:
    """What concerns the folds, and the options that every fold gets."""
    parser = Arguments("lit-vision fit", add_help=False, allow_abbrev=False)
    parser.add_argument("--folds", type=int)
    parser.add_argument("--resume")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--run_dir", type=Path)
    parser.add_argument("--experiment")
    parser.add_argument("--ckpt_path")
    return parser.parse_known_args(list(words))


def _check(options: Namespace) -> None:
    if options.folds is not None and options.folds < 2:
        raise UserError(f"--folds is {options.folds}, but there must be 2 or more, such as 5")
    if options.ckpt_path not in (None, "best", "last"):
        raise UserError(f"--ckpt_path is {options.ckpt_path}; with --folds it is last or best: which one is reported")
    if os.environ.get("WORLD_SIZE", "1") != "1" or run_folder.rank() > 0:
        raise UserError("fit --folds starts the processes of each fold itself: start it once, not by torchrun or srun")


def _resumed(options: Namespace) -> Folds | None:
    """Folds that go on; None where new ones begin."""
    given, where = options.run_dir, options.resume
    if where is None:
        if given and (given / NAME).is_file():
            raise UserError(f"{given} holds folds already; continue them with --resume {given}, or name another folder")
        return None
    if where == "auto":
        folder = given or newest(options.runs, options.experiment or "", options.folds or 0)
        return read(folder) if folder and (folder / NAME).is_file() else None
    folder = Path(where)
    if not (folder / NAME).is_file():
        raise UserError(f"--resume {folder}: there is no {NAME} in it; with --folds it takes auto or a folder of folds")
    folds = read(folder)
    if options.folds not in (None, len(folds.runs)):
        raise UserError(f"{folder} has {len(folds.runs)} folds, but --folds is {options.folds}: leave --folds out")
    return folds


def _without_fractions(words: list[str]) -> list[str]:
    """The words with val_fraction taken back, whose place the folds take.

    Raises:
        UserError: a fold is set already.
    """
    configs = read_configs(config_paths(words))
    for name in ("fold", "folds"):
        found = setting(configs, "data", name)
        said = any(word.partition("=")[0] in (f"--data.{name}", f"--data.init_args.{name}") for word in words)
        if said or (found and found[1] is not None):
            raise UserError(f"data.{name} is set by --folds, for each fold in turn: leave it out")
    found = setting(configs, "data", "val_fraction")
    said = any(word.partition("=")[0].endswith(".val_fraction") for word in words)
    return [*words, "--data.val_fraction", "0"] if said or (found and found[1]) else words
