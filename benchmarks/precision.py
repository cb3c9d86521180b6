"""Whether bf16-mixed gives what float32 gives: experiments trained in both, seed by seed, for equally many epochs.

    LIT_VISION_DATA=../shared/data python benchmarks/precision.py --output precision.jsonl
        --experiments experiments/detection/bccd.yaml --seeds 0 1 2 [--set trainer.max_epochs=12]
    python benchmarks/precision.py --output precision.jsonl --show

Each training is `lit-vision fit` as a user would start it, in a process of its own on one thread. Compared are the best
values of the metric by which the task chooses its checkpoint, and CPU seconds. A line of JSON for each training; what
the output holds already is not done again.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from budget import add_record, find_record, read_records
from lit_vision_command import fit

PRECISIONS = ("32-true", "bf16-mixed")


def train(experiment: str, settings: dict[str, str], seed: int, precision: str) -> dict[str, Any]:
    """One training: the best value of its own metric, and its cost."""
    given = {**settings, "seed_everything": str(seed), "trainer.precision": precision}
    with tempfile.TemporaryDirectory() as folder:
        cost, _ = fit(experiment, given, Path(folder, "run"), Path(folder, "log"), threads=1)
        best = torch.load(Path(folder, "run", "checkpoints", "best.ckpt"), weights_only=True)
    state = best["callbacks"]["RunCheckpoints"]
    return {"metric": state["monitor"], "value": float(state["best_model_score"]), **cost.as_dict()}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A line for each experiment: means, what bf16 changes seed by seed, and the CPU time of float32 over its own."""
    print(f"{'experiment':44}{'metric':12}{'float32':>9}{'bf16':>9}  bf16 - float32 by seed   CPU time saved")
    for name in dict.fromkeys((row["experiment"], row["settings"]) for row in rows):
        own = [row for row in rows if (row["experiment"], row["settings"]) == name]
        first, second = ({row["seed"]: row for row in own if row["precision"] == kind} for kind in PRECISIONS)
        seeds = sorted(first.keys() & second.keys())
        if not seeds:
            continue
        values = [statistics.mean(side[seed]["value"] for seed in seeds) for side in (first, second)]
        changes = "  ".join(f"{second[seed]['value'] - first[seed]['value']:+.3f}" for seed in seeds)
        saved = statistics.median(first[seed]["cpu_seconds"] / second[seed]["cpu_seconds"] for seed in seeds)
        print(f"{name[0]:44}{own[0]['metric']:12}{values[0]:9.3f}{values[1]:9.3f}  {changes:23}  x{saved:.2f}")
        print(f"    seeds {seeds}, {name[1] or 'as it is'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--experiments", nargs="+", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the experiments")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if options.show:
        show(read_records(options.output))
        return
    changes = " ".join(options.set)
    settings = dict(word.split("=", 1) for word in options.set)
    for experiment in options.experiments:
        for seed in options.seeds:
            for precision in PRECISIONS:
                cell = {"experiment": experiment, "settings": changes, "seed": seed, "precision": precision}
                if find_record(read_records(options.output), cell):
                    continue
                row = cell | train(experiment, settings, seed, precision)
                add_record(options.output, row)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
