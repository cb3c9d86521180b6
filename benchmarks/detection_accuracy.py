"""Detection by lit_vision against Ultralytics' YOLO: same pictures, input size and budget of training, one scoring.

    LIT_VISION_DATA=../shared/data python benchmarks/detection_accuracy.py --peer_python /tmp/peers/bin/python \\
        --pack det_bccd --cpu_minutes 60 --seeds 0 1 2 --output accuracy.jsonl [--only yolo26n ImageNet]
    python benchmarks/detection_accuracy.py --output accuracy.jsonl --show

The peer lives in an environment of its own; `ultralytics_command.py` says how to make it. Who takes part stands in
`detection_entries.yaml` (or --entries FILE). What an entry costs per epoch is measured by two short runs; then it
trains as many epochs as fit into the budget, with its own schedule over exactly these. The budget counts the whole
command: start, training, validation. --minutes is wall clock, for an idle machine; --cpu_minutes is the CPU time of all
its processes, which other work on the machine changes little: minutes times cores.

mAP is pycocotools', from the detections that each side's best weights (chosen on the validation split by each side
itself) give at scores from 0.001. A data set without a validation split gives a fifth of its pictures, the same for
both sides. Lines that the output holds already are left out, so a cut series goes on.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coco_scores
import lit_vision_command as ours
import yaml
from budget import Record, add_record, cost_of_epochs, epochs_within, find_record, read_records, table
from process_cost import Cost
from ultralytics_command import Ultralytics, own_scores
from ultralytics_command import size_of as peer_size

LOWEST_SCORE = 0.001
SHORT_RUNS = (1, 3)  # epochs
ENOUGH = 1.3  # times the cost of the shorter run; a longer run that costs less tells nothing of an epoch,
LONGEST = 48  # and is lengthened up to so many epochs
HELD_OUT = 0.2


@dataclass(frozen=True)
class Trained:
    """A training that has ended."""

    cost: Cost
    command: list[str]


class Series:
    """Entries trained on one data set, one after another.

    Args:
        options: of the command line.
        data: folder with the data set as COCO in coco/ and as YOLO text in yolo/.
        peer: the other side; None where no entry needs it.
    """

    def __init__(self, options: argparse.Namespace, data: Path, peer: Ultralytics | None) -> None:
        self.options, self.data, self.peer = options, data, peer
        self.work: Path = options.work
        self.truth = data / "coco/annotations/instances_val.json"

    def train(self, entry: Mapping[str, Any], name: str, epochs: int, seed: int, short: bool = False) -> Trained:
        """Trains an entry in a fresh run folder called `name`."""
        shutil.rmtree(self.work / "runs" / name, ignore_errors=True)
        if "peer" in entry:
            return Trained(*self._train_peer(entry, name, epochs, seed, short))
        settings = {"data.root": str(self.data / "coco"), "data.format": "coco", "data.val_fraction": 0}
        settings |= {"data.missing_classes": "note", "data.image_size": self.options.image_size}
        settings |= {"seed_everything": seed, **entry.get("set", {}), "trainer.max_epochs": epochs}
        folder, log = self.work / "runs" / name, self.work / f"logs/{name}.log"
        return Trained(*ours.fit(entry["experiment"], settings, folder, log, self.options.threads))

    def _train_peer(
        self, entry: Mapping[str, Any], name: str, epochs: int, seed: int, short: bool
    ) -> tuple[Cost, list[str]]:
        assert self.peer is not None
        settings = {"model": entry["peer"], "data": self.data / "yolo/data.yaml", "imgsz": self.options.image_size}
        settings |= {"epochs": epochs, "seed": seed, **entry.get("set", {})}
        if short:
            settings["close_mosaic"] = 0  # it would go without mosaic, which costs, in its last 10 epochs
        return self.peer.train(name, settings)

    def measure(self, entry: Mapping[str, Any], name: str) -> dict[str, Any]:
        """mAP of a run's best weights, and the size of its network."""
        size = self.options.image_size
        if self.peer is not None and "peer" in entry:
            shutil.rmtree(self.work / "detections" / name, ignore_errors=True)
            names = [one["name"] for one in json.loads(self.truth.read_text())["categories"]]
            labels = self.peer.detect(name, self.data / "yolo/data.yaml", size)
            found = coco_scores.read_yolo_labels(labels, self.truth, names)
            facts = peer_size(self.peer.log(name).read_text(errors="replace"), size)
            facts |= own_scores(self.peer.log(f"{name}-val").read_text(errors="replace"))
        else:
            checkpoint = self.work / "runs" / name / "checkpoints/best.ckpt"
            output, log = self.work / "detections" / name, self.work / f"logs/{name}-predict.log"
            shutil.rmtree(output, ignore_errors=True)
            images, threads = self.data / "coco/images/val", self.options.threads
            file = ours.predict(checkpoint, images, output, LOWEST_SCORE, log, threads)
            found, facts = coco_scores.read_coco_predictions(file), ours.size_of(checkpoint, size)
        return {**coco_scores.score(self.truth, found), "detections": len(found), **facts}

    def about(self, label: str, entry: Mapping[str, Any]) -> Record:
        """What two records must share to be of the same thing."""
        definition = json.dumps(entry, sort_keys=True)
        return {
            "entry": label,
            "definition": definition,
            "pack": self.options.pack,
            "image_size": self.options.image_size,
        }

    def calibrate(self, label: str, entry: Mapping[str, Any]) -> Record:
        """Cost of an entry's start and epochs; from the output where it was measured on this machine before."""
        wanted = self.about(label, entry) | {"kind": "calibration", "threads": self.options.threads}
        wanted |= {"machine": machine()}
        if self.options.minutes:  # its seconds by the clock are worth nothing if the machine had other work
            wanted["clock"] = "wall"
        known = find_record(read_records(self.options.output), wanted)
        if known:
            return known
        counts = list(entry.get("short_runs", SHORT_RUNS))
        costs = [self.short_run(label, entry, count) for count in counts]
        while costs[1].cpu_seconds < ENOUGH * costs[0].cpu_seconds and counts[1] < LONGEST:  # epochs of a GPU are short
            counts[1] *= 4
            costs[1] = self.short_run(label, entry, counts[1])
        found: Record = {"short_runs": counts}
        for clock in ("cpu", "wall"):
            seconds = [getattr(cost, f"{clock}_seconds") for cost in costs]
            if clock == "wall" and seconds[1] <= seconds[0] and not self.options.minutes:
                continue  # other work came or went; nobody asks
            around, each = cost_of_epochs(*zip(counts, seconds, strict=True))
            found |= {f"{clock}_around": round(around, 1), f"{clock}_each": round(each, 2)}
        record = {**wanted, **found, **circumstances()}
        add_record(self.options.output, record)
        print(f"{label}: {found['cpu_each']} CPU seconds an epoch, {found['cpu_around']} around them", flush=True)
        return record

    def short_run(self, label: str, entry: Mapping[str, Any], epochs: int) -> Cost:
        return self.train(entry, slug(f"{self.options.pack}-{label}-short"), epochs, 0, short=True).cost

    def run(self, label: str, entry: Mapping[str, Any], seed: int) -> None:
        """Trains and measures one entry, unless its line is there."""
        clock, minutes = (
            ("cpu", self.options.cpu_minutes) if self.options.cpu_minutes else ("wall", self.options.minutes)
        )
        wanted = self.about(label, entry) | {"kind": "result", "seed": seed, "budget": f"{minutes:g} {clock} minutes"}
        if find_record(read_records(self.options.output), wanted):
            return
        cost = self.calibrate(label, entry)
        epochs = epochs_within(60 * minutes, cost[f"{clock}_around"], cost[f"{clock}_each"])
        name = slug(f"{self.options.pack}-{label}-{minutes:g}{clock}-{seed}")
        trained = self.train(entry, name, epochs, seed)
        record = {**wanted, "epochs": epochs, **trained.cost.as_dict(), **self.measure(entry, name)}
        record |= {
            "threads": self.options.threads,
            "command": " ".join(trained.command),
            "run": str(self.work / "runs" / name),
        }
        add_record(self.options.output, {**record, "machine": machine(), **circumstances()})
        print(
            f"{label}, seed {seed}: {epochs} epochs, mAP@.5 {record['map_50']:.3f}, mAP {record['map']:.3f}", flush=True
        )


def prepare(root: Path, output: Path) -> Path:
    """Copies of a data set as COCO and as YOLO text, with the same splits; the data set itself is only read."""
    if (output / "complete").is_file():
        return output
    from lit_vision.data.formats import coco, read, yolo
    from lit_vision.data.splits import split

    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    index = read(root, "coco")
    if len(index.indices("val")) == 0:
        index = split(index, val_fraction=HELD_OUT, seed=0)
    coco.write(index, output / "coco")
    yolo.write(index, output / "yolo")
    described = yaml.safe_load((output / "yolo/data.yaml").read_text()) | {"path": str((output / "yolo").resolve())}
    (output / "yolo/data.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    (output / "complete").touch()
    return output


def slug(text: str) -> str:
    """A name for files."""
    return re.sub(r"[^a-zA-Z0-9.]+", "-", text).strip("-")


def machine() -> str:
    """Processor and cores."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    name = re.search(r"model name\s*: (.*)", info)
    return f"{name[1] if name else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def circumstances() -> dict[str, str]:
    """Date and the tree's commit."""
    commit = subprocess.run(
        ["git", "-C", str(ours.TREE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return {"date": datetime.date.today().isoformat(), "commit": commit.stdout.strip()}


def show(records: list[Record]) -> None:
    """Tables of the calibrations and of the results, seeds together."""
    costs = [one for one in records if one["kind"] == "calibration"]
    rows = [
        [
            one["entry"],
            one["pack"],
            str(one["image_size"]),
            f"{one['cpu_each']:.1f}",
            f"{one['cpu_around']:.0f}",
            one["date"],
        ]
        for one in costs
    ]
    print(table(["entry", "data", "px", "CPU s an epoch", "CPU s around them", "date"], rows), end="\n\n")
    groups: dict[tuple[str, ...], list[Record]] = {}
    for one in records:
        if one["kind"] == "result":
            key = (one["pack"], one["budget"], str(one["image_size"]), one["entry"], one["definition"])
            groups.setdefault(key, []).append(one)
    header = ["data", "budget", "px", "entry", "seeds", "mAP@.5", "mAP", "epochs", "CPU min", "wall min", "M params"]
    print(table([*header, "GFLOPs", "GiB"], [_row(key, same) for key, same in sorted(groups.items())]))


def _row(key: tuple[str, ...], same: list[Record]) -> list[str]:
    def spread(name: str) -> str:
        values = [one[name] for one in same]
        range_ = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.3f}{range_}"

    def mean(name: str, scale: float, digits: int) -> str:
        return f"{statistics.mean(one[name] for one in same) / scale:.{digits}f}"

    seeds = ", ".join(str(one["seed"]) for one in same)
    figures = [mean("epochs", 1, 0), mean("cpu_seconds", 60, 1), mean("wall_seconds", 60, 1)]
    figures += [mean("parameters", 1e6, 2), mean("gflops", 1, 2), mean("peak_gib", 1, 2)]
    return [*key[:4], seeds, spread("map_50"), spread("map"), *figures]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSONL that results are added to")
    parser.add_argument("--show", action="store_true", help="print the tables of the output, and nothing else")
    parser.add_argument("--peer_python", type=Path, help="python of the peer's environment")
    parser.add_argument("--pack", default="det_bccd", help="folder under LIT_VISION_DATA: images and COCO annotations")
    parser.add_argument("--entries", type=Path, default=Path(__file__).with_name("detection_entries.yaml"))
    parser.add_argument("--only", nargs="*", default=[], help="entries whose name holds one of these words")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--image_size", type=int, default=416)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="OMP_NUM_THREADS")
    parser.add_argument("--work", type=Path, default=Path("runs/detection_accuracy"), help="for data, runs and logs")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--cpu_minutes", type=float, help="of CPU time: wall minutes times cores")
    budget.add_argument("--minutes", type=float, help="of wall clock, on an idle machine")
    budget.add_argument("--calibrate_only", action="store_true", help="the short runs alone")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.show:
        show(read_records(options.output))
        return
    if not (options.cpu_minutes or options.minutes or options.calibrate_only):
        raise SystemExit("give a budget: --cpu_minutes or --minutes, or --calibrate_only")
    entries = yaml.safe_load(options.entries.read_text())
    chosen = {name: e for name, e in entries.items() if not options.only or any(word in name for word in options.only)}
    if any("peer" in entry for entry in chosen.values()) and not options.peer_python:
        raise SystemExit("give --peer_python (ultralytics_command.py says how to make it), or leave it out by --only")
    options.work = options.work.resolve()
    data = prepare(Path(os.environ["LIT_VISION_DATA"]).resolve() / options.pack, options.work / "data" / options.pack)
    peer = Ultralytics(options.peer_python, options.work, options.threads) if options.peer_python else None
    series = Series(options, data, peer)
    for seed in [0] if options.calibrate_only else options.seeds:
        for label, entry in chosen.items():
            if options.calibrate_only:
                series.calibrate(label, entry)
            else:
                series.run(label, entry, seed)


if __name__ == "__main__":
    main()
