"""The rehearsal: every check can fail, the plan is short and on two CPU processes, and the whole thing on a toy."""

import json
import os
from collections.abc import Callable
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import pytest
from resuming import Small
from torch import Tensor, nn

from lit_vision.errors import UserError
from lit_vision.rehearsal_report import Evidence, checks
from lit_vision.rehearse import breaks, main, plan

CODES, STEPS = ((-9, -9), (143, 143), (0, 0)), (3, 6)


def write(folder: Path, repeated: int | None = None) -> Path:
    """Evidence of a run in which all is well; batch `repeated` stands there twice."""
    for rank in range(2):
        lines: list[dict[str, Any]] = [{"event": "unused", "names": []}]
        for k in [*range(6), *([repeated] if repeated is not None else [])]:
            place = {"epoch": k // 3, "batch": k % 3, "step": k + 1}
            lines.append({"event": "batch", **place, "loss": f"{rank}.{k}", "trainable": 10 + k // 3, "set": k // 3})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"steps-{rank}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / f"end-{rank}.json").write_text(json.dumps({"weights": "abc", "gib": 1.0, "step": 6}))
    run = folder / "runs" / "rehearsal" / "20261123-120000-abcd1234"
    for name in ("wandb/offline-run-20261123_120000-abcd1234", "checkpoints"):
        (run / name).mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(bytes(2**20))
    return folder


def report(tmp_path: Path, codes: tuple[tuple[int, int], ...] = CODES) -> dict[str, bool | None]:
    found = checks(Evidence(tmp_path / "whole"), Evidence(tmp_path / "broken"), codes, STEPS)
    return {check.name: check.holds for check in found}


@pytest.fixture
def two_runs(tmp_path: Path) -> Path:
    write(tmp_path / "whole")
    write(tmp_path / "broken", repeated=4)
    return tmp_path


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_all_is_well(two_runs: Path) -> None:
    found = report(two_runs)
    assert [name for name, holds in found.items() if holds is not True] == ["memory"]
    assert len(found) == 11


DAMAGE: dict[str, Callable[[Path], None]] = {
    "one run folder": lambda at: (at / "broken/runs/rehearsal/20261123-130000-other123").mkdir(),
    "ranks hold the same weights": lambda at: replace(at / "whole/end-1.json", "abc", "abd"),
    "resumed = uninterrupted": lambda at: replace(at / "broken/end-0.json", "abc", "abd"),
    "losses": lambda at: replace(at / "broken/steps-1.jsonl", "1.2", "1.9"),
    "what trains": lambda at: replace(at / "broken/steps-1.jsonl", '"set": 1', '"set": 0'),
    "unused parameters": lambda at: replace(at / "whole/steps-0.jsonl", '"names": []', '"names": ["head.bias"]'),
    "one W&B id": lambda at: (at / "broken/runs/rehearsal/20261123-120000-abcd1234/wandb/offline-run-1-x").mkdir(),
    "checkpoint": lambda at: (at / "broken/runs/rehearsal/20261123-120000-abcd1234/checkpoints/last.ckpt").unlink(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_every_check_can_fail(two_runs: Path, name: str) -> None:
    DAMAGE[name](two_runs)
    assert report(two_runs)[name] is False


def test_a_repeated_step_must_repeat_its_loss(two_runs: Path) -> None:
    text = (two_runs / "broken/steps-0.jsonl").read_text()
    first, _, last = text.rpartition("0.4")
    (two_runs / "broken/steps-0.jsonl").write_text(first + "0.5" + last)
    assert report(two_runs)["losses"] is False


def test_unequal_batches_are_counted(two_runs: Path) -> None:
    lines = (two_runs / "whole/steps-1.jsonl").read_text().splitlines(keepends=True)
    (two_runs / "whole/steps-1.jsonl").write_text("".join(lines[:-1]))
    assert report(two_runs)["batches per rank"] is False


@pytest.mark.parametrize("launch", [0, 1, 2])
@pytest.mark.parametrize("wrong", [(1, 1), (-9, 0), (0, 143)])
def test_exit_codes(two_runs: Path, launch: int, wrong: tuple[int, int]) -> None:
    codes = tuple(wrong if launch == k else right for k, right in enumerate(CODES))
    assert report(two_runs, codes)["kill -9 and SIGTERM"] is False


def test_a_line_that_a_kill_cut_short_is_left_out(two_runs: Path) -> None:
    with (two_runs / "broken/steps-0.jsonl").open("a") as file:
        file.write('{"event": "batch", "epoch": 1')
    assert Evidence(two_runs / "broken").last_step() == 6


def planned(tmp_path: Path, trainer: dict[str, Any], *words: str) -> Any:
    return plan(["-c", "x.yaml", *words], {Path("x.yaml"): {"trainer": trainer}}, 0, tmp_path)


def test_the_plan_is_short_and_says_what_it_changes(tmp_path: Path) -> None:
    made = planned(
        tmp_path, {"max_epochs": 30, "accumulate_grad_batches": 4, "precision": "16-mixed", "strategy": "fsdp"}
    )
    assert {"--trainer.max_epochs=3", "--trainer.limit_train_batches=16", "--trainer.devices=2"} <= set(made.options)
    assert {"--trainer.strategy=ddp", "--trainer.precision=bf16-mixed", "--trainer.callbacks.epochs=30"} <= set(
        made.options
    )
    assert len(made.notes) == 2
    assert 2 <= made.kill < made.stop <= 10


def test_breaks_come_sooner_in_a_shorter_run(tmp_path: Path) -> None:
    made = replaced(planned(tmp_path, {}), kill=6, stop=10)
    assert [breaks(made, steps) for steps in (12, 9, 6, 4)] == [(6, 10), (4, 7), (3, 5), (2, 3)]
    with pytest.raises(UserError, match="needs 4 steps for its two breaks, this has 3"):
        breaks(made, 3)


def test_the_users_ddp_is_kept_and_options_count(tmp_path: Path) -> None:
    own = {"class_path": "DDPStrategy", "init_args": {"static_graph": True}}
    made = planned(tmp_path, {"strategy": own, "max_epochs": 5}, "--trainer.max_epochs", "7")
    assert not any(option.startswith("--trainer.strategy") for option in made.options)
    assert "--trainer.callbacks.epochs=7" in made.options
    assert made.notes == []


# --- real processes -------------------------------------------------------------------------------------------------
EXPERIMENT = """\
model: {class_path: MODEL}
data: {class_path: resuming.NumberData, init_args: {root: ., num_workers: 1}}
trainer: {max_epochs: 8, enable_model_summary: false, num_sanity_val_steps: 0}
"""


class ByOrder(Small):
    """Begins with weights that depend on the order of a set of words, which is another one in each interpreter."""

    def __init__(self, class_names: list[str]) -> None:
        super().__init__(class_names)
        order = [int(word) for word in {str(k) for k in range(9)}]
        nn.init.constant_(self.head.bias, 0.0)
        self.head.weight.data *= Tensor(order).argsort()[:6] + 1.0


class FailsOnOne(Small):
    """Fails on rank 1 only, while rank 0 waits for it."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.global_rank == 1:
            raise UserError("rank 1 has had enough")
        return super().training_step(batch, batch_idx)


def rehearsed(workspace: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> int:
    """The exit code of a rehearsal of this model."""
    (workspace / "numbers.yaml").write_text(EXPERIMENT.replace("MODEL", model))
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent)]))
    return main(["-c", "numbers.yaml"], seed=3, folder=workspace / "rehearsal")


@pytest.mark.slow
def test_a_rehearsal_finds_what_depends_on_the_interpreter(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearsed(workspace, monkeypatch, "test_rehearse.ByOrder") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "resumed = uninterrupted │ NO │ the weights differ" in said
    assert "losses │ NO" in said


@pytest.mark.slow
def test_a_rank_that_fails_alone_ends_the_rehearsal(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="fails on two processes: rank 1 has had enough"):
        rehearsed(workspace, monkeypatch, "test_rehearse.FailsOnOne")


def test_two_launches_within_a_second_have_one_id(tmp_path: Path) -> None:
    """W&B then puts a number behind the second one's folder."""
    for name in ("offline-run-20261126_081256-wu33dn5s", "offline-run-20261126_081256-wu33dn5s-1"):
        (tmp_path / "runs/rehearsal/one/wandb" / name).mkdir(parents=True)
    assert Evidence(tmp_path).wandb_ids() == {"wu33dn5s"}
    (tmp_path / "runs/rehearsal/one/wandb/offline-run-20261126_081257-other123").mkdir()
    assert Evidence(tmp_path).wandb_ids() == {"wu33dn5s", "other123"}
