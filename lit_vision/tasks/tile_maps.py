"""Maps of large pictures from those of overlapping tiles, each prepared as a picture of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lit_vision.data.dataset import NATIVE_MULTIPLE, Collate
from lit_vision.data.decode import read_image
from lit_vision.data.restore import restore_scores
from lit_vision.data.transforms import Transform
from lit_vision.errors import UserError
from lit_vision.ops.tiles import blended_rows, refuse_cropped
from lit_vision.tasks.base import VisionTask
from lit_vision.types import Int64Array, UInt8Array

TILES_PER_STEP = 4


def tile_of(task: VisionTask) -> int:
    """Side of the task's tiles.

    Raises:
        UserError: it has none, does not know how pictures are prepared, or would not see all of a tile.
    """
    if task.tile is None or "fit" not in task.data:
        raise UserError("tiles need model.tile, and a task of a checkpoint: load_task(path, tile=512)")
    refuse_cropped(task.tile, task.data["fit"])
    return task.tile


def tested_in_tiles(task: VisionTask) -> bool:
    """Whether `test` and `validate` see tiles: those of a batch's pictures, which are at their own scale."""
    return task.tile is not None and task.data.get("fit") == "native"


def say_unused_tile(task: VisionTask) -> None:
    """A line where `test` or `validate` is told of tiles that its pictures are not cut into; none in a training."""
    command = task.trainer.state.fn
    if task.tile is not None and not tested_in_tiles(task) and command in ("test", "validate"):
        seeing = "the test" if command == "test" else "validate"
        rank_zero_info(
            f"model.tile {task.tile} is for predict: {seeing} sees whole pictures, as fit: {task.data.get('fit')} "
            "makes them; with fit: native it would see tiles"
        )


def say_unused_views(task: VisionTask, scales: Sequence[float], flips: Sequence[str], tile: int | None = None) -> None:
    """A line where `validate` is told how `test` and `predict` look at pictures; none in a training.

    Args:
        task: the task.
        scales: its `tta_scales`.
        flips: its `tta_flips`.
        tile: its `tile`, where only these two see tiles.
    """
    given = {"tta_scales": list(scales) != [1.0], "tta_flips": bool(flips), "tile": tile is not None}
    names = [f"model.{name}" for name, said in given.items() if said]
    if names and task.trainer.state.fn == "validate":
        rank_zero_info(f"validate takes no notice of {' and '.join(names)}: test and predict do")


def tiled_maps(
    task: VisionTask, image: UInt8Array, probabilities: Callable[[Tensor], Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Bands of maps (K, rows, W) of a picture, see `blended_rows`.

    At the picture's own scale, tiles begin at multiples of the networks' stride: its coarse maps are then those of the
    whole picture, cut, and not moved by a part of their pixels.

    Args:
        task: whose tiles and preprocessing they are.
        image: (H, W, C), the original.
        probabilities: images (B, C, h, w) on the task's device to maps (B, K, h, w) float32.

    Raises:
        UserError: the task has no tiles, or does not know how pictures are prepared.
    """
    tile = tile_of(task)

    def maps_of(boxes: Int64Array) -> Iterator[Tensor]:
        return _maps_of_tiles(task, image, boxes, probabilities)

    return blended_rows((image.shape[0], image.shape[1]), tile, task.tile_overlap, maps_of, _multiple(task))


def _multiple(task: VisionTask) -> int:
    """The stride of networks where pictures keep their scale, 1 where they get a fixed size."""
    return NATIVE_MULTIPLE if task.data["fit"] == "native" else 1


def originals(task: VisionTask, batch: Mapping[str, Any]) -> Iterator[UInt8Array]:
    """The pictures of a batch as they are in their files, (H, W, C).

    Raises:
        UserError: the Trainer has no data module of ours.
    """
    data = getattr(task._trainer, "datamodule", None)
    if data is None:
        raise UserError(f"model.tile is {task.tile}: tiles are cut from the files of a data module; give one")
    for i in batch["index"].tolist():
        yield read_image(data.index.path(max(i, 0)), data.in_channels, data.depth)  # below 0: fills up a share


def _maps_of_tiles(
    task: VisionTask, image: UInt8Array, boxes: Int64Array, probabilities: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """Maps (K, h, w) float32 of each tile xyxy of a picture, in its own pixels, on the CPU."""
    transform = tile_transform(task.data)
    collate = Collate(multiple=_multiple(task))
    rest = iter(boxes.tolist())
    while some := list(islice(rest, TILES_PER_STEP)):
        warped = [transform(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in some]
        samples: Any = [{"image": one.image} for one in warped]
        batch = {"image": collate(samples)["image"].to(task.device)}
        with torch.no_grad():  # called from Python, too, where a graph of all tiles would pile up
            found = probabilities(task.on_after_batch_transfer(batch, 0)["image"])
        for maps, one, (x1, y1, x2, y2) in zip(found, warped, some, strict=True):
            yield restored(maps, torch.from_numpy(one.frame), (y2 - y1, x2 - x1))


def tile_transform(data: Mapping[str, Any]) -> Transform:
    """What brings a tile, or a whole picture, to the network's input."""
    height, width = data["image_size"]
    return Transform((height, width), data["fit"])


def restored(maps: Tensor, frame: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (K, h, w) float32 of the original on the CPU from (K, H, W) of the network's frame, bilinear."""
    maps = maps.detach()  # who calls `predict_step` need not have gradients off
    if torch.equal(frame.cpu(), torch.eye(3)[:2]):
        return maps[:, : size[0], : size[1]].cpu()  # nothing was scaled or moved
    return torch.from_numpy(restore_scores(maps.cpu().numpy(), frame.cpu().numpy(), size))
