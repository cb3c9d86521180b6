"""The pure parts of the benchmarks of detection; nothing is trained here."""

import argparse
import json
from pathlib import Path
from typing import Any

import detection
import detection_accuracy as accuracy
import lit_vision_command
import numpy as np
import pytest
import yaml
from budget import add_record, read_records
from PIL import Image
from process_cost import Cost
from ultralytics_command import Ultralytics, own_scores, size_of

ENTRY = {"peer": "yolo26n.yaml"}


def options(output: Path, **changed: Any) -> argparse.Namespace:
    known: dict[str, Any] = {"pack": "p", "image_size": 416, "threads": 2, "cpu_minutes": 60.0, "minutes": None}
    return argparse.Namespace(output=output, work=output.parent, **{**known, **changed})


class Pretended(accuracy.Series):
    """A series whose trainings cost 10 seconds and 20 an epoch of CPU, and half of that by the clock."""

    around, each = 10.0, 20.0

    def __init__(self, output: Path, **changed: Any) -> None:
        super().__init__(options(output, **changed), output.parent, None)
        self.epochs: list[int] = []

    def train(self, entry: Any, name: str, epochs: int, seed: int, short: bool = False) -> accuracy.Trained:
        self.epochs.append(epochs)
        cpu = self.around + self.each * epochs
        return accuracy.Trained(Cost(cpu, cpu / 2, 1.0), ["train", name])

    def measure(self, entry: Any, name: str) -> dict[str, Any]:
        return {"map_50": 0.5, "map": 0.25, "parameters": 1_000_000, "gflops": 2.0}


def test_short_runs_in_which_epochs_cost_next_to_nothing_are_lengthened(tmp_path: Path) -> None:
    series = Pretended(tmp_path / "results.jsonl")
    series.around, series.each = 100.0, 1.0
    found = series.calibrate("a", ENTRY)
    assert series.epochs == [1, 3, 12, 48]  # 112 seconds after 12 are less than 1.3 x 101
    assert (found["short_runs"], found["cpu_each"], found["cpu_around"]) == ([1, 48], 1.0, 100.0)


def test_a_series_trains_what_the_budget_holds_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results.jsonl"
    series = Pretended(output)
    series.run("a", ENTRY, 0)
    series.run("a", ENTRY, 1)
    assert series.epochs == [1, 3, 179, 179]  # (3600 - 10) / 20
    again = Pretended(output)
    again.run("a", ENTRY, 1)
    assert again.epochs == []
    again.run("a", {**ENTRY, "set": {"batch": 8}}, 1)  # another definition is another entry
    assert again.epochs == [1, 3, 179]
    by_clock = Pretended(output, cpu_minutes=None, minutes=30.0)
    by_clock.run("a", ENTRY, 0)
    assert by_clock.epochs == [1, 3, 179]  # (1800 - 5) / 10
    by_clock.run("a", ENTRY, 1)
    assert by_clock.epochs == [1, 3, 179, 179]
    accuracy.show(read_records(output))
    shown = capsys.readouterr().out
    assert "| p | 60 cpu minutes | 416 | a | 0, 1 | 0.500 (0.500-0.500) | 0.250 (0.250-0.250) | 179 | 59.8 |" in shown
    assert "| a | p | 416 | 20.0 | 10 |" in shown
    assert "| p | 30 wall minutes | 416 | a | 0, 1 |" in shown


def test_a_calibration_holds_for_its_threads_alone(tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    Pretended(output).calibrate("a", ENTRY)
    other = Pretended(output, threads=1)
    other.calibrate("a", ENTRY)
    assert other.epochs == [1, 3]
    record = read_records(output)[0]
    add_record(output, {**record, "cpu_each": 99.0})  # the last one counts
    assert Pretended(output).calibrate("a", ENTRY)["cpu_each"] == 99.0


class Disturbed(Pretended):
    """The longer of the short runs ends sooner by the clock."""

    def train(self, *arguments: Any, **options: Any) -> accuracy.Trained:
        done = super().train(*arguments, **options)
        return accuracy.Trained(Cost(done.cost.cpu_seconds, 100.0 / done.cost.cpu_seconds, 1.0), done.command)


def test_a_clock_that_other_work_disturbed_matters_to_its_own_budget_alone(tmp_path: Path) -> None:
    record = Disturbed(tmp_path / "results.jsonl").calibrate("a", ENTRY)
    assert (record["cpu_each"], record["cpu_around"]) == (20.0, 10.0)
    assert "wall_each" not in record
    with pytest.raises(ValueError, match="tell nothing of an epoch"):
        Disturbed(tmp_path / "results.jsonl", cpu_minutes=None, minutes=30.0).calibrate("a", ENTRY)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """Ten pictures of one class in one split."""
    root = tmp_path / "pack"
    (root / "images/train").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, rows = [], []
    for i in range(10):
        Image.fromarray(np.full((20, 30, 3), 10 * i, np.uint8)).save(root / f"images/train/{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 30, "height": 20})
        box = {"bbox": [i, 2, 6, 8], "area": 48, "iscrowd": 0}
        rows.append({"id": i + 1, "image_id": i + 1, "category_id": 1, **box})
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cell"}]}
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    return root


def test_both_sides_get_the_same_splits(pack: Path, tmp_path: Path) -> None:
    before = sorted(pack.rglob("*"))
    made = accuracy.prepare(pack, tmp_path / "made")
    assert sorted(pack.rglob("*")) == before
    truth = json.loads((made / "coco/annotations/instances_val.json").read_text())
    held = {Path(one["file_name"]).stem for one in truth["images"]}
    assert len(held) == 2
    for side in ("coco", "yolo"):
        assert {file.stem for file in (made / side / "images/val").iterdir()} == held
        assert len(list((made / side / "images/train").iterdir())) == 8
    described = yaml.safe_load((made / "yolo/data.yaml").read_text())
    assert described["path"] == str(made / "yolo")
    assert described["names"] == {0: "cell"}
    one = sorted(held)[0]
    place = [float(word) for word in (made / f"yolo/labels/val/{one}.txt").read_text().split()]
    assert place == pytest.approx([0, (int(one) + 3) / 30, 6 / 20, 6 / 30, 8 / 20])
    assert accuracy.prepare(pack, tmp_path / "made") == made  # a second time nothing is written


def test_what_the_peer_says_of_its_network() -> None:
    log = "\x1b[Kx\nYOLO26n summary: 260 layers, 2,504,970 parameters, 2,504,970 gradients, 5.9 GFLOPs\n"
    log += "YOLO26n summary (fused): 120 layers, 2,375,421 parameters, 0 gradients, 5.3 GFLOPs\n"
    assert size_of(log, 640) == {"parameters": 2_504_970, "gflops": 5.9}
    assert size_of(log, 416)["gflops"] == pytest.approx(5.9 * 0.65**2, abs=1e-3)
    with pytest.raises(ValueError, match="no summary"):
        size_of("", 416)


def test_what_the_peer_says_of_its_own_accuracy() -> None:
    first = "                   all         87       1137    0.00204      0.285    0.00215   0.000674\n"
    last = "      all    87    1137    0.81      0.7    0.75   0.45\n      RBC  1 2 3 4 5 6\n"
    assert own_scores(first + last) == {"own_map_50": 0.75, "own_map": 0.45}
    with pytest.raises(ValueError, match="no line"):
        own_scores("")


def test_epochs_of_the_peer_are_timed_without_the_first(tmp_path: Path) -> None:
    peer = Ultralytics.__new__(Ultralytics)
    peer.work = tmp_path
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/results.csv").write_text("epoch,   time, x\n1, 9.0, 0\n2, 13.5, 0\n3, 17.0, 0\n")
    assert peer.epoch_seconds("a") == [4.5, 3.5]


def test_a_missing_peer_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no .*yolo"):
        Ultralytics(tmp_path / "python", tmp_path, 1)


def test_settings_become_words() -> None:
    settings = {"model.weights": None, "data.root": "/x y", "model.mean": [0.5, 1], "trainer.max_epochs": 3}
    words = ["--model.weights", "null", "--data.root", "/x y", "--model.mean", "[0.5, 1]", "--trainer.max_epochs", "3"]
    assert lit_vision_command.words_of(settings) == words


def test_every_entry_names_a_side_that_is_there() -> None:
    entries = yaml.safe_load((Path(accuracy.__file__).with_name("detection_entries.yaml")).read_text())
    assert {"peer", "experiment"} == {side for entry in entries.values() for side in entry} - {"set"}
    for entry in entries.values():
        assert "peer" in entry or (lit_vision_command.TREE / entry["experiment"]).is_file()


def test_speeds_are_medians_over_rounds() -> None:
    ours = [{"images": 96, "steps": 6, "gflops": 5.0, "precision": "32", "layout": "x", "busy": 1.9} for _ in range(2)]
    ours[0] |= {"epoch_seconds": [12.0, 12.0], "bare_step_seconds": [1.5, 1.6]}
    ours[1] |= {"epoch_seconds": [12.0, 90.0], "bare_step_seconds": [1.6, 9.0]}
    peer = [{"images": 100, "gflops": 8.0, "busy": 1.0, "epoch_seconds": [50.0]}]
    assert detection.speed(ours) == 8.0
    assert detection.loop_cost(ours) == pytest.approx(2.0 / 1.6 - 1)
    assert detection.loop_cost(peer) is None
    shown = detection.row("ours", ours, peer, 16, 2)
    assert shown == ["16", "1.9 of 2", "ours", "32, x", "5.00", "8.00", "x4.00", "x2.50", "+25 %"]
