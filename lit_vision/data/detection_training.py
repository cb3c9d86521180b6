"""Detection's training samples: single pictures, mosaics and blends, at the size of their batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lit_vision.data.decode import read_reduced, read_size
from lit_vision.data.detection_dataset import DetectionDataset, objects_of
from lit_vision.data.geometry import Size, fit_frame
from lit_vision.data.index import Index
from lit_vision.data.mosaic import QUADRANTS, Picture, blend, compose, kept_crowds
from lit_vision.data.picture_store import RECENT_BYTES, RECENT_PICTURES, Decoded, RecentPictures, SharedPictures
from lit_vision.data.sampler import Key, Turn
from lit_vision.data.scales import draw_size
from lit_vision.data.transforms import Transform, Warped, to_tensor
from lit_vision.types import Int64Array, Sample

SMALLEST_WINDOW = 8  # pictures of a batch among which a mosaic finds partners that differ from one to the next
_JPEG = (".jpg", ".jpeg")


class TrainingDataset(DetectionDataset):
    """Images of the training split, alone, four in one, or blended.

    A sample is a pure function of the seed and of the keys of its batch (where partners come from the whole split: of
    its own key), whatever process makes it and whatever was made before.

    Args:
        cache: bytes for decoded pictures that stay in memory.
        workers: loader processes, which share that memory.
        sizes: (height, width) from which each batch draws; none = the transform's own.
        settings: see `VisionDataset`.
    """

    def __init__(self, *, cache: int = 0, workers: int = 0, sizes: Sequence[Size] = (), **settings: Any) -> None:
        super().__init__(**settings)
        self.sizes = list(sizes)
        self.closing_epoch: int | None = None  # from this one on pictures are shown alone
        largest = self.sizes[-1] if self.sizes else self.transform.image_size
        shapes = expected_shapes(self.index, self.positions, self.in_channels, self.transform, largest, cache)
        self.store = SharedPictures(shapes, cache, workers)
        # Partners from anywhere cost nothing where all pictures stay decoded; those of the batch are at hand anyway.
        self.partners_from_all = self.store.holds_all
        self._largest = largest
        augmentation = self.transform.augmentation
        mixes = augmentation is not None and augmentation.mixes
        self._recent = RecentPictures(RECENT_BYTES if mixes else 0)

    def __getitem__(self, key: int | Key) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | Key]) -> list[Sample]:
        """The samples of a batch; its pictures are decoded once."""
        turns = [key if isinstance(key, Turn) else _turn(key) for key in keys]
        drawn = self.sizes and self.seed is not None and isinstance(keys[0], Turn)
        size = draw_size(self.sizes, self.seed or 0, turns[0]) if drawn else self.transform.image_size
        batch = sorted({turn.position for turn in turns})
        self._recent.most = max(len(batch), RECENT_PICTURES)
        return [self._sample(turn, batch, size) for turn in turns]

    def _sample(self, turn: Turn, batch: Sequence[int], size: Size) -> Sample:
        i = int(self.positions[turn.position])
        place = (self.seed or 0, max(turn.epoch, 0), i)
        rng = np.random.default_rng(place if turn.repeat == 0 else (*place, turn.repeat))
        augmentation = self.transform.augmentation
        closed = self.closing_epoch is not None and turn.epoch >= self.closing_epoch
        mosaic, mixup = (0.0, 0.0) if augmentation is None or closed else (augmentation.mosaic, augmentation.mixup)

        shown: list[int] = []

        def draw(position: int) -> tuple[Picture, Any, Size]:
            group = [position]
            if mosaic and rng.random() < mosaic:
                group += self._partners(position, QUADRANTS - 1, batch, rng)
            shown.extend(group)
            pictures = [self._picture(one) for one in group]
            return *compose(pictures, self.transform, size, rng), pictures[0].size

        picture, frame, original = draw(turn.position)
        if mixup and rng.random() < mixup:
            picture = blend(picture, draw(self._partners(turn.position, 1, batch, rng)[0])[0], rng)
        sample = self._finish(i, picture, frame, original, rng)
        sample["shown"] = torch.from_numpy(self.positions[list(dict.fromkeys(shown))].astype(np.int64))
        return sample

    def _partners(self, position: int, count: int, batch: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Positions of other pictures, each a different one where there are enough."""
        if self.partners_from_all or len(batch) < SMALLEST_WINDOW:
            others = len(self) - 1
            drawn = rng.choice(max(1, others), count, replace=others < count)
            return [int(one) + (one >= position) if others else position for one in drawn]
        return [int(one) for one in rng.choice([one for one in batch if one != position], count, replace=False)]

    def _picture(self, position: int) -> Picture:
        pixels, factor = self.store.get(position, lambda missing: self._recent.get(missing, self._read))
        return Picture(pixels, *objects_of(self, int(self.positions[position])), factor)

    def _read(self, position: int) -> Decoded:
        i = int(self.positions[position])
        most = largest_reduction(picture_size(self.index, i), self.transform, self._largest)
        return read_reduced(self.index.path(i), self.in_channels, self.depth, most)

    def _finish(self, i: int, picture: Picture, frame: Any, size: Size, rng: np.random.Generator) -> Sample:
        everything = np.ones(len(picture.boxes), bool)
        warped = Warped(to_tensor(picture.pixels), picture.boxes, everything, {}, frame[:2].astype(np.float32))
        self.transform.apply_extra(warped, {}, rng)
        assert warped.boxes is not None
        assert warped.keep is not None
        keep = kept_crowds(warped.boxes, warped.keep, picture.crowd, self.transform)
        return {
            "image": warped.image,
            "index": i,
            "frame": torch.from_numpy(warped.frame),
            "size": torch.tensor(size),
            "boxes": torch.from_numpy(warped.boxes[keep]),
            "labels": torch.from_numpy(picture.labels[keep]),
            "crowd": torch.from_numpy(picture.crowd[keep]),
        }


def _turn(key: int | Key) -> Turn:
    epoch, position = key[:2] if isinstance(key, tuple) else (0, key)
    return Turn(epoch, position, 0, 0)


def largest_reduction(size: Size, transform: Transform, image_size: Size) -> float:
    """How many pixels of a picture make one of the network's input at least, however far augmentation zooms in."""
    augmentation = transform.augmentation
    if transform.fit == "native" or (augmentation is not None and augmentation.crop_area is not None):
        return 1.0
    frame = fit_frame(transform.fit, size, image_size)
    zoom = 1.0 if augmentation is None else augmentation.scale_range[1]
    return 1 / (zoom * float(max(frame[0, 0], frame[1, 1])))


def expected_shapes(
    index: Index, positions: Int64Array, channels: int, transform: Transform, image_size: Size, limit: int
) -> Int64Array:
    """(N, 3) height, width and channels of the decoded pictures of a split; zeros behind the first `limit` bytes."""
    shapes, used = np.zeros((len(positions), 3), np.int64), 0
    for row, i in zip(shapes, positions.tolist(), strict=True):
        height, width = picture_size(index, i)
        most = largest_reduction((height, width), transform, image_size)
        jpeg = channels == 3 and index.files.text(i).lower().endswith(_JPEG)
        fitting = [k for k in (2, 4, 8) if jpeg and k <= most and height % k == 0 and width % k == 0]
        factor = max(fitting, default=1)
        row[:] = height // factor, width // factor, channels
        used += int(row.prod())
        if used > limit:
            break
    return shapes


def picture_size(index: Index, i: int) -> Size:
    """Height and width of image i, from its file where the index does not say."""
    height, width = index.sizes[i].tolist()
    return (height, width) if height and width else read_size(index.path(i))
