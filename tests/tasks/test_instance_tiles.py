"""InstanceSegmenter in tiles: validation and test count what the prediction shows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import NAMES, TINY, data_module
from quiet import quiet_trainer
from torch import Tensor

from lit_vision.tasks.instances import InstanceSegmenter


class ByColour(InstanceSegmenter):
    """Sees each pixel alone, and so the same in a tile as in the whole picture; keeps the sizes that it was shown."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.shown: set[tuple[int, int]] = set()

    def forward(self, images: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        self.shown.add((images.shape[2], images.shape[3]))
        red, _green, blue = images.float().unbind(1)
        pixels = torch.stack([torch.full_like(red, 60.0), red - blue, blue - red], 1)
        return pixels / 20, (red[:, None] - 128.5) / 50


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_tiles_in_evaluation_count_as_the_whole_picture_does(root: Path, stage: str) -> None:
    data = data_module(root, fit="native", batch_size=2)
    values, shown = [], []
    for tile in (None, 32):
        task = ByColour(NAMES, tile=tile, tile_overlap=0.5, tta_flips=["vertical"], min_area=5, **TINY)
        trainer = quiet_trainer()
        if stage == "validate":
            values.append(trainer.validate(task, data, verbose=False)[0])
        else:
            trainer.datamodule = data  # type: ignore[attr-defined]
            values.append(trainer.test(task, data.val_dataloader(), verbose=False)[0])
        shown.append(task.shown)
    assert shown == [{(64, 64)}, {(32, 32)}]
    kind = "val" if stage == "validate" else "test"
    assert 0.1 < values[0][f"{kind}/ap_50"] < 0.9  # touching squares of two colours are one object to this network
    assert values[1] == pytest.approx(values[0], abs=1e-5)


def test_scaled_pictures_are_evaluated_whole(root: Path) -> None:
    task = ByColour(NAMES, tile=32, **TINY)
    quiet_trainer().validate(task, data_module(root, fit="letterbox"), verbose=False)
    assert task.shown == {(64, 64)}


def test_validate_says_what_it_leaves_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = ByColour(NAMES, tile=32, tta_flips=["vertical"], **TINY)
    with caplog.at_level("INFO"):
        quiet_trainer().validate(task, data_module(root, fit="letterbox"), verbose=False)
    assert caplog.messages[-2:] == [
        "model.tile 32 is for predict: validate sees whole pictures, as fit: letterbox makes them; with fit: native it "
        "would see tiles",
        "validate takes no notice of model.tta_flips: test and predict do",
    ]
