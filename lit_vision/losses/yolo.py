"""The training loss of YOLO v3, whole batches at once."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from lit_vision.errors import UserError
from lit_vision.losses.assignment import Assignment, Matching, Slots, assign, ignored_boxes, join_truths
from lit_vision.losses.detection import DetectionLoss
from lit_vision.networks.darknet import DarknetYOLO
from lit_vision.networks.yolo_network import AnchorNetwork
from lit_vision.ops.boxes import elementwise_iou, with_sides, xyxy_to_cxcywh
from lit_vision.ops.grid import Grid, decode, flatten_outputs

BoxLoss = Literal["mse", "giou", "ciou"]
ObjectnessTarget = Literal["one", "iou"]
Law = Literal["darknet", "dense", "modern"]
Reduction = Literal["image", "positives"]


class LawSettings(NamedTuple):
    """What a law sets; see `YOLOLoss`."""

    assignment: Assignment
    box_loss: BoxLoss
    box_gain: float
    neighbours: bool
    objectness_target: ObjectnessTarget


LAWS: dict[Law, LawSettings] = {
    "darknet": LawSettings("best", "mse", 1.0, False, "one"),
    "dense": LawSettings("threshold", "ciou", 2.0, False, "one"),
    "modern": LawSettings("ratio", "ciou", 2.0, True, "iou"),
}


class YOLOLossTerms(NamedTuple):
    """Scalars: total is what to minimise, the others its parts (gains applied)."""

    total: Tensor
    box: Tensor
    objectness: Tensor
    classes: Tensor


class YOLOLoss(DetectionLoss):
    """Box, objectness and class terms of YOLO v3.

    Law "darknet" is the Darknet program's to the letter (its deltas are minus the gradients of this loss,
    https://github.com/pjreddie/darknet, `yolo_layer.c`), summed over an image's cells:

    - An object belongs to the cell that holds its centre and to the anchor, among all of the .cfg, with the best IoU of
      width and height: to none where no mask names that one, to several heads where their masks share it, or where each
      [yolo] has anchors of its own. Where two objects want one slot the later one sets the box; classes add up.
    - Objectness: cross-entropy to 1 at those slots, to 0 elsewhere, but for boxes that overlap some object by more
      than `ignore_threshold`: they have no term.
    - Box, weighted by 2 - w * h (of the picture): cross-entropy of sigmoid(tx), sigmoid(ty) to the place in the cell,
      and half the squared error of tw, th. (With a scale_x_y other than 1: see `_darknet_box`.)
    - Classes: cross-entropy, each class for itself, at those slots.

    Law "dense", the default, learns from fewer pictures in fewer steps: every anchor whose IoU of width and height
    with the object is above `assignment_threshold` is trained, beside the best (YOLOv4, Bochkovskiy et al. 2020,
    section 3.4, "multiple anchors for a single ground truth"), and the box term is the complete IoU loss (Zheng et
    al. 2020, arXiv:1911.08287) with gain 2.

    Law "modern" has more positives for each object, and an objectness that says how well the box fits: every anchor
    whose width and height are within a factor of `max_ratio` is trained, in the cell of the centre and in the two
    beside it whose middles are nearest (which needs a head with `scale_x_y: 2`, YOLOv4's grid sensitivity), and
    objectness is trained to the IoU of the predicted box with the object (as the IoU branch of PP-YOLO, Long et al.
    2020, arXiv:2007.12099, section 3.2, but in the objectness itself).

    Crowd regions are neither objects nor background: boxes that lie in one by more than `ignore_threshold` have no
    objectness term.

    Args:
        law: sets the next five where they are not given.
        assignment: "best" anchor alone, or all above a "threshold" of IoU too, or all within a "ratio" of size.
        box_loss: "mse" is Darknet's box term; "giou", "ciou" see torchvision.ops.
        box_gain: factor on the box term.
        neighbours: whether neighbouring cells are trained, too.
        objectness_target: "one", or the "iou" of the predicted box with the object.
        objectness_gain: factor on the objectness term.
        class_gain: factor on the class term.
        ignore_threshold: see above; None: the network's, which is 0.7 where no .cfg says otherwise.
        assignment_threshold: see above; 0.4 by default, of assignment "threshold" only.
        max_ratio: see above; 4 by default, of assignment "ratio" only.
        focal_gamma: objectness terms are weighted by |target - objectness| ** focal_gamma (generalized focal loss, Li
            et al. 2020, arXiv:2006.04388); 0: all alike.
        label_smoothing: classes are trained to 1 - label_smoothing / 2 and label_smoothing / 2.
        reduction: "image" divides the sums by the number of images, so that an image counts the same in any batch;
            "positives" by the number of trained slots (of all processes), at least 1.

    Shape:
        outputs: S tensors (B, A * (5 + C), H / stride, W / stride), coarsest first; see `lit_vision.networks.yolo`.
        boxes, labels, crowd: B tensors each, (N, 4) xyxy in network pixels, (N,) int64, (N,) bool.
    """

    head = "v3"

    def __init__(
        self,
        law: Law = "dense",
        assignment: Assignment | None = None,
        box_loss: BoxLoss | None = None,
        box_gain: float | None = None,
        neighbours: bool | None = None,
        objectness_target: ObjectnessTarget | None = None,
        objectness_gain: float = 1.0,
        class_gain: float = 1.0,
        ignore_threshold: float | None = None,
        assignment_threshold: float | None = None,
        max_ratio: float | None = None,
        focal_gamma: float = 0.0,
        label_smoothing: float = 0.0,
        reduction: Reduction = "image",
    ) -> None:
        super().__init__()
        shares = {"ignore_threshold": ignore_threshold, "assignment_threshold": assignment_threshold}
        self.check_range(0, 1, **shares, label_smoothing=label_smoothing)
        self.check_range(0, box_gain=box_gain, objectness_gain=objectness_gain, class_gain=class_gain)
        self.check_range(0, focal_gamma=focal_gamma)
        self.check_range(1, max_ratio=max_ratio)
        by_law = LAWS[law]
        self.assignment: Assignment = assignment or by_law.assignment
        self.box_loss: BoxLoss = box_loss or by_law.box_loss
        self.objectness_target: ObjectnessTarget = objectness_target or by_law.objectness_target
        self.gains = (by_law.box_gain if box_gain is None else box_gain, objectness_gain, class_gain)
        self.matching = Matching(
            _only_with("threshold", self.assignment, "assignment_threshold", assignment_threshold, 0.4),
            _only_with("ratio", self.assignment, "max_ratio", max_ratio, 4.0),
            by_law.neighbours if neighbours is None else neighbours,
        )
        self.ignore_threshold, self.focal_gamma, self.label_smoothing = ignore_threshold, focal_gamma, label_smoothing
        self.reduction: Reduction = reduction

    def check(self, network: Any) -> None:
        """See `DetectionLoss`."""
        if self.matching.neighbours and min(network.scale_x_y) < 2:
            cfg = "scale_x_y=2.0 in the [yolo] sections of the .cfg (of a built-in architecture: of a copy of its .cfg)"
            mend = cfg if isinstance(network, DarknetYOLO) else "model.head_args: {scale_x_y: 2.0}"
            raise UserError(
                "YOLOLoss with law: modern or neighbours: true trains cells whose boxes do not reach the centre of the "
                f"object: set {mend}, or neighbours: false"
            )

    def forward(
        self,
        outputs: Sequence[Tensor],
        network: AnchorNetwork,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        crowd: Sequence[Tensor] | None = None,
    ) -> YOLOLossTerms:
        """The terms, reduced."""
        crowd = crowd or [torch.zeros_like(label, dtype=torch.bool) for label in labels]
        sizes = [(output.shape[2], output.shape[3]) for output in outputs]
        anchors, strides = network.anchors, network.strides
        flat, grid = flatten_outputs(outputs, anchors.shape[1]), network.grid(outputs)
        height, width = sizes[0][0] * strides[0], sizes[0][1] * strides[0]
        truths = join_truths(boxes, labels, crowd, height, width)
        rivals = network.rivals if self.assignment == "best" else None
        slots = assign(truths, flat.shape[-1] - 5, anchors, strides, sizes, self.matching, rivals)
        own, published = self.ignore_threshold, network.ignore_thresholds
        threshold = _by_box(published, sizes, anchors) if own is None else own
        ignored = ignored_boxes(decode(flat.detach(), grid), boxes, crowd, threshold)
        trained, own_grid = flat[slots.image, slots.place], grid.at(slots.place)  # (P, 5 + C)
        target = self._objectness(trained, own_grid, slots)
        classes = slots.classes * (1 - self.label_smoothing) + self.label_smoothing / 2
        terms = (
            self._box_term(trained, own_grid, slots, height * width),
            _objectness_term(flat[..., 4], slots, target, ignored, self.focal_gamma),
            F.binary_cross_entropy_with_logits(trained[:, 5:], classes, reduction="sum"),
        )
        divisor: float | Tensor = len(boxes)
        if self.reduction == "positives":
            divisor = self.shared(flat.new_tensor(float(len(slots.image))))
        box, objectness, classes = (gain * term / divisor for gain, term in zip(self.gains, terms, strict=True))
        return YOLOLossTerms(box + objectness + classes, box, objectness, classes)

    @torch.no_grad()
    def _objectness(self, trained: Tensor, grid: Grid, slots: Slots) -> Tensor:
        """(P,) objectness wanted at the slots."""
        if self.objectness_target == "one":
            return torch.ones_like(trained[:, 4])
        return elementwise_iou(decode(trained, grid), slots.boxes)

    def _box_term(self, trained: Tensor, grid: Grid, slots: Slots, picture: int) -> Tensor:
        """Sum over the slots; small objects weigh up to twice as much as one that fills the picture."""
        target = xyxy_to_cxcywh(slots.boxes)
        weight = 2 - target[:, 2:].prod(dim=1) / picture
        if self.box_loss == "mse":
            return (weight * _darknet_box(trained, grid, target)).sum()
        measure = complete_box_iou_loss if self.box_loss == "ciou" else generalized_box_iou_loss
        losses: Tensor = measure(with_sides(decode(trained, grid)), slots.boxes, reduction="none")
        return (weight * losses).sum()


def _by_box(thresholds: Sequence[float], sizes: Sequence[tuple[int, int]], anchors: Tensor) -> float | Tensor:
    """The one threshold, or (N,) that of each box's scale where they differ."""
    if len(set(thresholds)) == 1:
        return thresholds[0]
    counts = [rows * columns * anchors.shape[1] for rows, columns in sizes]
    return torch.cat([anchors.new_full((n,), value) for n, value in zip(counts, thresholds, strict=True)])


def _only_with(
    wanted: Assignment, assignment: Assignment, name: str, value: float | None, default: float
) -> float | None:
    """A setting of one assignment, by default `default`; None with another."""
    if assignment == wanted:
        return default if value is None else value
    if value is not None:
        raise UserError(
            f"YOLOLoss: {name} is of assignment: {wanted}, but the assignment is {assignment}; leave it out"
        )
    return None


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


def _objectness_term(logits: Tensor, slots: Slots, wanted: Tensor, ignored: Tensor, focal_gamma: float) -> Tensor:
    """Sum over all boxes (B, N) that are trained to be objects or not ignored; `wanted` (P,) at the slots."""
    target = torch.zeros_like(logits)
    target[slots.image, slots.place] = wanted
    weight = (~ignored).to(logits.dtype)
    weight[slots.image, slots.place] = 1.0
    if focal_gamma:
        weight = weight * (target - logits.detach().sigmoid()).abs() ** focal_gamma
    return F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
