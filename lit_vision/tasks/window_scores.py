"""A trained classifier applied to all windows of a picture, one by one or in one run of its convolutions."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lit_vision.data.crops import cut_out
from lit_vision.data.dataset import NATIVE_MULTIPLE
from lit_vision.data.geometry import fit_frame, scaling, translation
from lit_vision.data.transforms import Transform, pad_collate
from lit_vision.data.warp import warp_image
from lit_vision.networks.preprocess import Preprocess
from lit_vision.networks.window_pool import Cells, NotConvolutionalError, find_cells, window_logits
from lit_vision.ops.windows import Size, WindowGrid, pixels_of, whole_steps, window_grid, window_shapes
from lit_vision.types import UInt8Array

CROPS = 64  # windows in a batch
CANVAS = 4_000_000  # pixels of the resized picture that go through the network at once; bounds the memory

Method = Literal["auto", "convolutional", "crops"]


class WindowScores(nn.Module):
    """Lays windows over pictures and gives the classifier's logits of each.

    The windows are the same whichever way they are computed: where the network's features could be shared, they lie on
    the cells of its feature map.

    Args:
        network: (B, C, H, W) float -> (B, L), in evaluation mode.
        preprocess: its first layer.
        data: how its pictures were prepared: image_size, fit.
        method: "crops" computes windows one by one even where features could be shared.

    Attributes:
        reason: why features cannot be shared, as the end of a sentence about the network; None where they can.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess, data: Mapping[str, Any], method: Method) -> None:
        super().__init__()
        self.network, self.preprocess, self.method = network, preprocess, method
        self.image_size: Size = (int(data["image_size"][0]), int(data["image_size"][1]))
        self.fit = data["fit"]
        self.transform = Transform(self.image_size, self.fit)
        self.cells: Cells | None = None
        self.reason: str | None = None
        try:
            self.cells = find_cells(network, self.image_size, len(preprocess.mean))
        except NotConvolutionalError as error:
            self.reason = str(error)

    def grids(self, picture: Size, sizes: Sequence[float], ratios: Sequence[float], stride: float) -> list[WindowGrid]:
        """The windows of a picture, see `ops.windows`."""
        return [self._grid(picture, window, stride) for window in window_shapes(sizes, ratios, picture)]

    def _grid(self, picture: Size, window: Size, stride: float) -> WindowGrid:
        size = self.shared_size(window)
        units = [1.0, 1.0]
        if size is not None and self.cells is not None:
            units = [cell * side / own for cell, side, own in zip(self.cells.stride, window, size, strict=True)]
        steps = [whole_steps(pixels_of(stride, side), unit) * unit for side, unit in zip(window, units, strict=True)]
        return window_grid(picture, window, (steps[0], steps[1]))

    def shared_size(self, window: Size) -> Size | None:
        """The network input that a window becomes, if a resized picture holds it as it is; None: only by itself."""
        if self.cells is None:
            return None
        if self.fit == "native":
            strides = (*self.cells.stride, NATIVE_MULTIPLE, NATIVE_MULTIPLE)
            offsets = (*np.subtract(window, self.image_size).tolist(), *window)
            return window if not any(map(int.__mod__, offsets, strides)) else None
        stretched = fit_frame("stretch", window, self.image_size)  # what pads or cuts a window does it to each alone
        return self.image_size if np.allclose(fit_frame(self.fit, window, self.image_size), stretched) else None

    def shares(self, grid: WindowGrid) -> bool:
        """Whether the windows of a grid are computed together."""
        return self.method != "crops" and self.shared_size(grid.window) is not None

    def forward(self, picture: UInt8Array, grid: WindowGrid) -> Tensor:
        """Logits (N, L) of the windows of a picture (H, W, C), on the network's device."""
        size = self.shared_size(grid.window)
        if size is None or self.cells is None or not self.shares(grid):
            return self.one_by_one(picture, grid.boxes)
        return self._together(picture, grid, size, self.cells)

    def one_by_one(self, picture: UInt8Array, boxes: Tensor) -> Tensor:
        """Logits (N, L) of windows (N, 4) of one shape, each cut out of a picture (H, W, C) by itself."""
        multiple = NATIVE_MULTIPLE if self.fit == "native" else 1
        rows, logits = boxes.int().tolist(), []
        for start in range(0, len(rows), CROPS):
            images = [self.transform(cut_out(picture, row)).image for row in rows[start : start + CROPS]]
            logits.append(self._run(pad_collate(images, multiple)))
        return torch.cat(logits)

    def _run(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self._on_device(images))
        return logits

    def _on_device(self, images: Tensor) -> Tensor:
        prepared: Tensor = self.preprocess(images.to(self.preprocess.scale.device))
        return prepared.contiguous(memory_format=torch.channels_last)

    def _together(self, picture: UInt8Array, grid: WindowGrid, size: Size, cells: Cells) -> Tensor:
        """The picture, resized so that each window gets the size of the network's input, goes through in strips."""
        zoom = [own / side for own, side in zip(size, grid.window, strict=True)]
        steps = [round(step * z / cell) for step, z, cell in zip(grid.step, zoom, cells.stride, strict=True)]
        counts = [
            n + (own - usual) // cell
            for n, own, usual, cell in zip(cells.count, size, self.image_size, cells.stride, strict=True)
        ]
        down, across = (step * cell for step, cell in zip(steps, cells.stride, strict=True))
        width = (grid.count[1] - 1) * across + size[1]
        most = max((CANVAS // width - size[0]) // down + 1, 1)
        logits = []
        for row in range(0, grid.count[0], most):
            rows = min(most, grid.count[0] - row)
            top = grid.origin[0] + row * grid.step[0]
            frame = scaling(zoom[1], zoom[0]) @ translation(-grid.origin[1], -top)
            canvas = warp_image(picture, frame, ((rows - 1) * down + size[0], width))
            images = torch.from_numpy(np.ascontiguousarray(canvas.transpose(2, 0, 1)))[None]
            logits.append(
                window_logits(self.network, self._on_device(images), (counts[0], counts[1]), (steps[0], steps[1]))
            )
        return torch.cat(logits)
