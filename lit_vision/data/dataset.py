"""From a position in the index to a sample, and from samples to a batch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_vision.data.decode import Depth, read_image
from lit_vision.data.index import Index
from lit_vision.data.sampler import PADDING_EPOCH, Key
from lit_vision.data.transforms import Transform, pad_collate
from lit_vision.types import IGNORE_INDEX, Batch, Int64Array, Sample, UInt8Array

NATIVE_MULTIPLE = 32  # sides of pictures that are not scaled are padded to it: the deepest stride of encoders in use


class VisionDataset(Dataset[Sample]):
    """Images of one split with their labels, transformed for the network.

    A key is a position in the split, or (epoch, position): the augmentation of an image is a pure function of
    (seed, epoch, image), whatever worker or process draws it.

    Args:
        index: annotations of the whole data set.
        positions: which of its images are in this split.
        transform: brings a picture and its labels to the network's input.
        in_channels: channels of the network's input.
        depth: how values become 8-bit, see `data/decode.py`.
        seed: seed of the augmentation; None = the deterministic transform of evaluation.
    """

    def __init__(
        self,
        index: Index,
        positions: Int64Array,
        transform: Transform,
        in_channels: int = 3,
        depth: Depth = "full",
        seed: int | None = None,
    ) -> None:
        self.index, self.positions, self.transform = index, positions, transform
        self.in_channels, self.depth, self.seed = in_channels, depth, seed

    def __len__(self) -> int:
        return len(self.positions)

    def path(self, position: int) -> Path:
        """File of the image at a position in the split."""
        return self.index.path(int(self.positions[position]))

    def __getitem__(self, key: int | Key) -> Sample:
        epoch, position = key if isinstance(key, tuple) else (0, key)
        i = int(self.positions[position])
        rng = None if self.seed is None else np.random.default_rng((self.seed, max(epoch, 0), i))
        image = self.read(i)
        sample = self.labelled(i, image, rng)
        sample["index"] = -1 if epoch == PADDING_EPOCH else i
        sample["size"] = torch.tensor(image.shape[:2])
        return sample

    def read(self, i: int) -> UInt8Array:
        """(H, W, C): the file of image i of the index."""
        return read_image(self.index.path(i), self.in_channels, self.depth)

    def labelled(self, i: int, image: UInt8Array, rng: np.random.Generator | None) -> Sample:
        """The transformed image i with its labels and frame; the caller adds index and size."""
        raise NotImplementedError


class Collate:
    """Stacks samples to a batch; pictures of different sizes are padded at the right and the bottom.

    Args:
        listed: keys whose tensors differ in length from image to image and stay a list.
        multiple: height and width are padded to a multiple of this many pixels (only where sizes differ or native).
    """

    fills: ClassVar[Mapping[str, int]] = {
        "image": 114,
        "mask": IGNORE_INDEX,
        "instances": 0,
        "border": IGNORE_INDEX,
        "border_weight": 1,
    }

    def __init__(self, listed: Sequence[str] = (), multiple: int = 1) -> None:
        self.listed, self.multiple = frozenset(listed), multiple

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """One batch."""
        rows = [cast(dict[str, Any], sample) for sample in samples]
        return cast(Batch, {key: self._join(key, [row[key] for row in rows]) for key in rows[0]})

    def _join(self, key: str, values: list[Any]) -> Any:
        if key in self.listed:
            return values
        if key in self.fills:
            return pad_collate(values, self.multiple, self.fills[key])
        return torch.stack(values) if isinstance(values[0], torch.Tensor) else torch.tensor(values)


def one_thread(worker_id: int) -> None:
    """Keeps OpenCV and torch of a loader's worker to one thread: the workers are the parallelism."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def without_padding(batch: Batch) -> Batch:
    """The batch without the samples that only fill up a process's share (index -1)."""
    real = batch["index"] >= 0
    if bool(real.all()):
        return batch
    kept = real.nonzero().flatten().tolist()

    def choose(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[real]
        return value.take(kept) if hasattr(value, "take") else [value[k] for k in kept]  # pictures not yet decoded

    return cast(Batch, {key: choose(value) for key, value in batch.items()})
