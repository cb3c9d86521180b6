"""Which true objects a test has glued together and which it has cut, picture by picture."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from torch import distributed

from lit_vision.data.base import VisionDataModule
from lit_vision.data.dataset import without_padding
from lit_vision.drawing import picture_of, shown
from lit_vision.errors import UserError
from lit_vision.object_files import measured
from lit_vision.ops.matching import Overlap, overlap
from lit_vision.plotting import draw_instances, draw_mask, grid, reduced, write_picture
from lit_vision.types import IGNORE_INDEX, Batch, FloatArray, Int32Array, UInt8Array

HEADER = ("path", "kind", "true_objects", "predicted_objects", "x", "y")
KINDS = ("background", "neither", "glued", "cut")  # of true objects, as drawn


@dataclass
class Counted:
    """What became of the objects of one picture.

    Args:
        index: of the picture.
        objects: true ones.
        predicted: predicted ones.
        events: (kind, true objects, predicted objects, x, y) of each merge and split; numbers from 1, the centre in
            pixels of the original.
    """

    index: int
    objects: int
    predicted: int
    events: list[tuple[str, list[int], list[int], float, float]]

    @property
    def faults(self) -> int:
        """True objects that are glued or cut."""
        return sum(len(true) for _, true, _, _, _ in self.events)

    def numbered(self, numbers: Sequence[int]) -> "Counted":
        """The same with other numbers of the true objects: that of object k stands at position k - 1."""
        events = [(kind, [numbers[k - 1] for k in true], found, x, y) for kind, true, found, x, y in self.events]
        return replace(self, events=events)


class MergeSplitReport(pl.Callback):
    """Writes what `lit-vision test` of an InstanceSegmenter has glued and cut; see `ops.matching.Overlap`.

    - <run folder>/test/merges_splits.csv: a row for each merge and split, with the numbers of the objects concerned
      (true ones as they follow each other in the picture's own labels) and the place in pixels of the original.
    - merges_splits.json beside it: totals, and counts of each picture, the worst first.
    - pictures/test_worst.jpg: the pictures with most faults; left the true objects, coloured by what became of them,
      right the predicted ones.

    With several processes, rank 0 collects from all and writes.

    Args:
        pictures: how many of the worst are drawn.
    """

    def __init__(self, pictures: int = 8) -> None:
        if pictures < 0:
            raise UserError(f"MergeSplitReport: pictures is {pictures}, but it is at least 0")
        self.pictures = pictures
        self._counted: list[Counted] = []
        self._worst: list[tuple[int, int, list[UInt8Array]]] = []  # faults, index, drawings

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets an earlier test."""
        self._counted, self._worst = [], []

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Counts a batch."""
        if not outputs or "instances" not in outputs[0] or "instances" not in batch:
            return
        real = cast(Mapping[str, Any], without_padding(cast(Batch, batch)))
        for i, prediction in enumerate(outputs):
            truth, found = real["instances"][i].cpu().numpy(), prediction["instances"].cpu().numpy()
            ignored = real["mask"][i].cpu().numpy() == IGNORE_INDEX
            met = overlap(truth, len(real["labels"][i]), found, len(prediction["labels"]), ignored)
            counted = counted_of(int(real["index"][i]), met, truth, found, real["frame"][i].cpu().numpy())
            # The network's frame may lack objects of the file; those that it has are drawn by their numbers there.
            named = counted.numbered(real["numbers"][i].tolist()) if "numbers" in real else counted
            self._counted.append(named)
            part = shown(real, i)
            self._draw(counted, picture_of(real, i)[part], truth[part], found[part])

    def _draw(self, counted: Counted, image: UInt8Array, truth: Int32Array, found: Int32Array) -> None:
        """Keeps the drawings of the worst pictures so far."""
        least = self._worst[-1][0] if len(self._worst) >= self.pictures and self._worst else 0
        if counted.faults <= least or not self.pictures:
            return
        drawings = [reduced(draw_truth_by_fate(image, truth, counted)), reduced(draw_instances(image, found))]
        self._worst.append((counted.faults, counted.index, drawings))
        self._worst = sorted(self._worst, key=lambda one: (-one[0], one[1]))[: self.pictures]

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the report."""
        counted = {one.index: one for part in _gathered(trainer, self._counted) for one in part}
        worst = {one[1]: one for part in _gathered(trainer, self._worst) for one in part}
        data = getattr(trainer, "datamodule", None)
        if not counted or getattr(trainer, "fast_dev_run", False) or not isinstance(data, VisionDataModule):
            return
        folder = Path(trainer.default_root_dir)
        ordered = [counted[index] for index in sorted(counted)]
        write_report(folder / "test", ordered, [data.index.files.text(one.index) for one in ordered])
        drawn = sorted(worst.values(), key=lambda one: (-one[0], one[1]))[: self.pictures]
        file = folder / "pictures" / "test_worst.jpg"
        file.unlink(missing_ok=True)  # of an earlier test of this run, which may have had faults
        if drawn:
            write_picture(file, grid([picture for _, _, both in drawn for picture in both]))
        rank_zero_info(f"merges and splits: {folder / 'test' / 'merges_splits.csv'}")


def counted_of(index: int, met: Overlap, truth: Int32Array, found: Int32Array, frame: FloatArray) -> Counted:
    """Merges and splits of one picture, with their places.

    Args:
        index: of the picture.
        met: which objects meet.
        truth: label map.
        found: label map of the predictions.
        frame: (2, 3), original to network.
    """
    merges, splits = met.merges(), met.splits()
    events: list[tuple[str, list[int], list[int], float, float]] = []
    back = np.linalg.inv(np.vstack([frame, [0, 0, 1]]).astype(np.float64))
    if merges:
        centres = measured(found, len(met.areas)).centroids
        events += [("merge", (true + 1).tolist(), [k + 1], *_place(centres[k], back)) for k, true in merges]
    if splits:
        centres = measured(np.maximum(truth, 0), len(met.true_areas)).centroids
        events += [("split", [k + 1], (parts + 1).tolist(), *_place(centres[k], back)) for k, parts in splits]
    return Counted(index, len(met.true_areas), len(met.areas), events)


def _place(centre: Any, back: Any) -> tuple[float, float]:
    x, y, _ = back @ [*centre, 1]
    return float(x), float(y)


def draw_truth_by_fate(image: UInt8Array, truth: Int32Array, counted: Counted) -> UInt8Array:
    """The true objects of a picture, coloured: glued to others, cut, or neither (found or missed).

    Args:
        image: (H, W, C) uint8.
        truth: label map.
        counted: what became of them.
    """
    fate = np.ones(counted.objects + 1, np.uint8)
    fate[0] = 0
    for kind, true, _, _, _ in counted.events:
        fate[true] = KINDS.index("glued" if kind == "merge" else "cut")
    shown = fate[np.maximum(truth, 0)]
    shown[:, :-1][truth[:, :-1] != truth[:, 1:]] = 0  # lines between objects of one colour
    shown[:-1][truth[:-1] != truth[1:]] = 0
    return draw_mask(image, shown, KINDS)


def write_report(folder: Path, counted: Sequence[Counted], files: Sequence[str]) -> None:
    """Writes merges_splits.csv and merges_splits.json.

    Args:
        folder: is made where it does not exist.
        counted: one for each picture.
        files: their paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "merges_splits.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for one, path in zip(counted, files, strict=True):
            for kind, true, predicted, x, y in one.events:
                numbers = ["|".join(map(str, numbers)) for numbers in (true, predicted)]
                writer.writerow([path, kind, *numbers, f"{x:.1f}", f"{y:.1f}"])
    pictures = [{"path": path, **_counts([one])} for one, path in zip(counted, files, strict=True)]
    pictures.sort(key=lambda row: -(int(row["glued_objects"]) + int(row["cut_objects"])))
    facts = {"total": _counts(counted), "pictures": pictures}
    (folder / "merges_splits.json").write_text(json.dumps(facts, indent=1) + "\n")


def _counts(counted: Sequence[Counted]) -> dict[str, Any]:
    events = [event for one in counted for event in one.events]
    return {
        "objects": sum(one.objects for one in counted),
        "predicted": sum(one.predicted for one in counted),
        "merges": sum(kind == "merge" for kind, *_ in events),
        "glued_objects": sum(len(true) for kind, true, *_ in events if kind == "merge"),
        "cut_objects": sum(kind == "split" for kind, *_ in events),
    }


def _gathered(trainer: pl.Trainer, own: Any) -> list[Any]:
    """The parts of all processes on rank 0; none on the others."""
    if trainer.world_size == 1:
        return [own]
    parts: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    distributed.gather_object(own, parts)
    return parts or []
