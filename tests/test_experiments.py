"""Every experiment is complete: it parses, it names its own command, and its results are in the table."""

from pathlib import Path

import pytest

from lit_vision.__main__ import main

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.yaml"))


def test_there_are_experiments_for_every_task() -> None:
    folders = {path.parent.name for path in EXPERIMENTS}
    assert {"quickstart", "classification", "segmentation", "instances", "detection"} <= folders
    assert len({path.stem for path in EXPERIMENTS if path.parent.name != "quickstart"}) == len(
        [path for path in EXPERIMENTS if path.parent.name != "quickstart"]
    ), "run folders are named after the stem"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_experiment_parses_and_says_how_to_run_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", str(path), "--print_config"]) == 0
    assert "class_path: lit_vision.tasks." in capsys.readouterr().out
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    command = "test" if "class_path: SlidingWindowDetector" in path.read_text() else "fit"  # nothing to train
    assert any(f"lit-vision {command} -c experiments/{path.parent.name}/{path.name}" in line for line in head)


def test_a_wrong_key_in_an_experiment_would_be_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "experiments/classification/flowers5.yaml").read_text()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("label_smoothing", "label_smothing"))
    assert main(["fit", "-c", str(wrong), "--print_config"]) == 2
    assert "label_smoothing" in capsys.readouterr().err


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_results_table_has_a_row(path: Path) -> None:
    assert f"{path.parent.name}/{path.name}" in (ROOT / "experiments/README.md").read_text()
