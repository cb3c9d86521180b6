"""What the benchmark of two networks pays for, and that nothing is tuned on what it is measured on."""

import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from instances_accuracy import StopWatch, settings_of
from instances_ways import SURE, Picture, components, distance_watershed, reported, separated, surest_of, ways_of
from quiet import quiet_trainer
from torch import nn
from torch.utils.data import DataLoader

from lit_vision.ops.separation import Maps, Separation

BUSY = 0.03  # seconds


def work() -> None:
    until = time.process_time() + BUSY
    while time.process_time() < until:
        pass


class Slow(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> torch.Tensor:
        work()
        return torch.ones(1)


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.line(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_seconds_hold_the_reading_of_pictures_too() -> None:
    watch = StopWatch()
    quiet_trainer(max_steps=4, callbacks=[watch]).fit(Line(), DataLoader(Slow()))
    assert len(watch.steps) == 4
    assert sum(watch.steps) >= 4 * BUSY


def test_rows_of_other_data_or_networks_are_not_taken_for_those_of_the_usual(tmp_path: Path) -> None:
    options = Namespace(data=Path("/data/inst_dsb2018"), seconds=600.0, seeds=[0], output=tmp_path, network={})
    assert settings_of(options) == {"seconds": "600.0"}
    options.data = Path("/data/grains")
    assert settings_of(options) == {"data": "grains", "seconds": "600.0"}
    options.network = {"encoder": "csp_n"}
    assert settings_of(options) == {"data": "grains", "network": '{"encoder": "csp_n"}', "seconds": "600.0"}


def pair(gap: bool, level: int) -> Picture:
    """Two squares that touch, or lie apart, with this foreground level."""
    truth = np.zeros((20, 40), np.int32)
    truth[4:16, 4:16] = 1
    truth[4:16, 16 + 3 * gap : 30] = 2
    foreground, border = np.where(truth > 0, level, 0).astype(np.uint8), np.zeros(truth.shape, np.uint8)
    border[4:16, 15:17] = 0 if gap else 200
    return Picture(Maps(foreground, border, np.ones_like(foreground)), truth, "")


def test_ways_with_the_border_part_what_touches() -> None:
    pictures = [pair(False, 255) for _ in range(4)]
    ways = ways_of("both")
    found = {name: reported(settings[:1], pictures) for name, settings in ways.items()}
    assert found["one network + components"]["f1_75"] == 0
    assert found["two networks, subtracted"]["f1_75"] == 1 > found["two networks, subtracted"]["ap"]
    assert found["two networks, given back"]["ap"] == found["two networks, given back, .5/.3/20"]["ap"] == 1
    assert list(ways_of("pixels")) == [
        "one network + components, trained alone",
        "one network + distance watershed, trained alone",
    ]


def test_settings_are_chosen_on_the_other_half() -> None:
    """A level that only a low threshold finds in one half, which the other half would have to know."""
    pictures = [pair(True, 255), pair(True, 100)] * 2  # even ones are found by both, odd ones by the low one alone
    high, low = (partial(components, threshold, 1) for threshold in (0.6, 0.2))
    assert reported([low], pictures)["f1_50"] == 1
    assert reported([high], pictures)["f1_50"] == pytest.approx(2 * 4 / (4 + 8))
    # On the even ones both are alike, so the first is taken; on the odd ones the low one is better.
    assert reported([high, low], pictures)["f1_50"] == pytest.approx(2 * 4 / (4 + 8))


def test_the_task_keeps_the_first_unless_another_is_surely_better() -> None:
    first, other = (partial(separated, Separation(level, 0.3, 1)) for level in (0.6, 0.2))
    seen, unseen = pair(True, 100), pair(True, 50)
    assert surest_of([first, other], [seen, seen]) is other
    assert surest_of([first, other], [seen, unseen]) is first
    assert reported([first, other], [seen] * 4, surest_of)["f1_50"] == 1
    assert len(ways_of("both")[SURE]) == len(ways_of("both")["two networks, given back"])


def test_the_usual_pipeline_parts_round_objects() -> None:
    y, x = np.mgrid[:40, :60]
    discs = ((y - 20) ** 2 + (x - 20) ** 2 < 120) | ((y - 20) ** 2 + (x - 40) ** 2 < 120)
    nothing = np.zeros(discs.shape, np.uint8)
    maps = Maps(np.where(discs, 255, 0).astype(np.uint8), nothing, nothing + 1)
    assert distance_watershed(0.5, 7, 20, maps).max() == 2
    assert components(0.5, 20, maps).max() == 1
    assert Separation().instances(maps).max() == 1
