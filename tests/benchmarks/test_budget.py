"""Epochs that fit into a budget, and the file that a cut series goes on with."""

import json
from pathlib import Path

import pytest
from budget import add_record, cost_of_epochs, epochs_within, find_record, read_records, table


def test_cost_of_an_epoch_is_the_slope_between_two_runs() -> None:
    around, each = cost_of_epochs((1, 30.0), (3, 70.0))
    assert (around, each) == (10.0, 20.0)
    assert [epochs_within(budget, around, each) for budget in (109.9, 110.0, 129.9, 5.0)] == [4, 5, 5, 1]


def test_start_never_costs_less_than_nothing() -> None:
    assert cost_of_epochs((1, 10.0), (3, 40.0)) == (0.0, 15.0)


@pytest.mark.parametrize("longer", [(1, 40.0), (3, 30.0)])
def test_runs_that_tell_nothing_are_refused(longer: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="tell nothing of an epoch"):
        cost_of_epochs((1, 30.0), longer)


def test_the_last_record_with_all_wanted_values_is_found(tmp_path: Path) -> None:
    file = tmp_path / "new/results.jsonl"
    for seed, value in ((0, 1), (1, 2), (0, 3)):
        add_record(file, {"entry": "a", "seed": seed, "value": value})
    records = read_records(file)
    assert [one["value"] for one in records] == [1, 2, 3]
    found = find_record(records, {"entry": "a", "seed": 0})
    assert found is not None
    assert found["value"] == 3
    assert find_record(records, {"entry": "a", "seed": 2}) is None
    assert find_record(records, {"entry": "a", "missing": 1}) is None


def test_a_line_that_was_cut_is_left_out_and_written_over(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    add_record(file, {"seed": 0, "definition": '{"peer": "x"}'})
    whole = file.read_text()
    file.write_text(whole + whole[: whole.index("}") + 1])
    assert len(read_records(file)) == 1
    add_record(file, {"seed": 1})
    assert [json.loads(line)["seed"] for line in file.read_text().splitlines()] == [0, 1]


def test_damage_elsewhere_is_not_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text('{"seed": \n{"seed": 1}\n')
    with pytest.raises(json.JSONDecodeError):
        read_records(file)


def test_table() -> None:
    assert table(["a", "b"], [["1", "2"]]).splitlines() == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
