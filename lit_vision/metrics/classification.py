"""Metrics of whole pictures over a whole split, equal on one and on many processes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multilabel_average_precision
from torchmetrics.utilities import dim_zero_cat

from lit_vision.metrics.per_image import Arrays

MOST_NAMED = 100  # classes; with more, a column of the log for each would drown the rest, and `confusion` has them


class ClassificationMetrics(Metric):
    """Accuracy, top-5 accuracy, macro F1 and accuracy by class, from one confusion matrix.

    `compute()` gives: accuracy (share of pictures whose most probable class is right), top5 (only with more than five
    classes), f1 (mean over the classes that occur in truth or prediction), accuracy/<class> (share of the class's
    pictures that are right, for classes that occur; with more than 100 classes only `confusion` tells).

    Args:
        class_names: K names.

    Attributes:
        confusion: (K, K) int64 of the last `compute()`, rows = truth, columns = prediction; None before.
        keeps_images: set before the first update, for `per_image`.
    """

    full_state_update = False
    counts: Tensor
    in_top5: Tensor

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__()
        self.class_names = list(class_names)
        k = len(self.class_names)
        self.add_state("counts", torch.zeros(k, k, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("in_top5", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.confusion: Tensor | None = None
        self.keeps_images = False
        self._kept: list[Tensor] = []

    def reset(self) -> None:
        """Forgets all pictures."""
        super().reset()
        self._kept = []

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Adds scores (B, K), logits or probabilities, and labels (B,) int64."""
        k = len(self.class_names)
        guesses = scores.argmax(1)
        self.counts += torch.bincount(labels * k + guesses, minlength=k * k).view(k, k)
        in_top5 = (scores.topk(min(5, k), dim=1).indices == labels[:, None]).any(1)
        if k > 5:
            self.in_top5 += in_top5.sum()
        if self.keeps_images:
            self._kept.append(torch.stack([labels, guesses, in_top5.long()], 1).cpu())

    def per_image(self) -> Arrays:
        """What this process has seen, in order: truth, guess (N,) int32 and top5 (N,) bool."""
        rows = torch.cat([torch.zeros(0, 3, dtype=torch.int64), *self._kept]).numpy()
        return {"truth": rows[:, 0].astype(np.int32), "guess": rows[:, 1].astype(np.int32), "top5": rows[:, 2] > 0}

    def compute(self) -> dict[str, Tensor]:
        """Scalars by name, NaN-free; empty where no picture was counted."""
        counts = self.confusion = self.counts.clone()
        right, truth, guessed = counts.diagonal(), counts.sum(1), counts.sum(0)
        total = counts.sum()
        if total == 0:
            return {}
        values = {"accuracy": right.sum() / total}
        if len(self.class_names) > 5:
            values["top5"] = self.in_top5 / total
        seen = truth + guessed > 0
        values["f1"] = (2 * right[seen] / (truth + guessed)[seen]).mean()
        for k in truth.nonzero().flatten().tolist() if len(truth) <= MOST_NAMED else ():
            values[f"accuracy/{self.class_names[k]}"] = right[k] / truth[k]
        return values


class MultiLabelMetrics(Metric):
    """Metrics of pictures that show several classes, or none.

    `compute()` gives: map (mean over the classes that occur of the average precision of their ranking), f1 (macro, at
    the threshold, over classes that occur in truth or prediction), exact_match (share of pictures with every class
    right), accuracy (share of right yes-or-no answers) and accuracy/<class>.

    Args:
        class_names: K names.
        threshold: probability from which a class counts as present.

    Attributes:
        confusion: (K, 2, 2) int64 of the last `compute()`, [class, truth, prediction]; None before.
    """

    full_state_update = False
    probabilities: list[Tensor] | Tensor
    targets: list[Tensor] | Tensor

    def __init__(self, class_names: Sequence[str], threshold: float = 0.5) -> None:
        super().__init__()
        self.class_names, self.threshold = list(class_names), threshold
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")
        self.confusion: Tensor | None = None

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Adds probabilities (B, K) and targets (B, K) of 0 and 1."""
        assert isinstance(self.probabilities, list)
        assert isinstance(self.targets, list)
        self.probabilities.append(probabilities.detach().float())
        self.targets.append(targets.long())

    def per_image(self) -> Arrays:
        """What this process has seen, in order: probabilities (N, K) float32, targets (N, K) bool."""
        parts = [list(part) for part in (self.probabilities, self.targets)]  # as before any gathering
        empty = torch.zeros(0, len(self.class_names))
        probabilities, targets = (torch.cat([empty, *(one.cpu().float() for one in part)]).numpy() for part in parts)
        return {
            "probabilities": probabilities,
            "targets": targets > 0,
            "threshold": np.full(len(targets), self.threshold),
        }

    def compute(self) -> dict[str, Tensor]:
        """Scalars by name, NaN-free; empty where no picture was counted."""
        if len(self.probabilities) == 0:
            return {}
        probabilities, targets = dim_zero_cat(self.probabilities), dim_zero_cat(self.targets)
        guesses = (probabilities >= self.threshold).long()
        cells = torch.stack([((targets == t) & (guesses == g)).sum(0) for t in (0, 1) for g in (0, 1)], dim=1)
        self.confusion = cells.view(-1, 2, 2)
        found, truth, guessed = cells[:, 3], targets.sum(0), guesses.sum(0)
        seen, right = truth + guessed > 0, (guesses == targets).float()
        zero = torch.zeros((), device=targets.device)
        values = {
            "accuracy": right.mean(),
            "exact_match": right.amin(1).mean(),
            "f1": (2 * found[seen] / (truth + guessed)[seen]).mean() if seen.any() else zero,
        }
        if (truth > 0).any():
            k = len(self.class_names)
            precision = multilabel_average_precision(probabilities, targets, num_labels=k, average="none")
            values["map"] = precision[truth > 0].mean()
        named = enumerate(self.class_names) if len(self.class_names) <= MOST_NAMED else ()
        return values | {f"accuracy/{name}": right[:, k].mean() for k, name in named}
