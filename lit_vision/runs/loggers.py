"""Loggers of a run: metrics.csv always; Weights & Biases, offline unless there is a key. No prompt, no hang."""

import csv
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from lit_vision.errors import UserError
from lit_vision.runs.folder import RunFolder, rank
from lit_vision.runs.metrics_file import drop_rows

WandbChoice = Literal["auto", "off", "offline", "online"]
Mode = Literal["disabled", "offline", "online"]
LOGIN_SECONDS = 14.0  # W&B's own check of a key gives up after 10.4 s where it can; a silent firewall never answers
INIT_SECONDS = 20.0
FINISH_SECONDS = 60.0  # W&B's default waits for ever; what is not sent stays on disk
FLUSH_SECONDS = 5.0  # what a SIGKILL can cost


class RunCSVLogger(CSVLogger):
    """<run>/metrics.csv, a row per logged step, on disk at once; a continued run appends.

    Args:
        folder: the run folder.
        first_step: a continued run logs this step first: rows that the run had written beyond it, after its last
            checkpoint, are dropped as soon as there is a new one.
    """

    def __init__(self, folder: Path, first_step: int | None = None) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)
        self._first_step = first_step

    @property
    @rank_zero_experiment
    def experiment(self) -> "_RunWriter":
        """The writer of metrics.csv; made at its first use."""
        if self._experiment is None:
            self._experiment = _RunWriter(self.save_dir, self._first_step)
        assert isinstance(self._experiment, _RunWriter)
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml of the run folder holds them."""

    @rank_zero_only
    def save(self) -> None:
        """Writes the rows logged since the last call."""
        self.experiment.save()


class _RunWriter(ExperimentWriter):
    """Keeps the rows that are there already, which Lightning's writer deletes."""

    def __init__(self, log_dir: str, first_step: int | None) -> None:
        super().__init__(log_dir=log_dir)
        self._first_step = first_step

    def save(self) -> None:
        """Writes the rows logged since the last call."""
        if self.metrics and self._first_step is not None:
            drop_rows(Path(self.metrics_file_path), self._first_step)
            self._first_step = None
        super().save()

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys.extend(next(csv.reader(file), []))

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        partial = path.with_suffix(".partial")
        with path.open(newline="") as old, partial.open("w", newline="") as new:
            writer = csv.DictWriter(new, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(csv.DictReader(old))
        partial.replace(path)


class RunWandbLogger(WandbLogger):
    """Lightning's WandbLogger with a run of our own making: one id per run folder, bounded waits.

    Args:
        folder: the run folder; everything W&B writes goes to <run>/wandb.
        mode: "offline" or "online".
        job: what this process does, such as "fit"; groups processes of one run.
    """

    def __init__(self, folder: RunFolder, mode: Mode, job: str) -> None:
        super().__init__(
            name=f"{folder.experiment}-{folder.id}",
            save_dir=folder.path.resolve(),  # W&B's service keeps the working folder it was started in
            id=folder.id,
            project=os.environ.get("WANDB_PROJECT", "lit_vision"),
            group=os.environ.get("WANDB_RUN_GROUP", folder.experiment),
            job_type=job,
            mode=mode,
        )
        self._wandb_init.pop("anonymous", None)  # Lightning passes it always, W&B is about to refuse it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; started at its first use, on rank 0 only."""
        if self._experiment is None:
            import wandb

            folder = Path(str(self._save_dir))
            (folder / "wandb").mkdir(parents=True, exist_ok=True)
            # Tables and artifacts are staged there; W&B's default is outside the run folder.
            os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")
            self._experiment = wandb.init(**self._wandb_init, settings=_settings())
            self._experiment.define_metric("trainer/global_step")
            self._experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return self._experiment

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Sends the whole experiment (model, data, trainer) as the run's config."""
        self.experiment.config.update(dict(config), allow_val_change=True)

    @rank_zero_only
    def finish(self, exit_code: int) -> None:
        """Ends the run, waiting at most a minute for what is still to be sent."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None


def wandb_mode(choice: WandbChoice) -> tuple[Mode, str]:
    """How to use W&B, and a sentence saying why; asks nothing, and waits at most 15 s.

    Args:
        choice: "auto" obeys WANDB_MODE, else is online where there is a key that W&B accepts, else offline.

    Raises:
        UserError: "online" was asked for and there is no key, or WANDB_MODE has an unknown value.
    """
    if choice == "auto":
        return _mode_of_environment() or _mode_of_key()
    if choice == "off":
        return "disabled", "off"
    if choice == "offline":
        return "offline", "offline"
    mode, reason = _mode_of_key()
    if reason == NO_KEY:
        raise UserError("wandb: online needs an API key: run `wandb login`, or set WANDB_API_KEY")
    return mode, reason


NO_KEY = "offline (no API key)"


def _mode_of_environment() -> tuple[Mode, str] | None:
    value = os.environ.get("WANDB_MODE", "").lower()
    if value in ("", "online", "run", "shared"):
        return None  # "online" still needs a key that works
    if value in ("offline", "dryrun"):
        return "offline", f"offline (WANDB_MODE={value})"
    if value == "disabled":
        return "disabled", "off (WANDB_MODE=disabled)"
    raise UserError(f"WANDB_MODE is '{value}'; it can be online, offline or disabled")


def _mode_of_key() -> tuple[Mode, str]:
    answer: list[bool | Exception] = []
    thread = threading.Thread(target=lambda: answer.append(_login()), daemon=True)
    thread.start()
    thread.join(LOGIN_SECONDS)
    if not answer:
        return "offline", f"offline (no answer within {LOGIN_SECONDS:.0f} s)"
    if isinstance(answer[0], Exception):
        return "offline", f"offline ({_first_line(answer[0])})"
    return ("online", "online") if answer[0] else ("offline", NO_KEY)


def _login() -> bool | Exception:
    import wandb

    try:
        # Without a key this returns False at once and opens no connection.
        return wandb.login(prompt=False, timeout=int(LOGIN_SECONDS))
    except Exception as error:  # no network, refused key: either way the run goes on offline
        return error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100]


def _settings() -> Any:
    import wandb

    wanted: dict[str, Any] = {
        "silent": True,  # our own line says the same in fewer words
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
        "x_transaction_log_flush_interval": FLUSH_SECONDS,
    }
    known = wandb.Settings.model_fields
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def run_loggers(folder: RunFolder, choice: WandbChoice, job: str, first_step: int | None = None) -> list[Logger]:
    """The loggers of one command, and a line that says where W&B's part goes.

    Args:
        folder: the run folder; validation and test leave its metrics.csv alone.
        choice: what the user wants of W&B.
        job: "fit", "validate", "test" or "predict".
        first_step: see RunCSVLogger.
    """
    loggers: list[Logger] = [RunCSVLogger(folder.path, first_step)] if job == "fit" else []
    if rank() > 0:
        return loggers  # only rank 0 writes, asks W&B, and speaks
    mode, reason = wandb_mode(choice)
    if mode != "disabled":
        loggers.append(RunWandbLogger(folder, mode, job))
    later = f"; to send it later: wandb sync {folder.path}/wandb/offline-run-*" if mode == "offline" else ""
    rank_zero_info(f"W&B: {reason}{later}")
    return loggers
