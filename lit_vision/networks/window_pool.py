"""One run of a classifier over a whole picture gives the logits of all windows in it.

A network that ends in a global average pool computes, before that pool, the same features for a window by itself and
for the window within a larger picture, up to what convolutions see of the padding. So the pool over everything is
replaced by one pool per window, and what follows runs on a batch of windows.

Sermanet et al. 2014, OverFeat, https://arxiv.org/abs/1312.6229, 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lit_vision.ops.windows import Size

PROBE = 64  # pixels added to see how the feature map grows; a multiple of all usual strides
POOLS = ("adaptive_avg_pool2d", "mean")
# What makes an output depend on places that no kernel reaches: then a window within a picture is not the window alone.
MIXERS = (
    *("softmax", "scaled_dot_product_attention", "multi_head_attention_forward", "bmm", "baddbmm", "einsum"),
    *("matmul", "__matmul__", "fft2", "rfft2", "group_norm", "instance_norm", "adaptive_max_pool2d", "amax"),
    *("norm", "vector_norm"),
)


class NotConvolutionalError(Exception):
    """The network cannot be run over a whole picture; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class Cells:
    """The feature map in front of the global pool.

    Attributes:
        count: its height and width for one picture of the network's own size.
        stride: pixels of the network's input from a cell to the next, downwards and to the right.
    """

    count: Size
    stride: Size


class WindowPool(TorchFunctionMode):
    """While it is entered, a global average pool of (1, C, h, w) gives (N, C, 1, 1), a window each.

    Args:
        cells: height and width of a window in the feature map; None leaves the pool as it is.
        step: cells from a window to the next one below and to the right.

    Attributes:
        maps: height and width of each map that was pooled.
        mixers: names of functions in front of the last pool that look farther than a kernel does.
    """

    def __init__(self, cells: Size | None = None, step: Size = (1, 1)) -> None:
        super().__init__()
        self.cells, self.step = cells, step
        self.maps: list[Size] = []
        self.mixers: list[str] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options, name = kwargs or {}, getattr(func, "__name__", "")
        if name in POOLS and isinstance(args[0], Tensor) and _is_global(name, args, options):
            features = args[0]
            self.maps.append((int(features.shape[-2]), int(features.shape[-1])))
            if self.cells is not None:
                pooled = _pool_windows(features, self.cells, self.step)
                keeps = name != "mean" or bool(options.get("keepdim", len(args) > 2 and args[2]))
                return pooled if keeps else pooled.flatten(1)
        elif name in MIXERS or (name in POOLS and isinstance(args[0], Tensor) and args[0].ndim == 4):
            self.mixers.append(name)
        return func(*args, **options)


def _is_global(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether a pool takes all of a map (B, C, h, w) and nothing else."""
    if args[0].ndim != 4:
        return False
    given = args[1] if len(args) > 1 else options.get("output_size" if name != "mean" else "dim")
    if name != "mean":
        return given == 1 or (isinstance(given, tuple | list) and tuple(given) == (1, 1))
    return isinstance(given, tuple | list) and sorted(axis % 4 for axis in given) == [2, 3]


def _pool_windows(features: Tensor, cells: Size, step: Size) -> Tensor:
    """(1, C, h, w) to (N, C, 1, 1): means over the cells of each window, row by row."""
    pooled = F.avg_pool2d(features, cells, stride=step)
    return pooled[0].flatten(1).t()[:, :, None, None]


@torch.no_grad()
def find_cells(network: nn.Module, image_size: Size, channels: int) -> Cells:
    """How a classifier's feature map lies over its input; found by running it, in evaluation mode.

    Args:
        network: (B, C, H, W) float -> (B, K).
        image_size: its usual input.
        channels: C.

    Raises:
        NotConvolutionalError: its logits are not those of one global average pool over features of places.
    """
    weight = next(network.parameters())
    if network.training:
        raise ValueError("find_cells takes a network in evaluation mode")
    maps = []
    for extra in (0, PROBE):
        picture = torch.rand(1, channels, image_size[0] + extra, image_size[1] + extra, generator=_seeded())
        with WindowPool() as pools:
            try:
                network(picture.to(weight))
            except (RuntimeError, AssertionError, ValueError) as error:
                reason = " ".join(str(error).split())[:120]
                raise NotConvolutionalError(f"takes pictures of one size only ({reason})") from error
        maps.append(_only_map(pools))
    strides = [_stride(small, large) for small, large in zip(*maps, strict=True)]
    return Cells(maps[0], (strides[0], strides[1]))


def _only_map(pools: WindowPool) -> Size:
    if pools.mixers:
        raise NotConvolutionalError(f"looks at the whole picture from every place ({pools.mixers[0]})")
    if len(pools.maps) != 1:
        what = "no global average pool" if not pools.maps else f"{len(pools.maps)} pools (squeeze-and-excite)"
        raise NotConvolutionalError(f"has {what} instead of one over its last features")
    return pools.maps[0]


def _stride(small: int, large: int) -> int:
    if large <= small or PROBE % (large - small):
        raise NotConvolutionalError(f"has features that do not grow evenly with the picture ({small} to {large} cells)")
    return PROBE // (large - small)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def window_logits(network: nn.Module, picture: Tensor, cells: Size, step: Size) -> Tensor:
    """Logits of all windows of a picture, row by row.

    A window starts every `step` cells and is `cells` large; at the picture's edges the network sees its own padding, as
    it does in a single window, and between neighbouring windows it sees the picture instead.

    Args:
        network: one that `find_cells` takes.
        picture: (1, C, H, W) float, preprocessed.
        cells: height and width of a window in the feature map.
        step: cells from a window to the next.

    Returns:
        (N, K).
    """
    with WindowPool(cells, step):
        logits: Tensor = network(picture)
    return logits
