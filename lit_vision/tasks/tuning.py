"""Thresholds that nobody has set are found on the validation split, together, after each validation of a training."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.errors import UserError
from lit_vision.metrics.instances import InstanceMetrics
from lit_vision.metrics.thresholds import KeptPicture, KeptPictures, ThresholdSearch, grid, wider
from lit_vision.ops.instances import Regrow, check_regrow
from lit_vision.ops.separation import Maps, Separation
from lit_vision.tasks.instance_maps import as_prediction
from lit_vision.types import IGNORE_INDEX, InstanceBatch

FOUND = ("pixel_threshold", "border_threshold", "min_area")


class Tuning:
    """Keeps a validation's maps, then chooses the thresholds and counts with them.

    Args:
        pixel_threshold: as set; None = to be found.
        border_threshold: likewise.
        min_area: likewise.
        regrow: of the separation.
        fill_holes: of the separation.
        border: whether there is a border network to have a threshold for.
    """

    def __init__(
        self,
        pixel_threshold: float | None,
        border_threshold: float | None,
        min_area: float | None,
        regrow: Regrow | bool,
        fill_holes: bool,
        border: bool = True,
    ) -> None:
        for name, value in (("pixel_threshold", pixel_threshold), ("border_threshold", border_threshold)):
            if value is not None and not 0 <= value < 1:
                raise UserError(f"model.{name} is {value}, but it must be at least 0 and below 1")
        if min_area is not None and min_area < 0:
            raise UserError(f"model.min_area is {min_area}: give pixels, 0 or more")
        way: Regrow = regrow if isinstance(regrow, str) else "nearest" if regrow else "none"
        check_regrow(way)
        given = dict(zip(FOUND, (pixel_threshold, border_threshold, min_area), strict=True))
        self.found = [name for name, value in given.items() if value is None]
        settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.start = Separation(**settings, regrow=way, fill_holes=fill_holes)
        self.searched = [name for name in self.found if border or name != "border_threshold"]
        self.wanted = [name in self.searched for name in FOUND]
        self.search = ThresholdSearch(max(grid(self.start, *self.wanted), wider(self.start, self.start), key=len))
        self.kept: KeptPictures | None = None
        self.done = False  # whether anything was found

    def begin(self) -> None:
        """A validation of a training begins."""
        self.kept = KeptPictures() if self.found else None

    def keep(self, batch: InstanceBatch, i: int, maps: Maps) -> bool:
        """Keeps image i until the thresholds are chosen; false where it is to be counted at once."""
        if self.kept is None:
            return False
        truth, mask = batch["instances"][i].cpu().numpy(), batch["mask"][i].cpu().numpy()
        labels = batch["labels"][i].cpu().numpy()
        return self.kept.add(KeptPicture(int(batch["index"][i]), maps, truth, labels, mask == IGNORE_INDEX))

    def finish(self, metrics: InstanceMetrics, log: Callable[[dict[str, float]], Any]) -> Separation | None:
        """The best thresholds, with which the metrics have counted the kept pictures; None where none are sought."""
        if self.kept is None:
            return None
        kept, self.kept, self.done = self.kept, None, True
        best = self._best(grid(self.start, *self.wanted), kept)
        if self.wanted[-1]:
            pixel, border, _ = self.wanted
            found = self._best(wider(best, self.start), kept)
            # Objects of quite another size: the thresholds were chosen while most of them, or much dirt, counted wrong.
            best = best if found == best else self._best(grid(found, pixel, border, False), kept)
        for place in range(len(kept)):
            _count(metrics, kept[place], best)
        log({f"val/{name}": float(getattr(best, name)) for name in self.searched})
        return best

    def _best(self, choices: Sequence[Separation], kept: KeptPictures) -> Separation:
        self.search.begin(choices)
        for place in kept.searched():
            picture = kept[place]
            self.search.update(picture.index, picture.maps, picture.truth, picture.ignored)
        return self.search.choices[int(self.search.compute())]

    def adopted(self, saved: dict[str, Any]) -> Separation:
        """What a checkpoint has found, but for what the user has set."""
        return Separation(**{**asdict(self.start), **{name: saved[name] for name in self.found if name in saved}})


def _count(metrics: InstanceMetrics, picture: KeptPicture, separation: Separation) -> None:
    prediction = as_prediction(separation, picture.maps, metrics.num_classes)
    there = (np.array(picture.truth), np.array(picture.labels), np.array(picture.ignored))
    given = (prediction["instances"], prediction["labels"], prediction["scores"])
    metrics.update(picture.index, *given, *(torch.from_numpy(one) for one in there))


def say_found(separation: Separation, found: list[str]) -> None:
    """Tells the user which thresholds the run has ended with."""
    if found:
        told = ", ".join(f"{name} {getattr(separation, name):g}" for name in found)
        rank_zero_info(f"found on the validation split: {told}")
