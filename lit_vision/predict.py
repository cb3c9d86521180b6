"""Predictions for pictures of the user's own, from a checkpoint alone."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning.utilities import rank_zero_info
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from lit_vision.data.dataset import one_thread
from lit_vision.data.pictures import CollatePictures, Images, PictureFiles, find_images, read_for, relative_paths
from lit_vision.errors import DataError, UserError
from lit_vision.object_files import LabelMapKind
from lit_vision.results import Results, licence_note, result_names
from lit_vision.tasks.base import VisionTask
from lit_vision.tasks.box_task import BoxTask
from lit_vision.tasks.checkpoints import load_task, read_checkpoint
from lit_vision.tasks.optimization import as_channels_last
from lit_vision.tasks.tile_maps import tile_of

THRESHOLDS = ("score_threshold", "pixel_threshold", "threshold")  # of detector, instance segmenter, classifier


def predict_images(
    ckpt_path: str | Path,
    images: Images,
    output: str | Path,
    batch_size: int = 8,
    num_workers: int = 0,
    device: str = "auto",
    threshold: float | str | None = None,
    overwrite: bool = False,
    precision: str = "32",
    label_maps: LabelMapKind | None = None,
    **changes: Any,
) -> Path:
    """Predicts pictures and writes them, annotated, with machine-readable results; see `results.Results`.

    Args:
        ckpt_path: checkpoint file; it holds classes, preprocessing and thresholds.
        images: a file, a folder (searched with its folders, in natural order), a glob pattern, or a list of files.
        output: folder for the results; must be new or empty.
        batch_size: pictures per step.
        num_workers: processes that read pictures; 0 = this one.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        threshold: lowest score or probability that counts, instead of the checkpoint's; "auto" for a detector: of
            each class the one that the validation found best.
        overwrite: write into a folder that holds files; files of the same names are replaced, others stay.
        precision: "32", or "bf16": faster where the device multiplies in it, and rounded to three digits.
        label_maps: "png" or "tiff" (16 bits both), of a task of instances; None = png.
        changes: further arguments of the task to set otherwise, such as nms_threshold.

    Returns:
        output.

    Raises:
        UserError: an argument is wrong.
        DataError: some pictures could not be read, one sentence each; all others are done.
    """
    output = Path(output)
    if batch_size < 1 or num_workers < 0:
        raise UserError(f"--batch_size is {batch_size} and --num_workers {num_workers}: give at least 1 and 0")
    if precision not in ("32", "bf16"):
        raise UserError(f"--precision is {precision}: give 32 or bf16")
    task = load_for_prediction(Path(ckpt_path), threshold, changes).to(_device(device))
    if task.tile is not None:
        tile_of(task)  # refuses what has no tiles, before anything is written
    paths = find_images(images, output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not overwrite:
        raise UserError(f"--output {output} holds files already: name another folder, or add --overwrite")
    several: Any = task.threshold if getattr(task, "multi_label", False) else None
    rounded = torch.autocast(task.device.type, torch.bfloat16, enabled=precision == "bf16")
    with (
        _writing(output),
        Results(output, task.data["task"], task.class_names, several, label_maps) as results,
        rounded,
    ):
        problems = _write_predictions(results, task, paths, batch_size, num_workers)
    rank_zero_info(f"predicted {len(paths) - len(problems)} pictures: {output}")
    if licence := getattr(task, "licence", None):
        rank_zero_info(licence_note(licence))
    if problems:
        raise DataError(problems)
    return output


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Says in one sentence why nothing, or nothing more, can be written to a folder; other files' errors pass."""
    try:
        yield
    except OSError as error:
        file = None if error.filename is None else Path(os.fsdecode(error.filename))
        if error.strerror is None or not (file is None or file.is_relative_to(output) or output.is_relative_to(file)):
            raise
        where = f" ({file})" if file else ""
        raise UserError(f"--output {output} cannot be written: {error.strerror}{where}: name another folder") from error


def _write_predictions(
    results: Results, task: VisionTask, paths: Sequence[Path], batch_size: int, num_workers: int
) -> list[str]:
    """Predicts and writes picture by picture; gives a sentence for each that could not be done."""
    names, problems = result_names(relative_paths(paths)), []
    with _progress() as progress:
        for i, prediction in progress.track(_predictions(task, paths, batch_size, num_workers), len(paths)):
            if isinstance(prediction, str):
                problems.append(prediction)
                continue
            try:
                image = read_for(task.data, paths[i])
                results.write(paths[i], names[i], image, prediction)
            except UserError as error:  # of this picture alone
                problems.append(str(error))
    return problems


def load_for_prediction(ckpt_path: Path, threshold: float | str | None, changes: Mapping[str, Any]) -> VisionTask:
    """The task of a checkpoint with thresholds changed.

    Raises:
        UserError: the task has no such threshold or argument, or the checkpoint is not one of lit_vision's.
    """
    checkpoint = read_checkpoint(ckpt_path)
    known, changed = checkpoint["hyper_parameters"], dict(changes)
    kind = checkpoint["lit_vision"]["task"]
    for name in changed:
        if name not in known:
            raise UserError(f"{name} is not an argument of {kind}; there are {', '.join(sorted(known))}")
    if threshold is not None:
        own = _threshold_of(known, kind, threshold)
        changed[own] = threshold
        # The product of both is the score; none follows the score's own.
        lowered = "objectness_threshold" not in changes and known.get("objectness_threshold") is not None
        if lowered and threshold != "auto":
            changed["objectness_threshold"] = min(float(threshold), known["objectness_threshold"])
    task = load_task(ckpt_path, **changed)
    if "task" not in task.data:
        raise UserError(
            f"checkpoint {ckpt_path} does not say how its pictures were prepared: use one of `lit-vision fit`"
        )
    if isinstance(task, BoxTask):
        task.check_thresholds()
    if task.channels_last:
        as_channels_last(task)
    return task


def _threshold_of(known: Mapping[str, Any], kind: str, threshold: float | str) -> str:
    """Which of a task's arguments `--threshold` sets."""
    own = [name for name in THRESHOLDS if name in known]
    if not own or ("multi_label" in known and not known["multi_label"]):
        raise UserError(f"--threshold has no meaning for this {kind}: it gives the most probable class; leave it out")
    if threshold == "auto" and "objectness_threshold" not in known:
        raise UserError(f"--threshold auto has no meaning for this {kind}: give a number")
    if threshold != "auto" and not 0 <= float(threshold) <= 1:
        raise UserError(f"--threshold is {threshold}; give a number from 0 to 1")
    return own[0]


def _predictions(
    task: VisionTask, paths: Sequence[Path], batch_size: int, num_workers: int
) -> Iterator[tuple[int, Any]]:
    """(position, prediction or problem) of every picture, in order."""
    if task.tile is not None:
        yield from enumerate(_in_tiles(task, path) for path in paths)
        return
    loader: DataLoader[Any] = DataLoader(
        PictureFiles(paths, task.data),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=CollatePictures(task.data["fit"]),
        worker_init_fn=one_thread,
    )
    position = 0
    for batch, problems in loader:
        found = iter(_predict(task, batch) if batch else [])
        for problem in problems:
            yield position, problem if problem is not None else next(found)
            position += 1


def _in_tiles(task: VisionTask, path: Path) -> Any:
    try:
        image = read_for(task.data, path)
    except UserError as error:
        return str(error)
    with torch.inference_mode():
        return task.predict_whole(image)


def _predict(task: VisionTask, batch: dict[str, Any]) -> Sequence[Any]:
    with torch.inference_mode():
        moved = {key: value.to(task.device) for key, value in batch.items()}
        moved = task.on_after_batch_transfer(moved, 0)
        return cast(Sequence[Any], task.predict_step(moved, 0))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} is not available here: use auto, cpu, cuda or cuda:<number>") from error
    return device


def _progress() -> Progress:
    columns = (TextColumn("predict"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns)
