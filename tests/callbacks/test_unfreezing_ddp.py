"""Two real processes over gloo: bit-equal to the same training written out by hand, and what goes wrong otherwise."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import unfreezing_net as net
from two_ranks import both

from lit_vision.callbacks.unfreezing import ProgressiveUnfreezing

pytestmark = pytest.mark.xdist_group("two_processes")  # their fixture takes most of a minute
HERE = Path(__file__).parent
HEAD, STAGE = 2, 3  # parameters: weight and bias; convolution, scale and shift
STEPS_BY_EPOCH = [HEAD] * 4 + [HEAD + STAGE] * 4 + [HEAD + 2 * STAGE] * 4 + [HEAD + 3 * STAGE] * 4


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = both(str(HERE / "two_processes.py"), "all", tmp_path_factory.mktemp("runs"))[0]
    return found


@pytest.mark.slow
def test_every_strategy_equals_the_training_by_hand_bit_for_bit(results: dict[str, Any]) -> None:
    compared = {name: result for name, result in results.items() if "expected" in result}
    # Five option sets of DDP times two optimizers, seven other options, FSDP2 and its restart, three rollbacks.
    assert len(compared) == 22
    wrong = [name for name, result in compared.items() if result["sha"] != result["expected"]]
    assert wrong == []
    assert len({result["sha"] for result in compared.values()}) > 5  # the options do something


@pytest.mark.slow
def test_ranks_never_differ(results: dict[str, Any]) -> None:
    for name in set(results) - {"no rebuild", "lightning", "stopped"}:
        assert results[name]["ranks_equal"], name
        assert results[name]["unequal_gradients"] == [], name
        assert results[name]["closed_with_gradient"] == [], name


@pytest.mark.slow
def test_one_rebuild_per_opening_and_nothing_left_of_the_old_wrapper(results: dict[str, Any]) -> None:
    assert [results["ddp/sgd"][key] for key in ("wrappers", "alive", "reduced")] == [4, 0, STEPS_BY_EPOCH]
    assert results["accumulate"]["reduced"] == [2, 2, 5, 8, 8, 8, 11, 11]  # at steps 2, 3, 6
    assert results["plateau"]["reduced"][::4] == [2, 2, 5, 8]
    assert results["plateau on rank 0"]["reduced"][::4] == [2, 2, 5, 8]  # what rank 1 sees does not count


@pytest.mark.slow
def test_a_stage_is_taken_back_on_all_ranks_alike(results: dict[str, Any]) -> None:
    assert results["gain"]["reduced"] == [2] * 4 + [5] * 4 + [2] * 8
    assert results["gain"]["wrappers"] == 3  # opened once, closed once


@pytest.mark.slow
def test_the_check_names_what_drifts(results: dict[str, Any]) -> None:
    assert "backbone.2." in results["stopped"]["by"]  # what was opened first


@pytest.mark.slow
def test_without_rebuilding_the_ranks_drift_apart(results: dict[str, Any]) -> None:
    for name in ("no rebuild", "lightning"):  # so the tests above can fail
        assert not results[name]["ranks_equal"]
        assert results[name]["unequal_gradients"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_processes_launched_from_inside(results: dict[str, Any], tmp_path: Path, strategy: str) -> None:
    module = net.OwnData()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=4,
        callbacks=[ProgressiveUnfreezing(at=[1, 2, 3])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module)
    assert net.fingerprint(module) == results["ddp/sgd"]["sha"]


@pytest.mark.slow
def test_all_tasks_under_ddp_and_fsdp2(tmp_path: Path) -> None:
    found = both(str(HERE / "four_tasks.py"), "all", tmp_path)[0]
    assert set(found) == {"classification", "segmentation", "instances", "detection"}
    for task, facts in found.items():
        assert facts["apart"] == 0, task  # RankCheck has compared the ranks
        assert facts["moved"] == facts["all"], task
