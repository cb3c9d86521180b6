"""How much of the labels can be read off given features, without any training of the network.

Three independent estimates: a cross-validated linear probe (the one that decides, since its errors have an
uncertainty), the nearest neighbours, and LogME. All take features (N, D) float64 and targets (N, K): 1 where a sample
is of a class, else 0; a sample can be of several classes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lit_vision.errors import UserError
from lit_vision.types import Int64Array

Features = npt.NDArray[np.float64]

FOLDS = 5
NEIGHBOURS = 5
PENALTIES = 10.0 ** np.arange(-4, 3, 0.5)  # of the probe, relative to the number of samples
BLOCK = 1024  # rows of similarities held at a time
ITERATIONS, TOLERANCE = 50, 1e-4  # of LogME's fixed point


@dataclass(frozen=True)
class Probe:
    """What a linear probe made of the features, on samples that it was not fitted to.

    Attributes:
        errors: (N,) squared error of each sample's targets, in units of the mean error of the class shares
            alone: 0 = perfect, 1 = the features say nothing.
        hits: (N,) bool, whether the largest output is a class of the sample.
    """

    errors: Features
    hits: npt.NDArray[np.bool_]

    @property
    def explained(self) -> float:
        """Share of the labels' variance that is explained: 1 - mean error; below 0 = worse than the class shares."""
        return float(1 - self.errors.mean())

    @property
    def accuracy(self) -> float:
        """Share of hits."""
        return float(self.hits.mean())


@dataclass(frozen=True)
class Difference:
    """A mean difference and half the width of its 95 % interval."""

    mean: float
    margin: float

    @property
    def above(self) -> bool:
        """Whether it is larger than 0 beyond chance."""
        return self.mean - self.margin > 0

    @property
    def below(self) -> bool:
        """Whether it is smaller than 0 beyond chance."""
        return self.mean + self.margin < 0


def probe(features: Features, targets: Features, groups: Int64Array | None = None, seed: int = 0) -> Probe:
    """Ridge regression of the targets on standardised features, in five folds.

    The penalty is the one with the least error over the folds, so the probe is slightly too kind to all features
    alike; that matters little where features are compared with each other.

    Args:
        features: (N, D).
        targets: (N, K).
        groups: (N,) numbers of what must not be torn apart, such as the image that regions come from; None = each
            sample on its own.
        seed: of the folds.

    Raises:
        UserError: there is only one class, or there are too few groups for two folds.
    """
    rarest = (targets / targets.sum(0).clip(1)).argmax(1)
    fold = _folds(rarest, groups, seed)
    errors = np.zeros((len(PENALTIES), len(targets)))
    hits = np.zeros((len(PENALTIES), len(targets)), bool)
    plain = np.zeros(len(targets))
    for one in range(int(fold.max()) + 1):
        out = np.flatnonzero(fold == one)
        mean = targets[fold != one].mean(0)
        plain[out] = ((targets[out] - mean) ** 2).sum(1)
        for k, outputs in enumerate(_ridge(features[fold != one], targets[fold != one] - mean, features[out])):
            errors[k, out] = ((mean + outputs - targets[out]) ** 2).sum(1)
            hits[k, out] = targets[out, (mean + outputs).argmax(1)] > 0
    best = int(errors.mean(1).argmin())
    return Probe(errors[best] / plain.mean(), hits[best])


def _folds(labels: Int64Array, groups: Int64Array | None, seed: int) -> Int64Array:
    """(N,) fold of each sample; each class is spread over the folds, by the first sample of each group."""
    unit = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    _, first = np.unique(unit, return_index=True)
    if len(np.unique(labels)) < 2 or len(first) < 2:
        raise UserError(f"a probe needs two classes and two images, not {len(np.unique(labels))} and {len(first)}")
    order = np.lexsort((np.random.default_rng(seed).permutation(len(first)), labels[first]))
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % min(FOLDS, len(first))
    return fold[unit]


def _ridge(inputs: Features, targets: Features, queries: Features) -> list[Features]:
    """Outputs for the queries, an array for each of PENALTIES, from one singular value decomposition."""
    mean, deviation = inputs.mean(0), inputs.std(0)
    scale = np.where(deviation > 1e-8, deviation, np.inf)  # what stands still says nothing
    left, values, right = np.linalg.svd((inputs - mean) / scale, full_matrices=False)
    turned, seen = left.T @ targets, ((queries - mean) / scale) @ right.T
    return [seen @ ((values / (values**2 + p * len(inputs)))[:, None] * turned) for p in PENALTIES]


def neighbours(features: Features, targets: Features, groups: Int64Array | None = None) -> npt.NDArray[np.bool_]:
    """(N,) bool: whether the class that five nearest neighbours, by cosine, have most often is one of the sample's.

    Args:
        features: (N, D).
        targets: (N, K).
        groups: as in `probe`; neighbours come from other groups only.
    """
    own = np.arange(len(targets)) if groups is None else groups
    spread = (features - features.mean(0)) / np.maximum(features.std(0), 1e-8)
    unit = spread / np.maximum(np.linalg.norm(spread, axis=1, keepdims=True), 1e-12)
    hits = np.zeros(len(targets), bool)
    for start in range(0, len(targets), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(targets)))
        near = unit[rows] @ unit.T
        near[own[rows, None] == own[None]] = -np.inf
        nearest = np.argsort(-near, axis=1, kind="stable")[:, :NEIGHBOURS]
        hits[rows] = targets[rows, targets[nearest].sum(1).argmax(1)] > 0
    return hits


def logme(features: Features, targets: Features) -> float:
    """Log of the evidence of a Bayesian linear model for the targets, per sample and class; higher is better.

    Source: You et al. 2021, LogME, https://arxiv.org/abs/2102.11005, equations 2 to 5.

    Args:
        features: (N, D).
        targets: (N, K).
    """
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    return float(np.mean([_evidence(left, values**2, target, features.shape[1]) for target in targets.T]))


def _evidence(left: Features, squares: Features, target: Features, width: int) -> float:
    """Largest log evidence over the precisions of weights (alpha) and noise (beta), per sample."""
    count, turned = len(target), (left.T @ target) ** 2
    beyond = max(float(target @ target - turned.sum()), 0.0)
    alpha = beta = 1.0
    for _ in range(ITERATIONS):
        ratio = alpha / beta
        gamma = float((squares / (squares + ratio)).sum())
        length = float((squares * turned / (squares + ratio) ** 2).sum())
        residual = float((turned / (1 + squares / ratio) ** 2).sum()) + beyond
        alpha, beta = gamma / max(length, 1e-12), (count - gamma) / max(residual, 1e-12)
        if abs(alpha / beta - ratio) <= TOLERANCE * ratio:
            break
    logs = width * np.log(alpha) + count * np.log(beta) - np.log(alpha + beta * squares).sum()
    logs -= (width - len(squares)) * np.log(alpha) + beta * residual + alpha * length + count * np.log(2 * np.pi)
    return float(logs / (2 * count))


def paired(first: Features, second: Features, groups: Int64Array | None = None) -> Difference:
    """Mean of `first - second` over the samples, with 1.96 standard errors; groups count as one sample each.

    Args:
        first: (N,) values, such as errors of one probe.
        second: (N,) values of the same samples.
        groups: as in `probe`.
    """
    apart = first.astype(np.float64) - second
    unit = np.arange(len(apart)) if groups is None else np.unique(groups, return_inverse=True)[1]
    parts = np.bincount(unit, apart - apart.mean())  # what each group adds beyond its share
    error = np.sqrt((parts**2).sum() * len(parts) / max(len(parts) - 1, 1)) / len(apart)
    return Difference(float(apart.mean()), float(1.96 * error))
