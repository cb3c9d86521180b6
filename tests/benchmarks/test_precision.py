"""Trainings in both precisions, and what the table says of them."""

import sys
from pathlib import Path

import precision
import pytest
from budget import read_records
from tiny import write_experiment

from lit_vision.data.shapes import draw_shapes


def row(seed: int, kind: str, value: float, cpu_seconds: float) -> dict[str, object]:
    cell = {"experiment": "a.yaml", "settings": "", "seed": seed, "precision": kind, "metric": "val/map"}
    return {**cell, "value": value, "cpu_seconds": cpu_seconds}


def test_only_seeds_of_both_count(capsys: pytest.CaptureFixture[str]) -> None:
    first = [row(0, "32-true", 0.5, 30.0), row(0, "bf16-mixed", 0.52, 20.0)]
    second = [row(1, "32-true", 0.6, 40.0), row(1, "bf16-mixed", 0.54, 16.0), row(2, "32-true", 0.9, 10.0)]
    precision.show([*first, *second])
    line, seeds = capsys.readouterr().out.splitlines()[1:]
    assert line.split() == ["a.yaml", "val/map", "0.550", "0.530", "+0.020", "-0.060", "x2.00"]
    assert seeds.strip() == "seeds [0, 1], as it is"


@pytest.mark.slow
def test_a_pair_of_trainings_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = draw_shapes(tmp_path / "set", train=10, val=6, test=2, size=64)
    experiment = write_experiment(tmp_path / "tiny.yaml", "segmentation", root)
    words = ["--output", str(tmp_path / "found.jsonl"), "--experiments", str(experiment), "--seeds", "3"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["precision.py", *words, "--set", "trainer.max_epochs=2"])
        precision.main()
    single, mixed = read_records(tmp_path / "found.jsonl")
    assert [single["precision"], mixed["precision"]] == ["32-true", "bf16-mixed"]
    assert single["metric"] == "val/miou"
    assert 0 < single["value"] != mixed["value"] > 0  # what is set is used
    assert single["cpu_seconds"] > 1
