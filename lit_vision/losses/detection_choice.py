"""The loss of a detector: the user's own if it fits the head, else the head's."""

from typing import Any

from lit_vision.errors import UserError
from lit_vision.losses.anchor_free import AnchorFreeLoss
from lit_vision.losses.detection import DetectionLoss
from lit_vision.losses.yolo import YOLOLoss
from lit_vision.networks.yolo_network import HeadKind

DEFAULTS: dict[HeadKind, type[DetectionLoss]] = {"v3": YOLOLoss, "anchor_free": AnchorFreeLoss}


def choose_loss(loss: DetectionLoss | None, head: HeadKind, network: Any) -> DetectionLoss:
    """`loss`, or by default that of the head.

    Raises:
        UserError: the loss is for another kind of head, or cannot train this network.
    """
    chosen = loss if loss is not None else DEFAULTS[head]()
    if chosen.head != head:
        raise UserError(
            f"loss {type(chosen).__name__} is for `head: {chosen.head}`, but the model has `head: {head}`: leave the "
            f"loss out, or take {DEFAULTS[head].__name__}"
        )
    chosen.check(network)
    return chosen
