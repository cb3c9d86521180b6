"""`lit-vision compare`, as far as it can be answered without importing torch."""

import argparse
from pathlib import Path

from lit_vision.cli.arguments import Arguments
from lit_vision.errors import UserError

EPILOG = """\
The first run, or group of runs, is the baseline. Runs joined by commas are one experiment under several seeds:
  lit-vision compare runs/pets/A runs/pets/B runs/pets/C
  lit-vision compare runs/head/S0,runs/head/S1,runs/head/S2 runs/all/S0,runs/all/S1,runs/all/S2

A run that was not tested yet is tested first, with its best checkpoint. docs/comparing.md says what p means.
"""


def compare(words: list[str]) -> int:
    """`lit-vision compare`; gives the exit code."""
    parser = Arguments(
        "lit-vision compare",
        allow_abbrev=False,
        description="Is a run better than another, or is it luck? Paired, picture by picture.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, two or more")
    parser.add_argument("--metric", help="such as accuracy, miou, map_50, iou/cat; default: the task's own")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="default: test")
    parser.add_argument("--resamples", type=int, help="default: 10000; of average precisions 2000")
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals; default: 0.95")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples; default: 0")
    parser.add_argument("--output", type=Path, help="folder for compare.json and compare.png")
    options = parser.parse_args(words)
    groups = [[_run_folder(name) for name in word.split(",") if name] for word in options.runs]
    _check(groups, options)
    metric = options.metric
    for prefix in ("test/", "val/"):
        metric = metric and metric.removeprefix(prefix)
    from lit_vision.compare_report import main

    main(groups, metric, options.split, options.resamples, options.level, options.seed, options.output)
    return 0


def _check(groups: list[list[Path]], options: argparse.Namespace) -> None:
    if len(groups) < 2 or not all(groups):
        raise UserError("lit-vision compare needs two runs or more: lit-vision compare runs/<experiment>/<run> ...")
    if not 0 < options.level < 1:
        raise UserError(f"lit-vision compare: --level is {options.level}, but must be between 0 and 1, such as 0.95")
    if options.resamples is not None and options.resamples < 100:
        raise UserError(f"lit-vision compare: --resamples is {options.resamples}, but must be 100 or more")
    if options.seed < 0:
        raise UserError(f"lit-vision compare: --seed is {options.seed}, but must be 0 or more")
    if options.output is not None and options.output.is_file():
        raise UserError(f"lit-vision compare: --output {options.output} is a file, but must be a folder")


def _run_folder(name: str) -> Path:
    path = Path(name)
    if not path.is_dir():
        raise UserError(f"no run folder {name}: give runs/<experiment>/<run>, several seeds joined by commas")
    if not (path / "config.yaml").is_file():
        raise UserError(f"{name} is no run folder: it has no config.yaml; give runs/<experiment>/<run>")
    return path
