"""From the network's frame back to the original picture's."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_vision.data.geometry import Matrix, Size, visible_rectangle
from lit_vision.data.warp import warp_labels, warp_scores
from lit_vision.types import IGNORE_INDEX, FloatArray


def restore_boxes(boxes: Tensor, frame: Tensor, size: Tensor) -> Tensor:
    """Boxes in pixels of the original picture, clipped to it.

    Args:
        boxes: (N, 4) float xyxy, pixels of the network input.
        frame: (2, 3), original to network, see types.py.
        size: (2,) height and width of the original.

    Returns:
        (N, 4) xyxy; for turned frames the upright boxes round the four corners.
    """
    last = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64, device=frame.device)
    back = torch.linalg.inv(torch.cat([frame.double(), last])).to(boxes.device)
    corners = boxes.double()[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) @ back[:2, :2].T + back[:2, 2]
    restored = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    edges = size.to(boxes.device)[[1, 0, 1, 0]].double()
    return restored.clamp(min=torch.zeros_like(edges), max=edges).to(boxes.dtype)


def restore_mask(mask: npt.NDArray[Any], frame: FloatArray, size: Size, fill: int = IGNORE_INDEX) -> npt.NDArray[Any]:
    """Class mask or label map (h, w) of the original picture from one (H, W) of the network input: nearest pixel.

    Args:
        mask: uint8 or int32; other integer types travel as int32.
        frame: (2, 3), original to network.
        size: height, width of the original.
        fill: for pixels that the network did not see (fit "crop"); give 0 for label maps.
    """
    suits = mask.dtype in (np.uint8, np.int32)
    numbers = np.ascontiguousarray(mask if suits else mask.astype(np.int32))
    return warp_labels(numbers, _inverse(frame), (int(size[0]), int(size[1])), fill).astype(mask.dtype)


def restore_scores(scores: FloatArray, frame: FloatArray, size: Size) -> FloatArray:
    """Maps (K, h, w) float32 of the original picture from (K, H, W) of the network input, bilinear.

    The outermost value goes on where the network saw nothing, see `seen_part`.
    """
    return warp_scores(np.asarray(scores, np.float32), _inverse(frame), (int(size[0]), int(size[1])))


def seen_part(frame: FloatArray, size: Size, seen: Size) -> tuple[slice, slice]:
    """Rows and columns of the original that lie in the network's input; `fit: crop` leaves some out.

    Args:
        frame: (2, 3), original to network.
        size: height, width of the original.
        seen: height, width of the input.
    """
    return visible_rectangle(_inverse(frame), (int(seen[0]), int(seen[1])), (int(size[0]), int(size[1])))


def _inverse(frame: FloatArray) -> Matrix:
    return np.asarray(np.linalg.inv(np.vstack([np.asarray(frame, np.float64), [0, 0, 1]])))
