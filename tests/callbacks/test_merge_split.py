"""The report of glued and cut objects, by hand and as a test writes it."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import tiny
import torch

from lit_vision.callbacks.merge_split import Counted, MergeSplitReport, counted_of, draw_truth_by_fate, write_report
from lit_vision.data.instances import InstanceDataModule
from lit_vision.errors import UserError
from lit_vision.ops.matching import overlap

FRAME = np.array([[2, 0, 10], [0, 2, 0]], np.float32)  # twice as large, 10 pixels to the right


def three_fates() -> tuple[np.ndarray, np.ndarray]:
    """Objects 1 and 2 glued as prediction 1, object 3 cut into predictions 2 and 3, object 4 right as prediction 4."""
    truth, found = np.zeros((10, 60), np.int32), np.zeros((10, 60), np.int32)
    for number, left in enumerate((10, 20, 34, 50), 1):
        truth[2:8, left : left + 10] = number
    found[2:8, 10:30], found[2:8, 34:38], found[2:8, 40:44], found[2:8, 50:60] = 1, 2, 3, 4
    return truth, found


def test_events_and_their_places() -> None:
    truth, found = three_fates()
    counted = counted_of(7, overlap(truth, 4, found, 4), truth, found, FRAME)
    assert (counted.index, counted.objects, counted.predicted, counted.faults) == (7, 4, 4, 3)
    assert counted.events == [
        ("merge", [1, 2], [1], pytest.approx((20 - 10) / 2), pytest.approx(2.5)),
        ("split", [3], [2, 3], pytest.approx((39 - 10) / 2), pytest.approx(2.5)),
    ]


def test_a_perfect_and_an_empty_picture_have_no_events() -> None:
    truth, _ = three_fates()
    nothing = np.zeros_like(truth)
    for one, other, count in ((truth, truth, 4), (truth, nothing, 0), (nothing, nothing, 0)):
        objects = int(one.max())
        assert counted_of(0, overlap(one, objects, other, count), one, other, FRAME).events == []


def test_files(tmp_path: Path) -> None:
    merge = ("merge", [1, 2, 5], [3], 12.25, 4.0)
    counted = [Counted(0, 6, 4, []), Counted(1, 9, 8, [merge, ("split", [4], [6, 7], 1.0, 2.0)])]
    write_report(tmp_path / "test", counted, ["a.png", "b.png"])
    with (tmp_path / "test" / "merges_splits.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == [
            ["b.png", "merge", "1|2|5", "3", "12.2", "4.0"],
            ["b.png", "split", "4", "6|7", "1.0", "2.0"],
        ]
    facts = json.loads((tmp_path / "test" / "merges_splits.json").read_text())
    assert facts["total"] == {"objects": 15, "predicted": 12, "merges": 1, "glued_objects": 3, "cut_objects": 1}
    assert [row["path"] for row in facts["pictures"]] == ["b.png", "a.png"]


def test_fates_have_colours_of_their_own() -> None:
    truth, found = three_fates()
    image = np.full((10, 60, 3), 128, np.uint8)
    counted = counted_of(0, overlap(truth, 4, found, 4), truth, found, FRAME)
    drawn = draw_truth_by_fate(image, truth, counted)
    factor = drawn.shape[1] // 60
    colors = [tuple(drawn[7 * factor - 2, (x + 5) * factor].tolist()) for x in (10, 20, 34, 50)]
    assert colors[0] == colors[1]
    assert len(set(colors)) == 3


def test_the_worst_are_kept_and_bounded() -> None:
    report = MergeSplitReport(pictures=2)
    image, truth = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.int32)
    for index, glued in enumerate([2, 5, 0, 3, 4]):
        events: list[Any] = [("merge", list(range(1, glued + 1)), [1], 0.0, 0.0)] if glued else []
        report._draw(Counted(index, 9, 9, events), image, np.where(truth == 0, 1, 0).astype(np.int32), truth)
    assert [one[:2] for one in report._worst] == [(5, 1), (4, 4)]
    with pytest.raises(UserError, match="pictures is -1"):
        MergeSplitReport(pictures=-1)


def test_drawings_of_large_pictures_are_kept_small() -> None:
    report, truth = MergeSplitReport(), np.ones((6, 5000), np.int32)
    counted = Counted(0, 1, 2, [("split", [1], [1, 2], 0.0, 0.0)])
    report._draw(counted, np.zeros((6, 5000, 3), np.uint8), truth, truth)
    assert [drawn.shape for drawn in report._worst[0][2]] == [(2, 1666, 3)] * 2


def test_a_picture_of_an_earlier_test_does_not_stay_beside_a_report_without_faults(drawn: Path, tmp_path: Path) -> None:
    data = InstanceDataModule(str(drawn / "instances"), image_size=64, check=False)
    trainer: Any = SimpleNamespace(world_size=1, datamodule=data, default_root_dir=str(tmp_path))
    picture = tmp_path / "pictures" / "test_worst.jpg"
    image, truth = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.int32)
    for faults, events in ((1, [("split", [1], [1, 2], 0.0, 0.0)]), (0, [])):
        report = MergeSplitReport()
        report._counted = [Counted(0, 1, 1 + faults, cast(Any, events))]
        report._draw(report._counted[0], image, truth, truth)
        report.on_test_epoch_end(trainer, cast(Any, None))
        assert picture.exists() == bool(faults)


@pytest.mark.slow
def test_a_test_writes_the_report(drawn: Path, workspace: Path) -> None:
    experiment = tiny.write_experiment(workspace / "cells.yaml", "instances", drawn, max_epochs=1)
    tiny.command("fit", experiment)
    done = tiny.command("test", experiment)
    facts = json.loads((done.folder.path / "test" / "merges_splits.json").read_text())
    assert facts["total"]["objects"] > 0
    assert len(facts["pictures"]) == 5
    values = done.metrics
    assert values["test/merged"] == pytest.approx(facts["total"]["glued_objects"] / facts["total"]["objects"])
    assert values["test/split"] == pytest.approx(facts["total"]["cut_objects"] / facts["total"]["objects"])
    picture = done.folder.path / "pictures" / "test_worst.jpg"
    assert picture.exists() == (facts["total"]["glued_objects"] + facts["total"]["cut_objects"] > 0)
    assert not picture.exists() or cv2.imread(str(picture)) is not None


def test_true_objects_are_named_by_their_numbers_in_the_file_and_drawn_by_those_in_the_picture() -> None:
    truth, found = three_fates()
    pair = [{"instances": torch.from_numpy(found), "labels": torch.zeros(4)}]
    batch = {
        "image": torch.zeros(1, 3, 10, 60, dtype=torch.uint8),
        "index": torch.tensor([7]),
        "frame": torch.eye(3)[None, :2],
        "size": torch.tensor([[10, 60]]),
        "instances": torch.from_numpy(truth)[None],
        "labels": [torch.zeros(4)],
        "mask": torch.from_numpy(truth > 0)[None].long(),
        "numbers": [torch.tensor([2, 4, 5, 9])],  # a crop has left out the others
    }
    report = MergeSplitReport()
    report.on_test_batch_end(cast(Any, None), cast(Any, None), pair, batch)
    assert [event[:3] for event in report._counted[0].events] == [("merge", [2, 4], [1]), ("split", [5], [2, 3])]
    assert [one[:2] for one in report._worst] == [(3, 7)]
