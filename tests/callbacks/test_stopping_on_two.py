"""Two real processes, killed or stopped, go on to the uncut end; launched by Lightning or by torchrun."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from fit_process import EXPERIMENT, run, sending
from resuming import left
from two_ranks import free_port

from lit_vision.callbacks.boundaries import Boundaries
from lit_vision.cli import vision_cli as cli
from lit_vision.data.sampler import EpochSampler

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.xdist_group("stopping_on_two"),  # they share a fixture
]
TERM, KILL = int(signal.SIGTERM), int(signal.SIGKILL)
ON_TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")


@pytest.fixture(scope="module")
def whole_on_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uncut run of two processes leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        Path("numbers.yaml").write_text(EXPERIMENT)
        assert run("--run_dir", "whole", *ON_TWO)[0] == 0
        return left(Path("whole"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "code"),
    [
        ({"number": KILL, "hook": "on_train_batch_end", "step": 5, "group": "true"}, -KILL),
        ({"number": TERM, "hook": "on_train_batch_start", "step": 4, "group": "true"}, 143),
        ({"number": TERM, "hook": "on_validation_batch_start", "step": 3, "rank": 1}, 143),
    ],
)
def test_two_processes_go_on_to_the_uncut_end(
    first: dict[str, Any], code: int, whole_on_two: dict[str, Any], workspace: Path
) -> None:
    (workspace / "numbers.yaml").write_text(EXPERIMENT)
    ended, output = run("--run_dir", "cut", *ON_TWO, *sending(**first))
    assert ended == code, output
    assert run("--resume", "cut", *ON_TWO)[0] == 0
    assert left(Path("cut")) == whole_on_two
    assert left(Path("cut"))["step"] == 9


class StopAll(pl.Callback):
    """Rank 0 sends SIGTERM to torchrun after a step, and waits until that has passed it on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_rank == 0 and trainer.global_step == self.step:
            os.kill(os.getppid(), TERM)
            boundaries = next(one for one in trainer.callbacks if isinstance(one, Boundaries))
            end = time.monotonic() + 60
            while not boundaries.signal.received and time.monotonic() < end:
                time.sleep(0.02)


@pytest.mark.slow
def test_torchrun_passes_sigterm_on(whole_on_two: dict[str, Any], workspace: Path) -> None:
    (workspace / "numbers.yaml").write_text(EXPERIMENT)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    stop = ["--trainer.callbacks+=test_stopping_on_two.StopAll", "--trainer.callbacks.step=5"]
    code, output = run("--run_dir", "cut", *ON_TWO, *stop, launcher=launcher)
    assert code != 0
    assert "stopped at step 5, continue with `lit-vision fit --resume cut`" in output
    assert left(Path("cut"))["step"] == 5  # in the second epoch; RunCheckpoints alone would have written 4
    assert run("--resume", "cut", *ON_TWO, launcher=launcher)[0] == 0
    assert left(Path("cut")) == whole_on_two


@pytest.mark.slow
def test_one_process_goes_on_in_the_order_of_two(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two processes of four pictures each show 8 of 26; the one that goes on shows the rest of the same order."""
    (workspace / "numbers.yaml").write_text(EXPERIMENT)
    first = sending(number=TERM, hook="on_train_batch_start", step=0, group="true")
    assert run("--run_dir", "cut", *ON_TWO, *first)[0] == 143
    again = ("--resume", "cut", "--trainer.callbacks+=tiny.RecordSteps")
    with caplog.at_level("INFO"):
        done = cli.run("fit", ["-c", "numbers.yaml", *again])
    record = next(one for one in done.trainer.callbacks if type(one).__name__ == "RecordSteps")
    shown = [int(i) for batch in record.batches for i in batch["index"]]
    order = EpochSampler(26, 0, True).order().tolist()
    assert shown[:16] == order[8:24]
    assert len(shown) == 16 + 2 * 24
    assert "continuing with another number of processes 2 -> 1: not bit for bit what an uncut run does" in caplog.text
