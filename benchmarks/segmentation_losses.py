"""What a loss of pixels costs: forward and backward of ours against segmentation_models_pytorch's.

    python benchmarks/segmentation_losses.py [--threads 1] [--rounds 7]

CPU milliseconds, medians of rounds in which all take turns; both give the same value and gradient (tests/losses).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from budget import table
from segmentation_models_pytorch import losses as smp_losses
from torch import Tensor, nn
from torch.nn import functional as F

from lit_vision.losses.border import BorderLoss
from lit_vision.losses.segmentation import DiceLoss, TverskyLoss
from lit_vision.types import IGNORE_INDEX

SHAPES = ((8, 11, 256, 256), (2, 19, 512, 1024), (8, 1, 256, 256))


class PlainBorderLoss(nn.Module):
    """BorderLoss with the Dice of segmentation_models_pytorch."""

    def __init__(self) -> None:
        super().__init__()
        self.cross_entropy = BorderLoss(dice=0.0)
        self.dice = smp_losses.DiceLoss("binary", ignore_index=IGNORE_INDEX)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        loss: Tensor = self.cross_entropy(logits, mask) + self.dice(logits, mask)
        return loss


def ways(classes: int) -> dict[str, tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]]:
    """Name -> ours and theirs."""
    if classes == 1:
        return {"BorderLoss": (BorderLoss(), PlainBorderLoss())}
    told = {"mode": "multiclass", "ignore_index": IGNORE_INDEX}
    return {
        "DiceLoss": (DiceLoss(), smp_losses.DiceLoss(**told)),
        "TverskyLoss": (TverskyLoss(0.3, 0.7), smp_losses.TverskyLoss(alpha=0.3, beta=0.7, **told)),
    }


def milliseconds(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, mask: Tensor) -> float:
    logits = logits.detach().requires_grad_()
    start = time.process_time()
    loss(logits, mask).backward()
    return 1000 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for shape in SHAPES:
        logits, mask = torch.randn(shape), torch.randint(max(shape[1], 2), (shape[0], *shape[2:]))
        mask[:, : shape[2] // 16] = IGNORE_INDEX
        plain = F.binary_cross_entropy_with_logits if shape[1] == 1 else F.cross_entropy
        for name, (ours, theirs) in ways(shape[1]).items():
            found: dict[str, list[float]] = {"ours": [], "theirs": [], "plain": []}
            for _ in range(options.rounds):
                found["ours"].append(milliseconds(ours, logits, mask))
                found["theirs"].append(milliseconds(theirs, logits, mask))
                target = mask.clamp_max(shape[1] - 1)
                target = target[:, None].float() if shape[1] == 1 else target
                found["plain"].append(milliseconds(plain, logits, target))
            medians = {side: statistics.median(values) for side, values in found.items()}
            cells = [f"{medians[side]:.1f}" for side in ("ours", "theirs", "plain")]
            rows.append([name, " x ".join(map(str, shape)), *cells, f"x{medians['theirs'] / medians['ours']:.1f}"])
    header = ["loss", "logits", "ours, ms", "segmentation_models_pytorch, ms", "torch's cross entropy, ms", "ratio"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
