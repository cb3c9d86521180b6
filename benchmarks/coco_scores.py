"""COCO's mean average precision by pycocotools, of any program's detections, matched by names of files and classes."""

import contextlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Detection(NamedTuple):
    """One box: stem of the picture's file name, class, x, y, width, height in pixels of the original, and score."""

    picture: str
    label: str
    box: tuple[float, float, float, float]
    score: float


def score(truth: Path, detections: Iterable[Detection]) -> dict[str, float]:
    """{"map_50", "map"} over all pictures of a COCO file, by its standard rules (100 best boxes of a picture).

    Raises:
        ValueError: a detection is of a picture or class that the file does not have.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(truth))
        rows = _rows(known, detections)
        if not rows:
            return {"map_50": 0.0, "map": 0.0}
        evaluation = COCOeval(known, known.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"map_50": float(evaluation.stats[1]), "map": float(evaluation.stats[0])}


def _rows(known: Any, detections: Iterable[Detection]) -> list[dict[str, Any]]:
    pictures = {Path(one["file_name"]).stem: one["id"] for one in known.dataset["images"]}
    labels = {one["name"]: one["id"] for one in known.dataset["categories"]}
    rows = []
    for one in detections:
        if one.picture not in pictures or one.label not in labels:
            raise ValueError(f"{one.picture}, {one.label}: not among the pictures and classes of the truth")
        place = {"image_id": pictures[one.picture], "category_id": labels[one.label]}
        rows.append({**place, "bbox": list(one.box), "score": one.score})
    return rows


def read_coco_predictions(file: Path) -> list[Detection]:
    """The detections in the predictions.json of `lit-vision predict`."""
    content = json.loads(file.read_text())
    pictures = {one["id"]: Path(one["file_name"]).stem for one in content["images"]}
    labels = {one["id"]: one["name"] for one in content["categories"]}
    return [
        Detection(pictures[one["image_id"]], labels[one["category_id"]], tuple(one["bbox"]), one["score"])
        for one in content["annotations"]
    ]


def read_yolo_labels(folder: Path, truth: Path, names: Sequence[str]) -> list[Detection]:
    """The detections in a folder of text files, one a picture: class, centre x, y, width, height in 0..1, score a line.

    Args:
        folder: of the text files.
        truth: COCO file that says the pictures' sizes.
        names: of the classes.
    """
    sizes = {Path(i["file_name"]).stem: (i["width"], i["height"]) for i in json.loads(truth.read_text())["images"]}
    found = []
    for file in sorted(folder.glob("*.txt")):
        across, down = sizes[file.stem]
        for line in file.read_text().splitlines():
            label, x, y, w, h, chance = map(float, line.split())
            box = ((x - w / 2) * across, (y - h / 2) * down, w * across, h * down)
            found.append(Detection(file.stem, names[int(label)], box, chance))
    return found
