"""Checkpoints from Darknet's files, and the other way: `lit-vision import-darknet` and `export-darknet`."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.errors import UserError
from lit_vision.networks.darknet import DarknetYOLO
from lit_vision.networks.darknet_cfg import DarknetConfig, find_config
from lit_vision.networks.darknet_export import config_text
from lit_vision.networks.darknet_file import layout, open_weights, recognise
from lit_vision.networks.darknet_weights import write_weights
from lit_vision.runs.checkpoints import AtomicCheckpointIO
from lit_vision.tasks.checkpoints import load_task
from lit_vision.tasks.detection import YOLODetector


def import_darknet(
    cfg: str,
    weights: str | Path,
    names: str | Path,
    output: str | Path,
    image_size: tuple[int, int] | None = None,
    fit: str | None = None,
    overwrite: bool = False,
    **arguments: Any,
) -> Path:
    """Makes a checkpoint that `predict` and `test` take, of a network that Darknet has trained.

    Args:
        cfg: "yolov3", "yolov3-tiny", "yolov3-spp" or a .cfg file.
        weights: the whole .weights file.
        names: text file with a class name a line.
        output: .ckpt to write.
        image_size: height and width of the network's input; None: those of the .cfg.
        fit: how pictures get that size: "stretch" as AlexeyAB's Darknet and OpenCV, "letterbox" as pjreddie's. None:
            "stretch", or "letterbox" where the .cfg says letter_box=1.
        overwrite: replace a checkpoint that is there.
        arguments: of `YOLODetector`, such as bn_eps and thresholds.

    Raises:
        UserError: a file is missing or of another kind, or the files do not belong together.
    """
    _check_output(Path(output), overwrite)
    class_names = read_names(names)
    config = find_config(cfg)
    _check_whole(config, weights, class_names, names)
    net = config.net
    height, width = image_size or (net.integer("height", 416, least=1), net.integer("width", 416, least=1))
    if height % config.coarsest or width % config.coarsest:
        raise UserError(f"image size {height} x {width} must be a multiple of {config.coarsest} for {config.source}")
    task = YOLODetector(class_names, architecture=cfg, weights=str(weights), in_channels=config.channels, **arguments)
    fit = fit or ("letterbox" if net.integer("letter_box", 0) else "stretch")
    task.data = {
        "task": "detection",
        "image_size": [height, width],
        "fit": fit,
        "in_channels": config.channels,
        "depth": "full",
    }
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", plugins=[AtomicCheckpointIO()], **quiet)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(output, weights_only=False)
    rank_zero_info(f"{output}: {len(class_names)} classes; pictures come to {height} x {width} by fit: {fit}")
    return Path(output)


def read_names(names: str | Path) -> list[str]:
    """Class names of a .names file, one a line.

    Raises:
        UserError: there is no such file, it is no text, or a name is missing or stands twice.
    """
    path = Path(names).expanduser()
    if not path.is_file():
        raise UserError(f"--names: there is no file {path}")
    try:
        found = [line.strip() for line in path.read_text("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"--names: {path} is not text in UTF-8: give a file with a class name a line") from None
    for number, name in enumerate(found, start=1):
        if not name or name in found[: number - 1]:
            raise UserError(f"{path}:{number}: {'there is no name' if not name else f'{name} stands twice'}")
    if not found:
        raise UserError(f"--names: {path} is empty: give a file with a class name a line")
    return found


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix != ".ckpt" or output.is_dir():
        raise UserError(f"--output {output} must be a file that ends in .ckpt")
    if not output.parent.is_dir():
        raise UserError(f"--output: there is no folder {output.parent}")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists: name another --output, or add --overwrite")


def _check_whole(config: DarknetConfig, weights: str | Path, class_names: list[str], names: str | Path) -> None:
    _, floats = open_weights(weights)
    written, count = recognise(config.with_size(len(class_names)), floats.size, weights)
    total = len(layout(written))
    if count < total:
        raise UserError(
            f"{weights} holds the first {count} of {total} convolutions of {config.source}: that is for training "
            "(model.weights); give the whole file"
        )
    if written.classes != len(class_names):
        raise UserError(
            f"{names} has {len(class_names)} names, but {weights} is of {written.classes} classes: give the .names "
            "file that it was trained with"
        )


def export_darknet(ckpt_path: str | Path, output: str | Path, overwrite: bool = False) -> list[Path]:
    """Writes a detector's network as Darknet's files, beside each other: .weights, .cfg, .names.

    Args:
        ckpt_path: checkpoint of a YOLODetector with an `architecture`.
        output: the .weights file; the others get its stem.
        overwrite: replace files that are there.

    Raises:
        UserError: the network is none of Darknet's layers, or its pictures are normalised, which Darknet cannot do.
    """
    path = Path(output)
    if path.suffix != ".weights":
        raise UserError(f"--output {output} must end in .weights; .cfg and .names are written beside it")
    files = [path, path.with_suffix(".cfg"), path.with_suffix(".names")]
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise UserError(f"{there[0]} exists: name another --output, or add --overwrite")
    if not path.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {path.parent}")
    task = load_task(ckpt_path)
    network = getattr(task, "network", None)
    if not isinstance(task, YOLODetector) or not isinstance(network, DarknetYOLO):
        raise UserError(
            f"{ckpt_path} is of a {type(task).__name__} whose network no .cfg describes: only a YOLODetector with "
            "`architecture` (yolov3, yolov3-tiny, yolov3-spp or a .cfg) can become Darknet's files"
        )
    if any(task.preprocess.mean) or set(task.preprocess.std) != {1.0}:
        raise UserError(f"{ckpt_path} was trained with a mean or std of its own, but Darknet's networks take 0 to 1")
    height, width = task.data.get("image_size", [416, 416])
    files[1].write_text(config_text(network, height, width, task.data.get("fit")), "utf-8")
    files[2].write_text("".join(f"{name}\n" for name in task.class_names), "utf-8")
    write_weights(network, files[0])
    rank_zero_info(f"written: {', '.join(str(file) for file in files)}")
    if others := _unlike_darknet(task):
        rank_zero_info(
            f"{ckpt_path} was made with {', '.join(others)}, which Darknet does not have: it gives the network whole "
            "pictures, stretched or letterboxed, so that it will find other boxes than lit-vision does"
        )
    return files


def _unlike_darknet(task: YOLODetector) -> list[str]:
    """What is done to the task's pictures here, and by no setting of Darknet."""
    usual = {"fit": ("letterbox", "stretch"), "depth": ("full",), "tile": (None,)}
    settings = {**task.data, "tile": task.tile}
    return [f"{key}: {settings[key]}" for key, values in usual.items() if settings.get(key, values[0]) not in values]
