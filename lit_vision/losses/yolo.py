"""The training loss of YOLO v3, whole batches at once."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from lit_vision.losses.assignment import Assignment, Slots, assign, ignored_boxes, join_truths
from lit_vision.ops.boxes import xyxy_to_cxcywh
from lit_vision.ops.grid import Grid, decode, flatten_outputs, make_grid

BoxLoss = Literal["mse", "giou", "ciou"]
Law = Literal["darknet", "dense"]
Reduction = Literal["image", "positives"]

LAWS: dict[Law, tuple[Assignment, BoxLoss, float]] = {
    "darknet": ("best", "mse", 1.0),
    "dense": ("threshold", "ciou", 2.0),
}


class YOLOLossTerms(NamedTuple):
    """Scalars: total is what to minimise, the others its parts (gains applied)."""

    total: Tensor
    box: Tensor
    objectness: Tensor
    classes: Tensor


class YOLOLoss(nn.Module):
    """Box, objectness and class terms of YOLO v3.

    Law "darknet" is the Darknet program's to the letter (its deltas are minus the gradients of this loss,
    https://github.com/pjreddie/darknet, `yolo_layer.c`), summed over an image's cells:

    - An object belongs to the cell that holds its centre and to the anchor, among those of all scales, with the best
      IoU of width and height. Where two objects want one slot the later one sets the box; classes add up.
    - Objectness: cross-entropy to 1 at those slots, to 0 elsewhere, but for boxes that overlap some object by more
      than `ignore_threshold`: they have no term.
    - Box, weighted by 2 - w * h (of the picture): cross-entropy of sigmoid(tx), sigmoid(ty) to the place in the cell,
      and half the squared error of tw, th. (With a scale_x_y other than 1: see `_darknet_box`.)
    - Classes: cross-entropy, each class for itself, at those slots.

    Law "dense", the default, learns from fewer pictures in fewer steps: every anchor whose IoU of width and height
    with the object is above `assignment_threshold` is trained, beside the best (YOLOv4, Bochkovskiy et al. 2020,
    section 3.4, "multiple anchors for a single ground truth"), and the box term is the complete IoU loss (Zheng et
    al. 2020, arXiv:1911.08287) with gain 2.

    Crowd regions are neither objects nor background: boxes that lie in one by more than `ignore_threshold` have no
    objectness term.

    Args:
        law: sets the next three where they are not given.
        assignment: "best" anchor alone, or all above a "threshold" too.
        box_loss: "mse" is Darknet's box term; "giou", "ciou" see torchvision.ops.
        box_gain: factor on the box term.
        objectness_gain: factor on the objectness term.
        class_gain: factor on the class term.
        ignore_threshold: see above.
        assignment_threshold: see above.
        reduction: "image" divides the sums by the number of images, so that an image counts the same in any batch;
            "positives" by the number of trained slots, at least 1.

    Shape:
        outputs: S tensors (B, A * (5 + C), H / stride, W / stride), coarsest first; see `lit_vision.networks.yolo`.
        boxes, labels, crowd: B tensors each, (N, 4) xyxy in network pixels, (N,) int64, (N,) bool.
    """

    def __init__(
        self,
        law: Law = "dense",
        assignment: Assignment | None = None,
        box_loss: BoxLoss | None = None,
        box_gain: float | None = None,
        objectness_gain: float = 1.0,
        class_gain: float = 1.0,
        ignore_threshold: float = 0.7,
        assignment_threshold: float = 0.4,
        reduction: Reduction = "image",
    ) -> None:
        super().__init__()
        by_law = LAWS[law]
        self.assignment: Assignment = assignment or by_law[0]
        self.box_loss: BoxLoss = box_loss or by_law[1]
        self.gains = (by_law[2] if box_gain is None else box_gain, objectness_gain, class_gain)
        self.ignore_threshold = ignore_threshold
        self.assignment_threshold = assignment_threshold
        self.reduction: Reduction = reduction

    def forward(
        self,
        outputs: Sequence[Tensor],
        anchors: Tensor,
        strides: Sequence[int],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        crowd: Sequence[Tensor] | None = None,
        scale_x_y: Sequence[float] | None = None,
    ) -> YOLOLossTerms:
        """The terms, reduced; anchors (S, A, 2), strides and scale_x_y belong to the outputs, scale by scale."""
        crowd = crowd or [torch.zeros_like(label, dtype=torch.bool) for label in labels]
        sizes = [(output.shape[2], output.shape[3]) for output in outputs]
        flat, grid = flatten_outputs(outputs, anchors.shape[1]), make_grid(sizes, anchors, strides, scale_x_y)
        threshold = self.assignment_threshold if self.assignment == "threshold" else None
        height, width = sizes[0][0] * strides[0], sizes[0][1] * strides[0]
        truths = join_truths(boxes, labels, crowd, height, width)
        slots = assign(truths, flat.shape[-1] - 5, anchors, strides, sizes, threshold)
        ignored = ignored_boxes(decode(flat.detach(), grid), boxes, crowd, self.ignore_threshold)
        trained = flat[slots.image, slots.place]  # (P, 5 + C)
        terms = (
            self._box_term(trained, grid.at(slots.place), slots, height * width),
            _objectness_term(flat[..., 4], slots, ignored),
            F.binary_cross_entropy_with_logits(trained[:, 5:], slots.classes, reduction="sum"),
        )
        divisor = len(boxes) if self.reduction == "image" else max(len(slots.image), 1)
        box, objectness, classes = (gain * term / divisor for gain, term in zip(self.gains, terms, strict=True))
        return YOLOLossTerms(box + objectness + classes, box, objectness, classes)

    def _box_term(self, trained: Tensor, grid: Grid, slots: Slots, picture: int) -> Tensor:
        """Sum over the slots; small objects weigh up to twice as much as one that fills the picture."""
        target = xyxy_to_cxcywh(slots.boxes)
        weight = 2 - target[:, 2:].prod(dim=1) / picture
        if self.box_loss == "mse":
            return (weight * _darknet_box(trained, grid, target)).sum()
        measure = complete_box_iou_loss if self.box_loss == "ciou" else generalized_box_iou_loss
        losses: Tensor = measure(decode(trained, grid), slots.boxes, reduction="none")
        return (weight * losses).sum()


def _darknet_box(trained: Tensor, grid: Grid, target: Tensor) -> Tensor:
    """(P,) cross-entropy of the place in the cell and half the squared error of the log sizes.

    Darknet's delta of tx is the place less s * sigmoid(tx) - (s - 1) / 2, s being scale_x_y, without the factor s of
    the chain rule (AlexeyAB, `delta_yolo_box`). It is minus the gradient of s times the cross-entropy of sigmoid(tx) to
    the value at which the centre lies in its place.
    """
    reach = grid.scale_x_y[:, None]
    place = ((target[:, :2] - grid.corners) / grid.strides[:, None] + (reach - 1) / 2) / reach
    log_size = (target[:, 2:] / grid.anchors).log()
    centre = reach * F.binary_cross_entropy_with_logits(trained[:, :2], place, reduction="none")
    size = 0.5 * (trained[:, 2:4] - log_size).square()
    return (centre + size).sum(dim=1)


def _objectness_term(logits: Tensor, slots: Slots, ignored: Tensor) -> Tensor:
    """Sum over all boxes (B, N) that are trained to be objects or not ignored."""
    target = torch.zeros_like(logits)
    target[slots.image, slots.place] = 1.0
    counted = (target > 0) | ~ignored
    return F.binary_cross_entropy_with_logits(logits, target, weight=counted.float(), reduction="sum")
