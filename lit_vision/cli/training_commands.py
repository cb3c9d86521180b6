"""fit, validate, test, predict and rehearse, as far as they can be answered without importing torch."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

from lit_vision.cli import experiment_files, folds_command, screens
from lit_vision.cli.arguments import Arguments
from lit_vision.cli.names import KEYS, nearest
from lit_vision.errors import UserError
from lit_vision.runs import folder as run_folder

LEADING = (*KEYS, "folds", "config", "print_config", "help", "help-all")


def training(command: str) -> Callable[[list[str]], int]:
    """The function behind fit, validate, test or predict: words of the command line -> exit code."""

    def start(words: list[str]) -> int:
        if "-h" in words or "--help" in words:
            print(screens.training_screen(command), end="")
            return 0
        if command == "predict" and any(word.partition("=")[0] == "--images" for word in words):
            return _predict_pictures(words)
        if folds_command.asks(command, words):
            return folds_command.fit_folds(words, checked)
        words = checked(command, words)
        from lit_vision.cli import vision_cli as cli

        cli.run(command, words)
        return 0

    return start


def checked(command: str, words: list[str]) -> list[str]:
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
    parser = Arguments(add_help=False, allow_abbrev=False)
    parser.add_argument("--ckpt_path")
    parser.add_argument("--run_dir", type=Path)
    parser.add_argument("--resume", type=Path)
    known, _ = parser.parse_known_args(words)
    folder = known.resume if known.resume and str(known.resume) != "auto" else known.run_dir
    if folder is None and known.ckpt_path and Path(known.ckpt_path).is_file():
        run = run_folder.of_checkpoint(Path(known.ckpt_path))
        folder = run.path if run else None
    return folder / "config.yaml" if folder and (folder / "config.yaml").is_file() else None


def _predict_pictures(words: list[str]) -> int:
    parser = Arguments("lit-vision predict", allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True, help="checkpoint file; it holds all that is needed")
    parser.add_argument("--images", required=True, help="picture, folder or glob")
    parser.add_argument("--output", required=True, type=Path, help="folder for pictures and result files")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read pictures; 0 = this one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument(
        "--threshold",
        type=_threshold,
        metavar="NUMBER|auto",
        help="lowest score or probability that counts; auto, for boxes: of each class as the validation found it best",
    )
    parser.add_argument(
        "--precision", choices=("32", "bf16"), default="32", help="bf16: faster where the device has it"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="cut large pictures into overlapping tiles of this side; 0: whole pictures, whatever the checkpoint says",
    )
    parser.add_argument(
        "--nms_threshold", type=float, help="of boxes: the lesser of two of one class with more IoU goes"
    )
    parser.add_argument("--label_maps", choices=("png", "tiff"), help="of instances, 16 bits both (default png)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds files")
    options = parser.parse_args(words)
    checkpoint = run_folder.find_checkpoint(options.ckpt_path, Path("runs"), "")
    changes = {name: getattr(options, name) for name in ("tile", "nms_threshold") if getattr(options, name) is not None}
    if options.tile == 0:
        changes["tile"] = None
    from lit_vision.predict import predict_images

    predict_images(
        checkpoint,
        options.images,
        options.output,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        device=options.device,
        threshold=options.threshold,
        precision=options.precision,
        label_maps=options.label_maps,
        overwrite=options.overwrite,
        **changes,
    )
    return 0


def _threshold(word: str) -> float | str:
    try:
        return word if word == "auto" else float(word)
    except ValueError:
        raise ArgumentTypeError(f"{word!r} is neither a number nor auto") from None


def rehearse(words: list[str]) -> int:
    """`lit-vision rehearse`; gives the exit code."""
    if "-h" in words or "--help" in words:
        print(screens.REHEARSE, end="")
        return 0
    parser = Arguments("lit-vision rehearse", allow_abbrev=False, add_help=False)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--folder", type=Path)
    options, words = parser.parse_known_args(words)
    words = checked("fit", words)
    from lit_vision.rehearse import main as rehearsal

    return rehearsal(words, options.seed, options.folder)
