"""The training loss of anchor-free detectors, whole batches at once."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from lit_vision.errors import UserError
from lit_vision.losses.assignment import gather_truths, ignored_boxes
from lit_vision.losses.class_terms import sparse_class_term
from lit_vision.losses.detection import DetectionLoss
from lit_vision.losses.point_assignment import Law, PointAssignment, PointTargets, assign_points
from lit_vision.networks.yolo_network import PointNetwork
from lit_vision.ops.boxes import with_sides
from lit_vision.ops.points import Points, decode_points, encode_points, flatten_points, make_points

Classification = Literal["bce", "varifocal"]

VARIFOCAL_GAMMA = 2.0


class AnchorFreeLossTerms(NamedTuple):
    """Scalars: total is what to minimise, the others its parts (gains applied)."""

    total: Tensor
    box: Tensor
    distribution: Tensor
    classes: Tensor


class AnchorFreeLoss(DetectionLoss):
    """Box, distribution and class terms for `head: anchor_free`.

    Each object chooses points by how well they find it now, in class and box together, and these are trained to that
    quality as their class probability; all others to no class. The box term is the complete IoU loss (Zheng et al.
    2020, arXiv:1911.08287), weighted by the quality; the distribution term (Li et al. 2020, arXiv:2006.04388, section
    3.2, "distribution focal loss") is the cross-entropy of each side's distribution to the two whole distances about
    the true one. All terms are divided by the sum of the batch's qualities (of all processes), at least 1.

    Crowd regions are neither objects nor background: points whose boxes lie in one by more than `ignore_threshold`
    have no class term.

    Args:
        assignment: "task_aligned" or "simota", see `losses.point_assignment.Law`.
        top_k: points of an object (task_aligned), or IoUs that are summed to their number (simota).
        alpha: exponent of the class probability in the alignment, 1 by default; task_aligned only.
        beta: exponent of the IoU in the alignment, 6 by default; task_aligned only.
        window: cells about the centre, along each side, that an object looks at on each scale; odd.
        box_loss: "ciou" or "giou".
        classification: "bce", or "varifocal" (Zhang et al. 2020, arXiv:2008.13367), which plays down easy background.
        box_gain: factor on the box term.
        distribution_gain: factor on the distribution term, which a head with `reg_max: 0` has not.
        class_gain: factor on the class term.
        ignore_threshold: see above.

    Shape:
        outputs: S tensors (B, 4 * (reg_max + 1) + C, H / stride, W / stride), coarsest first.
        boxes, labels, crowd: B tensors each, (N, 4) xyxy in network pixels, (N,) int64, (N,) bool.
    """

    head = "anchor_free"

    def __init__(
        self,
        assignment: PointAssignment = "task_aligned",
        top_k: int = 10,
        alpha: float | None = None,
        beta: float | None = None,
        window: int = 5,
        box_loss: Literal["ciou", "giou"] = "ciou",
        classification: Classification = "bce",
        box_gain: float = 5.0,
        distribution_gain: float = 1.0,
        class_gain: float = 1.0,
        ignore_threshold: float = 0.7,
    ) -> None:
        super().__init__()
        self.check_range(0, 1, ignore_threshold=ignore_threshold)
        self.check_range(0, box_gain=box_gain, distribution_gain=distribution_gain, class_gain=class_gain)
        self.check_range(0, alpha=alpha, beta=beta)
        if top_k < 1 or window < 1 or window % 2 == 0:
            raise UserError(f"AnchorFreeLoss: top_k is {top_k} and window {window}; give 1 or more, the window odd")
        if assignment == "simota" and (alpha is not None or beta is not None):
            raise UserError(
                "AnchorFreeLoss: alpha and beta are of assignment: task_aligned; leave them out with simota"
            )
        self.law = Law(assignment, top_k, 1.0 if alpha is None else alpha, 6.0 if beta is None else beta, window)
        self.box_loss = complete_box_iou_loss if box_loss == "ciou" else generalized_box_iou_loss
        self.gamma = VARIFOCAL_GAMMA if classification == "varifocal" else 0.0
        self.gains = (box_gain, distribution_gain, class_gain)
        self.ignore_threshold = ignore_threshold

    def forward(
        self,
        outputs: Sequence[Tensor],
        network: PointNetwork,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        crowd: Sequence[Tensor] | None = None,
    ) -> AnchorFreeLossTerms:
        """The terms."""
        crowd = crowd or [torch.zeros_like(label, dtype=torch.bool) for label in labels]
        sizes = [(output.shape[2], output.shape[3]) for output in outputs]
        flat, reg_max = flatten_points(outputs), network.reg_max
        sides = 4 * (reg_max + 1)
        raw, logits = torch.split(flat, [sides, flat.shape[-1] - sides], dim=-1)
        points = make_points(sizes, network.strides, flat.device)
        height, width = sizes[0][0] * network.strides[0], sizes[0][1] * network.strides[0]
        truths, valid = gather_truths(boxes, labels, crowd, height, width)
        with torch.no_grad():
            predicted = decode_points(raw, points, reg_max)
            costly = self.law.kind == "simota"
            negative = F.softplus(logits).sum(dim=-1) if costly else logits.new_zeros(logits.shape[:2])
        targets = assign_points(truths, valid, predicted, logits.detach(), negative, network.strides, sizes, self.law)
        counted = torch.ones_like(negative)
        if bool(torch.cat(list(crowd)).any()):
            only = [own[flags] for own, flags in zip(boxes, crowd, strict=True)]
            flags = [torch.ones(len(own), dtype=torch.bool, device=own.device) for own in only]
            counted = (~ignored_boxes(predicted, only, flags, self.ignore_threshold)).float()
        box, distribution = self._box_terms(raw, points, truths.boxes, targets, reg_max)
        where = (targets.image, targets.place, truths.labels[targets.truth])
        classes = sparse_class_term(logits, counted, *where, targets.quality, targets.chosen, self.gamma)
        divisor = self.shared(targets.quality.sum())
        terms = zip(self.gains, (box, distribution, classes), strict=True)
        box, distribution, classes = (gain * term / divisor for gain, term in terms)
        return AnchorFreeLossTerms(box + distribution + classes, box, distribution, classes)

    def _box_terms(
        self, raw: Tensor, points: Points, boxes: Tensor, targets: PointTargets, reg_max: int
    ) -> tuple[Tensor, Tensor]:
        """Sums over the pairs, each weighted by its quality."""
        own = raw[targets.image, targets.place]  # (Q, 4 * (reg_max + 1))
        at, wanted = points.at(targets.place), boxes[targets.truth]
        found = with_sides(decode_points(own, at, reg_max))
        box: Tensor = (targets.quality * self.box_loss(found, wanted, reduction="none")).sum()
        if reg_max == 0:
            return box, torch.zeros_like(box)
        spread = distribution_loss(own, encode_points(wanted, at), reg_max)
        return box, (targets.quality * spread).sum()


def distribution_loss(raw: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """(Q,) mean over the four sides of the cross-entropy to the two whole distances about each target.

    Args:
        raw: (Q, 4 * (reg_max + 1)) logits of the distances 0, ..., reg_max.
        target: (Q, 4) distances in cells; brought into 0 to reg_max.
        reg_max: largest distance.
    """
    log_chances = raw.reshape(-1, 4, reg_max + 1).log_softmax(dim=-1)
    target = target.clamp(0, reg_max)
    lower = target.floor().clamp(max=reg_max - 1)
    upper_share = target - lower
    pair = torch.stack([lower, lower + 1], dim=-1).long()
    share = torch.stack([1 - upper_share, upper_share], dim=-1)
    cross_entropy: Tensor = -(log_chances.gather(-1, pair) * share).sum(dim=-1)  # (Q, 4)
    return cross_entropy.mean(dim=-1)
