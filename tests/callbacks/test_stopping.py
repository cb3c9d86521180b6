"""SIGTERM at any moment: the run ends between two steps with code 143, and goes on from there to the uncut end."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fit_process import EXPERIMENT, run, sending, start
from pytorch_lightning import Callback
from resuming import CASES, EVERY_STEP, Case, Send, digest, left, train

from lit_vision.callbacks import stopping
from lit_vision.callbacks.boundaries import Boundaries
from lit_vision.callbacks.seeding import StepSeeds
from lit_vision.callbacks.stopping import Stopped, stopped_before_training
from lit_vision.cli import vision_cli as cli

pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty.*")
TERM, KILL = int(signal.SIGTERM), int(signal.SIGKILL)


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before


def stopped(folder: Path, case: Case, send: Callable[[], Callback], resume: Path | None = None) -> int:
    """The code that a run ends with, which gets a signal."""
    with pytest.raises(Stopped) as caught:
        train(folder, case.but(callbacks=lambda: [send()]), resume=resume)
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uncut run with dropout leaves."""
    return digest(train(tmp_path_factory.mktemp("whole"), CASES["dropout"]))


PLACES = [
    ("on_train_batch_start", 3, 4),  # ends after the step that has begun
    ("on_before_optimizer_step", 3, 4),
    ("on_train_batch_end", 4, 4),
    ("on_train_batch_end", 6, 6),  # the epoch's last batch: its validation is run first
    ("on_validation_batch_start", 6, 6),
    ("on_validation_end", 6, 6),
    ("on_train_epoch_end", 6, 6),
    ("on_train_epoch_start", 6, 7),  # just after the boundary
]


@pytest.mark.parametrize(("hook", "step", "kept"), PLACES)
def test_stopped_anywhere_it_goes_on_to_the_uncut_end(
    hook: str, step: int, kept: int, whole: dict[str, Any], tmp_path: Path
) -> None:
    case = CASES["dropout"]
    assert stopped(tmp_path / "cut", case, lambda: Send(TERM, hook, step)) == 143
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == kept
    assert digest(train(tmp_path / "cut", case, resume=last)) == whole


def test_never_between_two_batches_of_one_step(tmp_path: Path) -> None:
    case = CASES["accumulate 2"]
    assert stopped(tmp_path / "cut", case, lambda: Send(TERM, "on_train_batch_start", 1)) == 143
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    progress = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert progress["completed"] == 4  # two steps
    assert digest(train(tmp_path / "cut", case, resume=last)) == digest(train(tmp_path / "whole", case))


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_sanity_check_start", "on_train_start"])
def test_before_the_first_step_there_is_nothing_to_keep(hook: str, tmp_path: Path) -> None:
    case = CASES["dropout"]
    assert stopped(tmp_path, case, lambda: Send(TERM, hook)) == 143
    assert not list(tmp_path.rglob("*.ckpt"))


def test_before_the_first_step_of_a_continued_run_its_checkpoint_stays(tmp_path: Path) -> None:
    case = CASES["dropout"]
    train(tmp_path, case.but(checkpoints=EVERY_STEP), cut=7)  # the checkpoint is of step 6, between two epochs
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    assert stopped(tmp_path, case, lambda: Send(TERM, "on_train_start"), resume=last) == 143
    assert last.read_bytes() == before


def test_after_the_last_step_the_run_is_finished(tmp_path: Path) -> None:
    case = CASES["dropout"].but(callbacks=lambda: [Send(TERM, "on_train_batch_end", 18)])
    trainer = train(tmp_path, case)
    assert trainer.global_step == 18
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["lit_vision_run"]["finished"] == {"max_epochs": 3, "max_steps": -1, "early": False}


def test_lightnings_handler_stays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its notifier broadcasts from inside the handler; without ours it is called."""
    from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector

    called: list[int] = []
    monkeypatch.setattr(_SignalConnector, "_sigterm_notifier_fn", lambda self, number, _: called.append(number))
    stopped(tmp_path / "ours", Case(), lambda: Send(TERM, "on_train_batch_end", 3))
    assert called == []
    bare = Case(first=lambda: [StepSeeds(0)], callbacks=lambda: [Send(TERM, "on_train_batch_end", 3)])
    train(tmp_path / "lightning", bare)
    assert called == [TERM]


def test_signal_twice_at_once_counts_as_one_and_later_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = [lambda: Send(TERM, "on_train_batch_start", 3), lambda: Send(TERM, "on_train_batch_end", 4)]
    with pytest.raises(Stopped):
        train(tmp_path / "once", Case(callbacks=lambda: [one() for one in twice]))
    ended: list[int] = []
    monkeypatch.setattr(stopping, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    with pytest.raises(Stopped):
        train(tmp_path / "later", Case(callbacks=lambda: [one() for one in twice]))
    assert ended == [143]


def test_before_training_begins_it_ends_at_once() -> None:
    with stopped_before_training(), pytest.raises(Stopped):
        os.kill(os.getpid(), TERM)


def test_without_our_callback_nothing_is_kept(tmp_path: Path) -> None:
    """The negative control: Lightning ends as well, but with no checkpoint of that step."""
    bare = Case(first=lambda: [StepSeeds(0)], callbacks=lambda: [Send(TERM, "on_train_batch_end", 4)])
    with pytest.raises(SystemExit):
        train(tmp_path, bare)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert Boundaries in [type(one) for one in Case().first()]


class Lost(Callback):
    """What the other processes of a run see when one ends."""

    def on_fit_start(self, *_: Any) -> None:
        raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(("number", "error"), [(TERM, Stopped), (0, RuntimeError)])
def test_processes_that_end_one_another_after_a_sigterm_are_stopped(
    number: int, error: type[BaseException], workspace: Path
) -> None:
    (workspace / "numbers.yaml").write_text(EXPERIMENT)
    options = [*sending(number=number, hook="setup"), "--trainer.callbacks+=test_stopping.Lost"]
    (workspace / "test_stopping.py").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "test_stopping", sys.modules[__name__])
        with pytest.raises(error):
            cli.run("fit", ["-c", "numbers.yaml", *options])


# --- real processes ---------------------------------------------------------------------------------------------
def test_killed_process_goes_on_to_the_uncut_end(workspace: Path) -> None:
    """SIGKILL to the group, loader's workers included, in the middle of an epoch."""
    (workspace / "numbers.yaml").write_text(EXPERIMENT)
    code, output = run("--run_dir", "cut", *sending(number=KILL, hook="on_train_batch_end", step=8, group="true"))
    assert code == -KILL, output
    done = cli.run("fit", ["-c", "numbers.yaml", "--resume", "cut"])
    assert done.trainer.global_step == 18
    cli.run("fit", ["-c", "numbers.yaml", "--run_dir", "whole", "--data.num_workers", "0"])
    assert left(Path("cut")) == left(Path("whole"))


@pytest.mark.slow
def test_killed_and_terminated_process_goes_on_to_the_uncut_end(workspace: Path) -> None:
    """SIGKILL in the first epoch, SIGTERM in the second, both to the group."""
    (workspace / "numbers.yaml").write_text(EXPERIMENT)
    assert run("--run_dir", "cut", *sending(number=KILL, hook="on_train_batch_end", step=5, group="true"))[0] == -KILL
    again = sending(number=TERM, hook="on_train_batch_start", step=8, group="true")
    code, output = run("--run_dir", "cut", "--resume", "auto", *again)
    assert code == 143, output
    assert "resuming cut from cut/checkpoints/last.ckpt (step 4, 0 epochs done)" in output
    assert "stopped at step 9, continue with `lit-vision fit --resume cut`" in output
    cli.run("fit", ["-c", "numbers.yaml", "--resume", "cut"])
    cli.run("fit", ["-c", "numbers.yaml", "--run_dir", "whole", "--data.num_workers", "0"])
    assert left(Path("cut")) == left(Path("whole"))


@pytest.mark.slow
def test_killed_at_random_moments_it_goes_on_to_the_uncut_end(workspace: Path) -> None:
    """Not at a hook: after so many seconds, wherever that is in a run without end; then up to three epochs more."""
    steady = "{class_path: torch.optim.lr_scheduler.ExponentialLR, init_args: {gamma: 0.9}}"  # whatever max_epochs is
    experiment = EXPERIMENT.replace("dropout: 0.5}", f"dropout: 0.5, scheduler: {steady}}}")
    (workspace / "numbers.yaml").write_text(experiment)
    generator = random.Random(0)
    for _ in range(2):
        process = start("--run_dir", "cut", "--resume", "auto", "--trainer.max_epochs", "1000000")
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("run folder"):
                    break
            time.sleep(1 + 3 * generator.random())
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        assert process.returncode == -KILL
    last = Path("cut/checkpoints/last.ckpt")
    done = torch.load(last, weights_only=True)["epoch"] if last.exists() else 0
    (workspace / "numbers.yaml").write_text(experiment.replace("max_epochs: 3", f"max_epochs: {done + 3}"))
    cli.run("fit", ["-c", "numbers.yaml", "--run_dir", "cut", "--resume", "auto"])
    cli.run("fit", ["-c", "numbers.yaml", "--run_dir", "whole"])
    assert left(Path("cut")) == left(Path("whole"))
