"""Sizes of the network's input: those that training draws from, and the smallest that shows a whole picture."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_vision.data.geometry import Size
from lit_vision.data.sampler import Turn
from lit_vision.errors import UserError

_DRAW = 2  # tells this draw from others whose seed begins with (seed, epoch)


def training_sizes(image_size: Size, multi_scale: float | Sequence[float], stride: int) -> list[Size]:
    """Inputs (height, width) between the smallest and the largest factor, sides multiples of `stride`, smallest first.

    Args:
        image_size: height, width of the ordinary input.
        multi_scale: (smallest, largest) factor on it, or s for (1 - s, 1 + s).
        stride: pixels.

    Raises:
        UserError: the factors are no such numbers.
    """
    low, high = (image_size[0] * factor / stride for factor in _factors(multi_scale))
    first = max(1, math.ceil(low))
    heights = range(first, max(first, math.floor(high)) + 1)
    ratio = image_size[1] / image_size[0]
    return [(stride * h, stride * max(1, round(h * ratio))) for h in heights]


def _factors(multi_scale: Any) -> tuple[float, float]:
    single = isinstance(multi_scale, int | float)
    pair = (1 - multi_scale, 1 + multi_scale) if single else tuple(multi_scale)
    if len(pair) != 2 or not 0.1 <= pair[0] <= pair[1] <= 10:
        raise UserError(
            f"data.multi_scale is {multi_scale!r}; give s from 0 to 0.9 for factors 1 - s to 1 + s on image_size, or "
            "[smallest, largest] factor within 0.1 to 10"
        )
    return float(pair[0]), float(pair[1])


def draw_size(sizes: Sequence[Size], seed: int, turn: Turn) -> Size:
    """The size of the batch that begins with a turn: the same on all processes, since `seen` is."""
    return sizes[int(np.random.default_rng((seed, turn.epoch, turn.seen, _DRAW)).integers(len(sizes)))]


def planned_epochs(trainer: Any, batches: int) -> int | None:
    """Epochs that a run will have at most; None where nothing but time or a callback ends it.

    Args:
        trainer: its limits count; a `max_time` or a stopping callback may end the run before.
        batches: of a whole epoch on this process.
    """
    limit = trainer.limit_train_batches
    batches = max(1, min(batches, limit) if isinstance(limit, int) else int(batches * limit))
    epochs = [trainer.max_epochs] if trainer.max_epochs not in (None, -1) else []
    if trainer.max_steps != -1:
        epochs.append(-(-trainer.max_steps // -(-batches // trainer.accumulate_grad_batches)))
    return min(epochs) if epochs else None


def closing_epochs(close_mosaic: float | None, epochs: int) -> int:
    """How many of the last epochs of a run have no mosaics: a number, a share below 1, or the usual ten.

    None: 10, but no more than a fifth of the run. (YOLOX, https://arxiv.org/abs/2107.08430, section 2.2, has none in
    the last 15 of 300.)
    """
    if close_mosaic is None:
        return min(10, epochs // 5)
    return round(close_mosaic * epochs) if close_mosaic < 1 else int(close_mosaic)
