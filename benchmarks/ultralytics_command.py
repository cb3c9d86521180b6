"""Ultralytics' YOLO as a peer, by its command line and the files that it documents; it is AGPL-3.0 and never imported.

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install ultralytics==8.4.190 torch==2.14.1

It is kept from every network call: its statistics are off, it is told to be offline, and its proxy is a closed port,
so that whatever it would still fetch (fonts, weights for its AMP check, news of versions) fails at once.
"""

import csv
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from process_cost import Cost, run

CLOSED = "http://127.0.0.1:9"  # the discard port: nobody listens
DRAWN_AT = 640  # side of the input at which its summary counts GFLOPs
NO_LOGGERS = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg")


class Ultralytics:
    """The `yolo` command of another environment.

    Args:
        python: of that environment.
        work: folder for its settings.
        threads: OMP_NUM_THREADS.
    """

    def __init__(self, python: Path, work: Path, threads: int) -> None:
        self.yolo = python.parent / "yolo"
        if not self.yolo.is_file():
            raise SystemExit(f"--peer_python {python}: there is no {self.yolo}; see {Path(__file__).name}")
        self.work = work
        self.variables = {
            "YOLO_CONFIG_DIR": str(work.resolve() / "settings"),
            "YOLO_OFFLINE": "true",
            "YOLO_AUTOINSTALL": "false",
            "OMP_NUM_THREADS": str(threads),
            "GOMP_SPINCOUNT": "50000",  # as lit_vision's command sets it: waiting threads cost less of a shared machine
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), CLOSED),
        }
        run(
            [str(self.yolo), "settings", *(f"{name}=False" for name in NO_LOGGERS)],
            work / "settings.log",
            self.variables,
        )

    def train(self, name: str, settings: Mapping[str, Any], cores: int | None = None) -> tuple[Cost, list[str]]:
        """`yolo detect train`; gives its cost and the command. The run lies in work/runs/<name>."""
        fixed = {"project": (self.work / "runs").resolve(), "name": name, "exist_ok": True}
        fixed |= {"pretrained": False, "plots": False}  # pictures of batches and curves cost it time
        words = [str(self.yolo), "detect", "train", *_words({**fixed, **settings})]
        return run(words, self.log(name), self.variables, self.work, cores), words

    def detect(self, name: str, data: Path, image_size: int) -> Path:
        """`yolo detect val` of a run's best weights at its own thresholds; gives the folder of the detections."""
        where = {"project": (self.work / "detections").resolve(), "name": name, "exist_ok": True}
        weights = self.work / "runs" / name / "weights/best.pt"
        settings = {"model": weights.resolve(), "data": data.resolve(), "imgsz": image_size, "plots": False}
        words = [str(self.yolo), "detect", "val", *_words({**settings, **where, "save_txt": True, "save_conf": True})]
        run(words, self.log(f"{name}-val"), self.variables, self.work)
        return self.work / "detections" / name / "labels"

    def log(self, name: str) -> Path:
        return self.work / f"logs/{name}.log"

    def epoch_seconds(self, name: str) -> list[float]:
        """Seconds of each epoch but the first, from its results.csv."""
        with (self.work / "runs" / name / "results.csv").open() as file:
            ends = [float({key.strip(): value for key, value in row.items()}["time"]) for row in csv.DictReader(file)]
        return [later - earlier for earlier, later in pairwise(ends)]


def _words(settings: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def size_of(log: str, image_size: int) -> dict[str, float]:
    """Parameters and GFLOPs of a forward pass, from the summary of the network in training that a log begins with.

    The summary counts at 640; a convolution's work goes with the area. It counts norms and activations too, which
    ours leaves out: 3 % of yolo26n, 0.5 % of yolov3-tiny.

    Raises:
        ValueError: there is no such summary.
    """
    found = re.search(r"summary: .*?([\d,]+) parameters.*?([\d.]+) GFLOPs", log)
    if not found:
        raise ValueError("no summary with parameters and GFLOPs in the log")
    gflops = float(found[2]) * (image_size / DRAWN_AT) ** 2
    return {"parameters": int(found[1].replace(",", "")), "gflops": round(gflops, 3)}


def own_scores(log: str) -> dict[str, float]:
    """The mAP that `yolo detect val` prints, by a computation of its own: to hold ours against, not to report.

    Raises:
        ValueError: there is no such line.
    """
    lines = re.findall(r"^\s+all\s+\d+\s+\d+\s+\S+\s+\S+\s+(\S+)\s+(\S+)\s*$", log, re.MULTILINE)
    if not lines:
        raise ValueError("no line for all classes in the log")
    map_50, mean = map(float, lines[-1])
    return {"own_map_50": map_50, "own_map": mean}
