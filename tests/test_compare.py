"""Comparisons of runs: what the numbers are, which runs are refused, what is written."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from scipy import stats

from lit_vision.__main__ import main
from lit_vision.compare import Comparison, compare
from lit_vision.compare_report import sentences, table_of, write
from lit_vision.compare_runs import Group, collected
from lit_vision.errors import UserError
from lit_vision.runs.evidence import Evidence

PICTURES = 120


def evidence(right: Sequence[int], **changes: Any) -> Evidence:
    """A classifier that is right on these pictures."""
    truth = np.arange(PICTURES) % 2
    guess = np.where(np.isin(np.arange(PICTURES), list(right)), truth, 1 - truth)
    whole: dict[str, Any] = {
        "kind": "classification",
        "metric": "accuracy",
        "class_names": ["cat", "dog"],
        "files": [f"{i}.jpg" for i in range(PICTURES)],
        "labels": truth.astype(np.uint64),
        "arrays": {"truth": truth, "guess": guess, "top5": np.ones(PICTURES, bool)},
        "facts": {"checkpoint": "x/best.ckpt", "image_size": [64, 64], "split": "test"},
    }
    return Evidence(**{**whole, **changes})


def group(name: str, *seen: Evidence) -> Group:
    return Group(name, [Path(f"{name}{k}") for k in range(len(seen))], seen)


A, B = evidence(range(90)), evidence([*range(96), *range(100, 112)])  # B wins 18 pictures and loses none
C = evidence([*range(80), *range(90, 103)])  # wins 13, loses 10


def test_values_differences_and_p() -> None:
    found = compare([group("A", A), group("B", B), group("C", C)], resamples=4000)
    assert (found.metric, found.pictures, found.resamples) == ("accuracy", 120, 4000)
    assert [one.value for one in found.values] == pytest.approx([90 / 120, 108 / 120, 93 / 120])
    assert [one.value for one in found.differences] == pytest.approx([18 / 120, 3 / 120])
    for one in (*found.values, *found.differences):
        assert one.low < one.value < one.high
    interval = stats.binom.ppf([0.025, 0.975], 120, 0.75) / 120  # what drawing from these pictures is
    assert (found.values[0].low, found.values[0].high) == pytest.approx(tuple(interval), abs=0.011)
    exact = [stats.binomtest(18, 18).pvalue, stats.binomtest(13, 23).pvalue]
    assert [one.p for one in found.differences] == pytest.approx(exact, abs=0.03)
    assert [one.corrected for one in found.differences] == pytest.approx(
        [2 * (found.differences[0].p or 0), found.differences[1].p]
    )
    assert found.differences[0].low > 0 > found.differences[1].low


def test_pairing_narrows_the_interval() -> None:
    found = compare([group("A", A), group("B", B)], resamples=2000)
    alone = np.hypot(*(one.high - one.low for one in found.values))
    assert found.differences[0].high - found.differences[0].low < 0.8 * alone


def test_equal_runs_differ_by_nothing() -> None:
    (one,) = compare([group("A", A), group("again", A)], resamples=300).differences
    assert (one.value, one.low, one.high, one.p, one.corrected) == (0, 0, 0, 1.0, None)


def test_same_seed_same_numbers() -> None:
    groups = [group("A", A), group("C", C)]
    found = [compare(groups, resamples=500, seed=seed) for seed in (1, 1, 2)]
    assert found[0].values == found[1].values
    assert found[0].differences == found[1].differences
    assert found[0].values != found[2].values


def test_level_widens() -> None:
    narrow, wide = (compare([group("A", A), group("C", C)], level=level).values[0] for level in (0.5, 0.99))
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_order_of_the_pictures_is_the_baselines() -> None:
    order = np.random.default_rng(0).permutation(PICTURES)
    mixed = [compare([group("A", A), group("B", other)], resamples=200) for other in (B, B.at(order))]
    assert mixed[0].differences == mixed[1].differences


def test_seeds_of_a_group_are_averaged() -> None:
    found = compare([group("A", A, C), group("B", B, B)], resamples=2000)
    assert found.values[0].value == pytest.approx((90 + 93) / 240)
    assert found.values[0].each == pytest.approx([90 / 120, 93 / 120])
    assert found.values[0].spread == pytest.approx(np.std([90 / 120, 93 / 120], ddof=1))
    assert found.differences[0].method == "swap"
    assert "runs of a group are averaged; intervals and p are of the luck with pictures, not with seeds" in sentences(
        found
    )
    single = compare([group("A", A), group("B", B)], resamples=2000)
    assert single.values[0].spread is None
    assert [line for line in sentences(single) if "another seed is other luck" in line]


def test_groups_of_unequal_size_say_so() -> None:
    found = compare([group("A", A, C), group("B", B)], resamples=500)
    assert found.differences[0].method == "centred"
    assert any(note.startswith("groups of unequal size") for note in found.notes)


def test_other_metric() -> None:
    found = compare([group("A", A), group("B", B)], metric="accuracy/dog", resamples=200)
    assert found.values[0].value == pytest.approx(45 / 60)
    with pytest.raises(
        UserError, match="--metric miou cannot be compared picture by picture; it can be accuracy, top5"
    ):
        compare([group("A", A), group("B", B)], metric="miou")


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (evidence([], kind="segmentation"), "B0 is of segmentation, but A0 is of classification: compare runs of one"),
        (evidence([], class_names=["dog", "cat"]), "B0 has the classes dog, cat, but A0 has cat, dog: compare runs of"),
        (B.at(np.arange(1, PICTURES)), "A0 saw 120 pictures and B0 saw 119: B0 did not see 0.jpg; compare runs on"),
        (
            evidence([], files=[*(f"{i}.jpg" for i in range(PICTURES - 1)), "new.jpg"]),
            "A0 saw 120 pictures and B0 saw 120: B0 did not see 119.jpg;",
        ),
        (
            evidence([], labels=np.where(np.arange(PICTURES) == 7, 5, np.arange(PICTURES) % 2).astype(np.uint64)),
            r"7.jpg has other labels in B0 than in A0 \(1 of 120 pictures do\): test both again on the same labels",
        ),
    ],
)
def test_runs_that_do_not_go_together(other: Evidence, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compare([group("A", A), group("B", other)])


def test_more_pictures_than_the_baseline_are_named() -> None:
    with pytest.raises(UserError, match=r"A0 saw 119 pictures and B0 saw 120: A0 did not see 0\.jpg"):
        compare([group("A", A.at(np.arange(1, PICTURES))), group("B", B)])


def test_notes() -> None:
    few = np.arange(30)
    large = evidence([1], facts={"checkpoint": "y/last.ckpt", "image_size": [96, 96], "split": "val"})
    found = compare([group("A", A.at(few)), group("B", large.at(few))], resamples=200)
    assert found.notes == [
        "only 30 pictures: intervals from so few are too narrow",
        "the network's input differs: 64 x 64, 96 x 96",
        "the checkpoints differ: best.ckpt, last.ckpt",
    ]
    assert "validation split: best checkpoints were chosen on it, which flatters every run" in sentences(found)
    assert compare([group("A", A), group("B", B)], resamples=200).notes == []


def test_average_precision_takes_fewer_resamples_and_needs_more_pictures() -> None:
    objects = {name: np.arange(PICTURES) for name in ("index", "prediction/picture", "object/picture")}
    objects |= {name: np.arange(PICTURES) % 2 for name in ("prediction/label", "object/label")}
    objects |= {"prediction/score": np.linspace(1, 0, PICTURES, dtype=np.float32)}
    seen = [
        evidence(
            [],
            kind="detection",
            metric="map",
            arrays={**objects, "prediction/outcome": np.repeat(np.arange(PICTURES) % 3 < k, 10).reshape(-1, 10)},
        )
        for k in (1, 2)
    ]
    found = compare([group("A", seen[0]), group("B", seen[1])])
    assert found.resamples == 2000
    assert found.notes == [
        "2000 resamples instead of 10000: average precision takes long; --resamples changes it",
        "only 120 pictures: intervals from so few are too narrow",
    ]
    assert found.differences[0].p == pytest.approx(1 / 2001)
    assert compare([group("A", seen[0]), group("B", seen[1])], resamples=200).notes == found.notes[1:]


def test_sentences_say_which_is_told_from_luck() -> None:
    found = compare([group("A", A), group("B", B), group("C", C)], resamples=2000)
    assert sentences(found)[0].startswith("B: better than the baseline (p = 0.00")
    assert sentences(found)[1].startswith("C: not told from luck (p = 0.")
    assert sentences(compare([group("B", B), group("A", A)], resamples=2000))[0].startswith(
        "A: worse than the baseline"
    )


def test_table_has_a_row_for_each_and_the_baseline_first() -> None:
    table = table_of(compare([group("A", A), group("B", B)], resamples=200))
    assert [column.header for column in table.columns] == ["run", "accuracy", "95 %", "difference", "95 %", "p"]
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["A", "B"]
    assert cells[1] == ["0.7500", "0.9000"]
    assert cells[3] == ["baseline", "+0.1500"]


def test_files(tmp_path: Path) -> None:
    found: Comparison = compare([group("A", A, C), group("B", B, B), group("C", C, A)], resamples=200)
    content = json.loads(write(found, "test", tmp_path / "out").read_text())
    assert content["metric"] == "accuracy"
    assert content["groups"][0]["each"] == pytest.approx([0.75, 0.775])
    assert content["differences"][0]["p"] == found.differences[0].p
    assert content["differences"][1]["p_holm"] == found.differences[1].corrected
    picture = cv2.imread(str(tmp_path / "out" / "compare.png"))
    assert picture is not None
    assert picture.std() > 5  # something is drawn


# --- the command ------------------------------------------------------------------------------------------------
def run_folder(path: Path, seen: Evidence | None) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("{}")
    (path / "id").write_text(path.name[-8:])
    if seen is not None:
        seen.write(path / "test" / "per_image.npz")
    return path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for name, seen in (
        ("20260101-000000-aaaaaaaa", A),
        ("20260101-000001-bbbbbbbb", B),
        ("20260101-000002-cccccccc", C),
    ):
        run_folder(Path("runs/pets") / name, seen)
    return tmp_path


def test_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, three = (str(path) for path in sorted(Path("runs/pets").iterdir()))
    assert main(["compare", one, two, "--resamples", "300", "--output", "out", "--metric", "test/accuracy"]) == 0
    said = capsys.readouterr().out
    assert "pets/aaaaaaaa" in said
    assert "0.7500" in said
    assert Path("out/compare.json").is_file()
    assert main(["compare", f"{one},{three}", f"{two},{two}", "--resamples", "300"]) == 0
    assert "pets/aaaaaaaa+cccccccc" in capsys.readouterr().out


def test_damaged_evidence_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, _ = sorted(Path("runs/pets").iterdir())
    file = two / "test" / "per_image.npz"
    file.write_bytes(file.read_bytes()[:200])
    assert main(["compare", str(one), str(two)]) == 2
    assert capsys.readouterr().err == f"error: {file} is damaged: delete it, and the run is tested again\n"


def test_untested_and_outdated_runs_are_tested_first(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[list[str]] = []

    def pretend(self: Any, words: list[str], **_: str) -> int:
        done.append(words)
        if "fails" in words[2]:
            return 2
        if "silent" not in words[2]:
            C.write(Path(words[2]) / words[0] / "per_image.npz")
        return 0

    monkeypatch.setattr("lit_vision.cli.launcher.Launcher.run", pretend)
    one, two, three = sorted(Path("runs/pets").iterdir())
    checkpoint = two / "checkpoints" / "best.ckpt"  # trained on since its test
    checkpoint.parent.mkdir()
    checkpoint.touch()
    new = run_folder(Path("runs/pets/new"), None)
    groups = collected([[one], [two], [new]], "test")
    assert done == [["test", "--run_dir", str(run), "--ckpt_path", "best"] for run in (two, new)]
    assert [int((g.seen[0].arrays["guess"] == g.seen[0].arrays["truth"]).sum()) for g in groups] == [90, 93, 93]
    collected([[three]], "val")
    assert done[-1][0] == "validate"
    with pytest.raises(UserError, match="fails could not be tested, for the reason above"):
        collected([[run_folder(Path("runs/pets/fails"), None)]], "test")
    with pytest.raises(UserError, match="silent: the task leaves nothing of each picture"):
        collected([[run_folder(Path("runs/pets/silent"), None)]], "test")


def test_words_reach_the_comparison(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    module = SimpleNamespace(main=lambda *args: calls.append(args))
    monkeypatch.setitem(sys.modules, "lit_vision.compare_report", module)
    one, two, three = sorted(Path("runs/pets").iterdir())
    words = [f"{one},{two}", str(three), "--metric", "val/f1", "--split", "val", "--level", "0.9", "--seed", "4"]
    assert main(["compare", *words]) == 0
    assert calls == [([[one, two], [three]], "f1", "val", None, 0.9, 4, None)]
