"""What every detector's loss has in common: how it is called, what it gives, which heads it is for."""

from collections.abc import Sequence
from math import inf
from typing import Any, ClassVar

from torch import Tensor, distributed, nn

from lit_vision.errors import UserError
from lit_vision.networks.yolo_network import HeadKind


class DetectionLoss(nn.Module):
    """Raw outputs and objects to a named tuple of scalars, whose first, `total`, is minimised; the others are logged.

    `forward(outputs, network, boxes, labels, crowd)` gets S raw outputs, coarsest first, the network that gave them
    (for its strides, anchors and the like), and B tensors each of boxes (N, 4) float32 xyxy in network pixels, labels
    (N,) int64 and crowd (N,) bool.

    Attributes:
        head: the kind of head it can train.
    """

    head: ClassVar[HeadKind]

    def check_range(self, least: float, most: float = inf, **settings: float | None) -> None:
        """Raises a UserError for the first setting that is not within `least` and `most`."""
        for name, value in settings.items():
            if value is not None and not least <= value <= most:
                wanted = f"at least {least}" if most == inf else f"{least} to {most}"
                raise UserError(f"{type(self).__name__}: {name} is {value}; give {wanted}")

    def shared(self, divisor: Tensor) -> Tensor:
        """A divisor that counts what the images of this process hold, at least 1, so that processes agree on it.

        In a training on several processes it is the mean of theirs: the mean of their gradients is then that of one
        process with all their images. Each by its own would let the few objects of one process weigh as much as the
        many of another. In evaluation it stays this process's: another one may have no batch, and never answer.
        """
        if not (self.training and distributed.is_available() and distributed.is_initialized()):
            return divisor.clamp(min=1)
        total = divisor.detach().clone()
        distributed.all_reduce(total)
        return total.clamp(min=1) / distributed.get_world_size()

    def check(self, network: Any) -> None:
        """Raises a UserError if the network's head cannot be trained with these settings."""

    def forward(
        self,
        outputs: Sequence[Tensor],
        network: Any,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        crowd: Sequence[Tensor] | None = None,
    ) -> Any:
        """The terms, see above."""
        raise NotImplementedError
