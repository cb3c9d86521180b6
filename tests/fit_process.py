"""Starts `lit-vision fit` as real processes, to be killed and stopped."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXPERIMENT = """\
model: {class_path: resuming.Small, init_args: {dropout: 0.5}}
data: {class_path: resuming.NumberData, init_args: {root: ., num_workers: 2}}
trainer:
  max_epochs: 3
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  callbacks:
  - {class_path: RunCheckpoints, init_args: {every_n_train_steps: 2}}
wandb: off
"""


def start(*options: str, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    """lit-vision fit in a process group of its own; `launcher` comes between python and its -m."""
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests.parent), str(tests), str(tests / "callbacks")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", "lit_vision", "fit", "-c", "numbers.yaml", *options]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def run(*options: str, launcher: Sequence[str] = ()) -> tuple[int, str]:
    """Its exit code and what it has said."""
    process = start(*options, launcher=launcher)
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def sending(**options: Any) -> list[str]:
    """The options by which resuming.Send gets into the run."""
    given = [f"--trainer.callbacks.{name}={value}" for name, value in options.items()]
    return ["--trainer.callbacks+=resuming.Send", *given]
