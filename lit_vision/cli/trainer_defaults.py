"""What every run gets unless its YAML says otherwise: callbacks, precision, a quiet first screen."""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.callbacks import (
    LearningRateMonitor,
    ProgressBar,
    RichProgressBar,
    TQDMProgressBar,
)

from lit_vision.callbacks.boundaries import Boundaries
from lit_vision.callbacks.checkpointing import RunCheckpoints
from lit_vision.callbacks.merge_split import MergeSplitReport
from lit_vision.callbacks.nonfinite import StopOnNonFinite
from lit_vision.callbacks.operating_points import OperatingPointsFile
from lit_vision.callbacks.per_image import PerImage
from lit_vision.callbacks.pictures import Pictures
from lit_vision.callbacks.rank_check import RankCheck
from lit_vision.callbacks.resources import Resources
from lit_vision.callbacks.results import PredictionFiles
from lit_vision.callbacks.seeding import StepSeeds
from lit_vision.errors import UserError
from lit_vision.runs.checkpoints import AtomicCheckpointIO
from lit_vision.runs.folder import RunFolder

REFRESH = 10  # steps between two draws of the progress bar
NOISE = (
    "litlogger",
    "to estimate number of stepping batches",
    "litmodels",
    "💡",
    "srun",
    "Seed set to",
    "LeafSpec",
    "GPU available",
    "TPU available",
)
LOGS = (
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.rank_zero",
    "lightning_fabric.utilities.seed",
)
WARNINGS = (
    ".*srun.*",
    ".*LeafSpec.*",
    ".*log_every_n_steps.*",
    ".*No seed found.*",
    ".*args parameter is intended to run from within Python.*",
    ".*does not have many workers.*",
    ".*exists and is not empty.*",
    ".*overridden `on_after_batch_transfer`.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
    ".*WeightAveraging callback, but loading a checkpoint outside.*",
    ".*WeightAveraging callback with a model that overrides.*",
    ".*sync_dist=True.*",  # whole-set metrics are equal on all processes
)


def quiet() -> None:
    """Leaves Lightning's advertisements and hints out of the log; errors and other warnings stay."""
    for pattern in WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    for name in LOGS:
        logger = logging.getLogger(name)
        if not any(isinstance(entry, _Noise) for entry in logger.filters):
            logger.addFilter(_Noise())


class _Noise(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(word in message for word in NOISE)


def first_callbacks(own: Sequence[Callback]) -> list[Callback]:
    """What has to come before all others in training: the seeds of a step, and the boundary before it.

    Args:
        own: the user's; one of these kinds among them is taken instead of ours.
    """
    kinds: tuple[type[Callback], ...] = (StepSeeds, Boundaries)
    return [next((one for one in own if isinstance(one, kind)), None) or kind() for kind in kinds]


def default_callbacks(trainer: dict[str, Any], folder: RunFolder, fitting: bool) -> list[Callback]:
    """The callbacks a run gets beside the user's own.

    Args:
        trainer: options of the Trainer; `callbacks` are the user's.
        folder: where checkpoints go.
        fitting: validation and test write no checkpoints and have no learning rate.
    """
    own: Sequence[Callback] = trainer.get("callbacks") or []
    callbacks: list[Callback] = []
    if trainer.get("enable_progress_bar") is not False and not any(isinstance(one, ProgressBar) for one in own):
        callbacks.append(progress_bar())
    if not fitting:
        looking = (Pictures(), PredictionFiles(), PerImage(), OperatingPointsFile(), MergeSplitReport())
        return callbacks + [one for one in looking if not _has(own, type(one))]
    if trainer.get("enable_checkpointing") is not False and not _has(own, RunCheckpoints):
        callbacks.append(RunCheckpoints(dirpath=str(folder.checkpoints)))
    if trainer.get("logger") is not False and not any(isinstance(one, LearningRateMonitor) for one in own):
        callbacks.append(LearningRateMonitor())
    if not trainer.get("fast_dev_run") and not any(isinstance(one, Resources) for one in own):
        callbacks.append(Resources())
    watching = (RankCheck(), StopOnNonFinite(), Pictures(), OperatingPointsFile())
    return callbacks + [one for one in watching if not _has(own, type(one))]


def progress_bar() -> ProgressBar:
    """Rich on a terminal; plain lines where output goes to a file."""
    return RichProgressBar(refresh_rate=REFRESH) if sys.stdout.isatty() else TQDMProgressBar(refresh_rate=REFRESH)


def _has(own: Sequence[Callback], kind: type[Callback]) -> bool:
    return any(isinstance(one, kind) for one in own)


def choose_precision(model: LightningModule, accelerator: str, begun: Path | None = None) -> tuple[str, str]:
    """Of a training, bf16-mixed where the processor gains and the task has shown equal accuracy, else 32-true; and why.

    Args:
        model: its class says with `bf16_shown` whether equal accuracy was measured.
        accelerator: the Trainer's option: "auto", "cpu", "gpu", "cuda" ...
        begun: config.yaml of the run that goes on, whatever processor it has come to.
    """
    if begun is not None and begun.is_file():
        known = ((yaml.safe_load(begun.read_text()) or {}).get("trainer") or {}).get("precision")
        if known is not None:
            return str(known), "as the run began"
    cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    gains = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else cpu_has_bf16()
    if not gains or accelerator in ("tpu", "mps"):
        return "32-true", "this processor has no fast bf16"
    if not getattr(type(model), "bf16_shown", False):
        return "32-true", f"equal accuracy in bf16 is not shown for {type(model).__name__}"
    return "bf16-mixed", "this processor is faster in bf16, at equal accuracy"


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies bf16 in hardware; without that, bf16 is slower than float32."""
    if not cpuinfo.is_file():
        return False
    flags = cpuinfo.read_text(errors="replace").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def kept_in_folder(trainer: dict[str, Any], folder: RunFolder, fitting: bool) -> dict[str, Any]:
    """Arguments of the Trainer by which all of a run lies in its folder.

    Raises:
        UserError: the user wants it elsewhere.
    """
    elsewhere = trainer.get("default_root_dir")
    if elsewhere is not None:
        raise UserError(
            f"trainer.default_root_dir is {elsewhere}, but all of a run lies in its run folder: use --runs <folder of "
            "all runs> or --run_dir <folder of this one>"
        )
    chosen: dict[str, Any] = {"default_root_dir": str(folder.path)}
    if not trainer.get("plugins"):
        chosen["plugins"] = [AtomicCheckpointIO()]
    return chosen if fitting else {**chosen, "enable_checkpointing": False}
