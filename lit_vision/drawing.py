"""Draws what a batch says is true and what a task predicted, whatever the task: the keys tell."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lit_vision.data.geometry import visible_rectangle
from lit_vision.plotting import draw_boxes, draw_instances, draw_label, draw_mask
from lit_vision.types import IGNORE_INDEX, FloatArray, UInt8Array

RIGHT, WRONG = (0, 120, 0), (190, 0, 0)
Batch = Mapping[str, Any]
Prediction = Mapping[str, Tensor]


def picture_of(batch: Batch, i: int) -> UInt8Array:
    """(H, W, C) uint8: picture i as the network sees it."""
    return np.ascontiguousarray(batch["image"][i].cpu().numpy().transpose(1, 2, 0))


def shown(batch: Batch, i: int) -> tuple[slice, slice]:
    """Rows and columns of picture i of a validation or test batch, without what pads it to the largest of the batch."""
    height, width = batch["image"][i].shape[-2:]
    if "frame" not in batch or "size" not in batch:
        return slice(height), slice(width)
    size = tuple(batch["size"][i].tolist())
    rows, columns = visible_rectangle(_array(batch["frame"][i]), size, (height, width))
    return slice(max(rows.stop, 1)), slice(max(columns.stop, 1))  # from the corner: boxes stay where they are


def alone(batch: Batch, i: int, prediction: Prediction) -> tuple[Batch, Prediction]:
    """Picture i of a validation or test batch as a batch of its own, and its prediction, both as far as `shown`."""
    part = (..., *shown(batch, i))
    single = {key: value[i : i + 1] for key, value in batch.items() if key != "image"}
    single["image"] = batch["image"][i][part][None]  # of features that stand for pictures it is read from the file
    single |= {key: single[key][part] for key in ("mask", "border", "instances") if key in single}
    return single, {key: value[part] if key in ("mask", "instances") else value for key, value in prediction.items()}


def draw_truth(batch: Batch, i: int, class_names: Sequence[str]) -> UInt8Array:
    """Picture i of a batch with its own labels, RGB.

    Args:
        batch: of one of the kinds in types.py.
        i: position in the batch.
        class_names: K names.
    """
    image = picture_of(batch, i)
    if "instances" in batch:
        return draw_instances(image, batch["instances"][i].cpu().numpy(), _array(batch["labels"][i]), class_names)
    if "boxes" in batch:
        return draw_boxes(image, _array(batch["boxes"][i]), _array(batch["labels"][i]), class_names)
    if "mask" in batch:
        return draw_mask(image, _array(batch["mask"][i]), class_names)
    if "label" in batch:
        return draw_label(image, true_names(batch, i, class_names))
    return draw_label(image, [])


def true_names(batch: Batch, i: int, class_names: Sequence[str]) -> list[str]:
    """Names of the classes of picture i of a classification batch; several or none where pictures have many."""
    label = _array(batch["label"][i])
    return (
        [class_names[int(label)]] if label.ndim == 0 else [class_names[k] for k in np.flatnonzero(label > 0.5).tolist()]
    )


def draw_guess(batch: Batch, i: int, prediction: Prediction, class_names: Sequence[str]) -> UInt8Array:
    """Picture i of a validation or test batch with what the task predicted for it, RGB.

    Args:
        batch: of one of the kinds in types.py.
        i: position in the batch.
        prediction: as `_evaluate` gives it: boxes in the original's pixels, masks in the network's.
        class_names: K names.
    """
    image = picture_of(batch, i)
    if "boxes" in prediction:
        boxes = to_network(_array(prediction["boxes"]), _array(batch["frame"][i]))
        return draw_boxes(image, boxes, _array(prediction["labels"]), class_names, _array(prediction["scores"]))
    if "probabilities" in prediction and "label" in batch:
        truth = true_names(batch, i, class_names)
        lines = ranked(_array(prediction["probabilities"]), class_names)
        right = set(truth) == {name for name, _ in lines[: len(truth)]}
        return draw_label(image, [f"{name} {share:.2f}" for name, share in lines], RIGHT if right else WRONG)
    if "mask" in prediction and "instances" not in prediction:
        mask = _array(prediction["mask"])
        seen = visible_rectangle(_array(batch["frame"][i]), tuple(batch["size"][i].tolist()), mask.shape)
        within = np.full_like(mask, IGNORE_INDEX)  # what is predicted of the padding is nobody's concern
        within[seen] = mask[seen]
        return draw_mask(image, within, class_names)
    return draw_prediction(image, prediction, class_names)


def draw_prediction(image: UInt8Array, prediction: Prediction, class_names: Sequence[str]) -> UInt8Array:
    """A picture with a prediction for people, all in the original's pixels, RGB.

    Args:
        image: (H, W, C) uint8, the original picture.
        prediction: one of the kinds in types.py.
        class_names: K names.
    """
    if "probabilities" in prediction:
        lines = ranked(_array(prediction["probabilities"]), class_names)
        return draw_label(image, [f"{name} {share:.2f}" for name, share in lines])
    if "instances" in prediction:
        labels, scores = _array(prediction["labels"]), _array(prediction["scores"])
        return draw_instances(image, _array(prediction["instances"]), labels, class_names, scores)
    if "boxes" in prediction:
        labels, scores = _array(prediction["labels"]), _array(prediction["scores"])
        return draw_boxes(image, _array(prediction["boxes"]), labels, class_names, scores)
    return draw_mask(image, _array(prediction["mask"]), class_names)


def ranked(probabilities: FloatArray, class_names: Sequence[str], most: int = 3) -> list[tuple[str, float]]:
    """The most probable classes and their probabilities, falling; the second and third only from 0.05."""
    order = np.argsort(-probabilities, kind="stable")[:most].tolist()
    kept = [k for rank, k in enumerate(order) if rank == 0 or probabilities[k] >= 0.05]
    return [(class_names[k], float(probabilities[k])) for k in kept]


def to_network(boxes: FloatArray, frame: FloatArray) -> FloatArray:
    """Boxes (N, 4) of the original's pixels in the network's; frames of evaluation scale and shift only."""
    scale, shift = np.tile(frame[[0, 1], [0, 1]], 2), np.tile(frame[:, 2], 2)
    return np.asarray(boxes * scale + shift, np.float32)


def _array(values: Tensor) -> Any:
    return values.detach().cpu().numpy()
