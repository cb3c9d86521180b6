import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lit_vision.charts import intervals, open_spans, precision_recall, steps_per_epoch, unfreezing_timeline
from lit_vision.metrics.operating_points import Curve
from lit_vision.types import UInt8Array

BLUE, ORANGE, GREY, RED = (31, 119, 180), (255, 127, 14), (115, 115, 115), (214, 39, 40)


def event(step: int, epoch: int, stage: int, kind: str, value: float | None = None) -> dict[str, Any]:
    return {"step": step, "epoch": epoch, "stage": stage, "event": kind, "value": value}


# Stage 0 opens at epoch 1, stages 1 and 2 at epoch 2, of which the last is taken back after it.
HISTORY = [
    event(0, 0, 0, "start"),
    event(10, 0, 0, "value", 0.5),
    event(10, 1, 1, "open"),
    event(20, 1, 1, "value", 0.7),
    event(20, 2, 3, "open"),
    event(30, 2, 3, "value", 0.6),
    event(30, 2, 2, "rollback"),
    event(40, 3, 2, "value", 0.8),
    event(40, 4, 2, "end"),
]


def test_spans_in_which_stages_were_open() -> None:
    assert open_spans(HISTORY, 0, 40) == [(10, 40, False)]
    assert open_spans(HISTORY, 1, 40) == [(20, 40, False)]
    assert open_spans(HISTORY, 2, 40) == [(20, 30, True)]
    assert open_spans(HISTORY, 3, 40) == []
    assert open_spans([*HISTORY[:-1], event(35, 3, 3, "open")], 2, 50) == [(20, 30, True), (35, 50, False)]


def test_length_of_an_epoch_from_what_happened_in_it() -> None:
    assert steps_per_epoch(HISTORY) == 10
    assert steps_per_epoch(HISTORY[:2]) == 10
    halfway = [event(5, 0, 0, "value", 1.0), event(10, 0, 0, "value", 1.0), event(15, 1, 0, "value", 1.0)]
    assert steps_per_epoch(halfway) == 10
    assert steps_per_epoch([event(0, 0, 0, "start"), event(24, 2, 1, "open")]) == 12, "no validation: from an opening"
    assert steps_per_epoch([event(0, 0, 0, "start"), event(1, 1, 0, "end")]) is None


def pixels(picture: UInt8Array, color: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - color).max(2) <= 2).sum())


def drawn(path: Path, history: list[dict[str, Any]], stages: int, total: int = 40) -> UInt8Array:
    labels = [f"stage {k} (layer{k}, 1.0 M parameters)" for k in range(stages)]
    assert unfreezing_timeline(history, labels, "val/accuracy", total, path, "shapes") == path
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)  # type: ignore[return-value]  # uint8


def test_lanes_are_as_long_as_stages_were_open(tmp_path: Path) -> None:
    picture = drawn(tmp_path / "pictures" / "unfreezing.png", HISTORY, 3)
    # Steps with a full lane: 40 of the head, 30 and 20 of the first two stages, none of the one taken back.
    assert pixels(picture, BLUE) / pixels(picture, GREY) == pytest.approx(50 / 40, rel=0.02)
    assert pixels(picture, ORANGE) > 300
    assert pixels(picture, RED) > 100
    kept = drawn(tmp_path / "kept.png", [one for one in HISTORY if one["event"] != "rollback"][:6], 3)
    assert pixels(kept, ORANGE) == 0


def test_a_run_that_goes_on_leaves_room(tmp_path: Path) -> None:
    full = pixels(drawn(tmp_path / "full.png", HISTORY, 3), GREY)
    half = pixels(drawn(tmp_path / "half.png", HISTORY[:4], 3), GREY)
    assert half / full == pytest.approx(0.5, rel=0.02)
    ended = pixels(drawn(tmp_path / "ended.png", [*HISTORY[:4], event(20, 2, 1, "end")], 3), GREY)
    assert ended / full == pytest.approx(1, rel=0.02), "stopped early, the axis ends with it"


@pytest.mark.parametrize("stages", [0, 1, 12])
def test_every_lane_has_the_same_height(tmp_path: Path, stages: int) -> None:
    history = [event(0, 0, stages, "open"), event(1, 0, stages, "value", math.nan), event(1, 1, stages, "end")]
    picture = drawn(tmp_path / "lanes.png", history, stages, total=1)
    assert pixels(picture, BLUE) / pixels(picture, GREY) == pytest.approx(stages, rel=0.08)
    assert pixels(picture, RED) == 0, "NaN is a gap"


@pytest.mark.parametrize(
    "history", [[], HISTORY[:1], [event(0, 0, 0, "value", None)], [event(3, 0, 0, "end", math.inf)]]
)
def test_little_to_show(tmp_path: Path, history: list[dict[str, Any]]) -> None:
    assert drawn(tmp_path / "little.png", history, 2, total=-1).shape[2] == 3


def test_intervals_are_lines_from_end_to_end() -> None:
    """A wide interval has more blue pixels in its row than a narrow one."""
    picture = intervals({"accuracy": [("wide", 0.5, 0.1, 0.9), ("narrow", 0.5, 0.45, 0.55)]})
    blue = (picture[..., 2].astype(int) - picture[..., 0]) > 100
    rows = blue.sum(1)
    upper, lower = rows[: len(rows) // 2].max(), rows[len(rows) // 2 :].max()
    assert upper > 4 * lower > 0


def test_curves_of_few_classes_are_coloured_and_of_many_grey() -> None:
    one = Curve(np.array([0.9, 0.4], np.float32), np.array([0.5, 1.0]), np.array([1.0, 0.8]), 0.9)
    pictures = []
    for count in (1, 2, 10, 11):
        names = [f"${k}$_" for k in range(count)]
        pictures.append(precision_recall(dict.fromkeys(names, one), dict.fromkeys(names, 0.6)))
    coloured = [int((np.ptp(picture, axis=2) > 60).sum()) for picture in pictures]
    assert coloured[0] > 500
    assert coloured[3] == 0
    black = [int((picture.max(2) < 60).sum()) for picture in pictures]
    assert black[1] > black[0] + 500  # the mean
