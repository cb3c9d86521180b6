"""The data module that the four tasks share: index, splits, checks, loaders."""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from rich.progress import Progress
from torch.utils.data import DataLoader

from lit_vision.data.augmentation import Augmentation
from lit_vision.data.check import check
from lit_vision.data.dataset import NATIVE_MULTIPLE, Collate, VisionDataset
from lit_vision.data.decode import Depth, read_image
from lit_vision.data.formats import read
from lit_vision.data.index import Index
from lit_vision.data.loader import EpochLoader, start_worker
from lit_vision.data.rasterise import refuse_more_than_bytes
from lit_vision.data.sampler import EpochSampler
from lit_vision.data.splits import split
from lit_vision.data.transforms import Fit, Transform
from lit_vision.errors import DataError, UserError
from lit_vision.types import Sample, Split, UInt8Array


class VisionDataModule(pl.LightningDataModule):
    """Reads a data set of any known format, divides it into splits and feeds batches of uint8 images.

    Args:
        root: folder of the data set (or its JSON, YAML or CSV file); `~` and `$VARIABLES` are expanded.
        format: "auto" recognises the layout and says so; see docs/data_formats.md.
        options: options of the reader, such as `classes` or `colors`.
        image_size: side, or [height, width], of the network's input in pixels.
        fit: how a picture gets that size: "letterbox" (scaled, padded), "stretch", "crop" (centre) or "native"
            (not scaled: random crops of `image_size` in training, whole pictures in evaluation).
        in_channels: channels of the network's input; grey, RGBA, 16-bit, CMYK and palette files are converted.
        depth: 16-bit values as 8-bit: "full" divides by 257, "stretch" uses each picture's own range; "stretch_all"
            does so to 8-bit pictures, too.
        batch_size: images per process and step.
        num_workers: loader processes; null = one per core, at most 8.
        augmentation: "default" for the task, "none", or an Augmentation with your own ranges.
        transforms: your own torchvision v2 transforms, after the augmentation, in training only.
        val_fraction: share of the training images held out for validation where the data set has no such split.
        test_fraction: likewise for the test.
        split_files: list files by split, one relative path or stem a line: {train: train.txt, val: val.txt}.
        folds: number of folds; together with `fold`, which becomes the validation split.
        fold: 0 to folds - 1.
        group: images of one group stay in one split: a regular expression with one group that is searched in the path,
            or "column" for the column of a CSV that `options: {group_column: ...}` names.
        stratify: fractions and folds keep the share of each class.
        check: look through all files before training and list all problems together.
        missing_classes: "refuse" a data set whose training split lacks a class, or only "note" it.
        seed: of the splits, the order and the augmentation; null = `seed_everything`, or 0.
    """

    task: ClassVar[Literal["classification", "segmentation", "instances", "detection"]]
    listed: ClassVar[Sequence[str]] = ()
    mixes: ClassVar[bool] = False  # whether the task has mosaics and blends of pictures with boxes
    padded_multiple: int = NATIVE_MULTIPLE
    rect: bool = False  # pictures of evaluation are padded no more than they need

    def __init__(
        self,
        root: str,
        format: str = "auto",
        options: dict[str, Any] | None = None,
        image_size: int | tuple[int, int] = 224,
        fit: Fit = "letterbox",
        in_channels: int = 3,
        depth: Depth = "full",
        batch_size: int = 16,
        num_workers: int | None = None,
        augmentation: Augmentation | Literal["default", "none"] = "default",
        transforms: list[Callable[..., Any]] | None = None,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        split_files: dict[str, str] | None = None,
        folds: int | None = None,
        fold: int | None = None,
        group: str | None = None,
        stratify: bool = True,
        check: bool = True,
        missing_classes: Literal["refuse", "note"] = "refuse",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.root, self.format, self.options = expand(root), format, options or {}
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise UserError(f"data.image_size is {image_size}; give a side in pixels from 1, or [height, width]")
        self.fit, self.in_channels, self.depth = fit, in_channels, depth
        self.batch_size, self.num_workers = batch_size, default_workers() if num_workers is None else num_workers
        if not isinstance(augmentation, Augmentation) and augmentation not in ("default", "none"):
            raise UserError(
                f"data.augmentation is {augmentation!r}; for {self.task} give default, none or your own ranges"
            )
        self.augmentation = Augmentation.for_task(self.task) if augmentation == "default" else augmentation
        if isinstance(self.augmentation, Augmentation) and self.augmentation.mixes and not self.mixes:
            raise UserError(f"augmentation.mosaic and augmentation.mixup are for detection, not for {self.task}")
        self.transforms = transforms or []
        self.division: dict[str, Any] = {
            "val_fraction": val_fraction,
            "test_fraction": test_fraction,
            "files": split_files,
            "folds": folds,
            "fold": fold,
            "group": group,
            "stratify": stratify,
        }
        self.checked, self.missing_classes = check, missing_classes
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed

    # --- the data set -------------------------------------------------------------------------------------------
    @cached_property
    def index(self) -> Index:
        """Annotations with splits, read and checked once, before the network is built."""
        found = self.read()
        _say(found.notes)  # first, since they may explain what is refused next
        index = split(found, **self.division, seed=self.seed)
        if self.task in ("segmentation", "instances"):
            refuse_more_than_bytes(index)
        # Other processes of the same run would repeat the very same check.
        if self.checked and int(os.environ.get("LOCAL_RANK", "0")) == 0:
            with Progress(transient=True) as bar:
                looking = bar.add_task("checking files", total=len(index))
                index = check(
                    index,
                    self.task,
                    progress=lambda done, _: bar.update(looking, completed=done),
                    missing_classes=self.missing_classes,
                )
        _say(index.notes[len(found.notes) :])
        return index

    def read(self) -> Index:
        """The data set's annotations as its reader gives them."""
        return read(self.root, self.format, task=self.task, **self.options)

    def name_of(self, i: int) -> str:
        """What picture i of the index is called in lists; no two have the same name."""
        return self.index.files.text(i)

    def picture_of(self, i: int) -> UInt8Array:
        """(H, W, C) uint8: picture i of the index as it is on disk."""
        return read_image(self.index.path(i), self.in_channels, self.depth)

    @property
    def class_names(self) -> list[str]:
        """K names; a label or a mask value is a position in it."""
        return list(self.index.class_names)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What prediction has to repeat; travels in the checkpoint (plain values only)."""
        return {
            "task": self.task,
            "image_size": list(self.image_size),
            "fit": self.fit,
            "in_channels": self.in_channels,
            "depth": self.depth,
        }

    # --- datasets and loaders -----------------------------------------------------------------------------------
    def dataset(self, split: Split, augmented: bool = False) -> VisionDataset:
        """The images of a split as the network sees them."""
        positions = self.index.indices(split)
        if split == "test" and len(positions) == 0:
            if self.index.absent_test:
                raise DataError([self.index.absent_test])
            rank_zero_info(f"{self.root} has no test split: testing on its validation split")
            positions = self.index.indices("val")
        if len(positions) == 0:
            raise DataError([f"{self.root} has no {split} split: set data.val_fraction (such as 0.2) or split_files"])
        augmentation = self._augmentation() if augmented else None
        extra = self.transforms if augmented else []
        transform = self.make_transform(augmentation, extra)
        return self.make_dataset(positions=positions, transform=transform, seed=self.seed if augmented else None)

    def make_transform(self, augmentation: Augmentation | None, extra: Sequence[Callable[..., Any]]) -> Transform:
        """The way from a picture to the network's input."""
        return Transform(self.image_size, self.fit, augmentation, extra)

    def _augmentation(self) -> Augmentation | None:
        if isinstance(self.augmentation, Augmentation):
            return self.augmentation
        # Without any augmentation, native training still needs crops of one size to make batches.
        return Augmentation(flip=0.0) if self.fit == "native" else None

    def make_dataset(self, **settings: Any) -> VisionDataset:
        """A task's own dataset over `self.index`."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled and augmented; every process gets its own share."""
        self._say_unused_colours()
        return self._loader(self.dataset("train", augmented=True), shuffle=True)

    def _say_unused_colours(self) -> None:
        augmentation, usual = self._augmentation(), Augmentation.for_task(self.task)
        names = [] if augmentation is None or self.in_channels == 3 else ["hue", "saturation"]
        given = [name for name in names if getattr(augmentation, name) not in (0, getattr(usual, name))]
        if given:
            said = " and ".join(f"augmentation.{name}" for name in given)
            rank_zero_info(f"without effect: {said}, which need RGB, where data.in_channels is {self.in_channels}")

    def val_dataloader(self) -> DataLoader[Sample]:
        """The validation split, in order."""
        return self._loader(self.dataset("val"))

    def test_dataloader(self) -> DataLoader[Sample]:
        """The test split, in order; the validation split where there is none."""
        return self._loader(self.dataset("test"))

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The test split, in order."""
        return self.test_dataloader()

    def _loader(self, dataset: VisionDataset, shuffle: bool = False) -> DataLoader[Sample]:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if not shuffle and len(dataset) < world_size:  # a process without any picture would wait for ever
            raise UserError(
                f"{self.root}: a split of {len(dataset)} pictures for {world_size} processes; use fewer processes"
            )
        sampler = self.make_sampler(dataset, shuffle, rank, world_size)
        padded = (self.fit == "native" or self.rect) and not shuffle
        return EpochLoader(
            dataset,
            done=self._batches_done if shuffle else lambda: 0,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0 and shuffle,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            drop_last=shuffle and len(sampler) >= self.batch_size,  # a batch of one breaks batch normalisation
            collate_fn=Collate(self.listed, self.padded_multiple if padded else 1),
            worker_init_fn=start_worker,
        )

    def make_sampler(self, dataset: VisionDataset, shuffle: bool, rank: int, world_size: int) -> EpochSampler:
        """The order of a split's images."""
        return EpochSampler(len(dataset), self.seed, shuffle, rank, world_size)

    def _batches_done(self) -> int:
        """Training batches of the current epoch that a run which was cut in it has had before."""
        if self.trainer is None:
            return 0
        loop = self.trainer.fit_loop.epoch_loop
        return loop.batch_progress.current.ready if loop.restarting else 0


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        rank_zero_info(note)


def expand(root: str) -> Path:
    """The folder a user named, with `~` and `$VARIABLES` replaced.

    Raises:
        UserError: a variable is not set, or nothing is there.
    """
    path = Path(os.path.expandvars(root)).expanduser()
    if "$" in str(path):
        raise UserError(f"data.root is {root}, but that environment variable is not set: export it or give the folder")
    if not path.exists():
        raise UserError(f"data.root: {path} does not exist: give the folder of your data set")
    return path


def default_workers() -> int:
    """One loader process per core that this process may use, at most 8."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
