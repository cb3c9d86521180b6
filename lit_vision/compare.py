"""Runs compared picture by picture: is a difference more than the luck of which pictures were in the test?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lit_vision.compare_runs import Group, agreed
from lit_vision.errors import UserError
from lit_vision.metrics import bootstrap
from lit_vision.metrics.per_image import joined
from lit_vision.metrics.weighted import WeightedMetric, Weights, weighted
from lit_vision.runs.evidence import Evidence

RESAMPLES = 10_000
RANKED = 2_000  # of average precisions, which take a hundred times as long as a mean
# Pictures; from fewer, intervals were measured to be too narrow: 95 % of average precisions from 60 cover 86 to 90 %.
FEW, FEW_RANKED = 50, 200


@dataclass(frozen=True)
class Measured:
    """A value with its interval, and the p-value of a difference.

    Args:
        value: on the pictures themselves.
        low: lower end of the interval.
        high: upper end.
        each: values of a group's runs.
        p: two-sided; None for a value that is no difference.
        corrected: p after Holm's correction; None where there is but one difference.
        method: of p, "swap" or "centred".
    """

    value: float
    low: float
    high: float
    each: Sequence[float] = ()
    p: float | None = None
    corrected: float | None = None
    method: str = ""

    @property
    def spread(self) -> float | None:
        """Standard deviation over the runs of a group; None for one run."""
        return float(np.std(self.each, ddof=1)) if len(self.each) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """What `lit-vision compare` found.

    Args:
        metric: such as "accuracy".
        pictures: how many.
        resamples: how many.
        level: of the intervals.
        seed: of the draws.
        groups: the first is the baseline.
        values: of each group.
        differences: of each group but the first, to the first.
        notes: what else to know, a sentence each.
    """

    metric: str
    pictures: int
    resamples: int
    level: float
    seed: int
    groups: Sequence[Group]
    values: Sequence[Measured]
    differences: Sequence[Measured]
    notes: Sequence[str]


def compare(
    groups: Sequence[Group],
    metric: str | None = None,
    resamples: int | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Values with intervals, and paired differences to the first group with intervals and p-values.

    Intervals are percentiles of a bootstrap over pictures, with the same resamples for all runs. A p-value is that of
    the swap test: how often a difference as large comes about if, for each picture at random, the two runs change
    places. Groups of unequal numbers of runs cannot change places; then it is that of the centred bootstrap.

    Args:
        groups: two or more.
        metric: null = the task's own.
        resamples: null = 10,000, or 2,000 for average precisions.
        level: of the intervals.
        seed: of the draws.

    Raises:
        UserError: the runs cannot be compared.
    """
    groups = agreed(groups)
    first = groups[0].seen[0]
    name = metric or first.metric
    metrics = [[_metric([one], name) for one in group.seen] for group in groups]
    ranked = _is_ranked(first.kind, name)
    count = resamples or (RANKED if ranked else RESAMPLES)
    each = [[float(one(np.ones((1, len(first))))[0]) for one in own] for own in metrics]
    if np.isnan(np.concatenate(each)).any():
        raise UserError(f"{name} is not defined on these pictures: they have nothing that it measures")
    drawn = bootstrap.resamples(len(first), count, seed)
    sampled = np.concatenate([np.stack([_mean(own, block) for own in metrics]) for block in drawn], 1)
    values = [
        Measured(float(np.mean(own)), *bootstrap.interval(found, level), each=own)
        for own, found in zip(each, sampled, strict=True)
    ]
    differences = []
    for group, value, found in zip(groups[1:], values[1:], sampled[1:], strict=True):
        apart, ends = value.value - values[0].value, bootstrap.interval(found - sampled[0], level)
        p, method = _p_value(groups[0], group, name, apart, found - sampled[0], seed)
        differences.append(Measured(apart, *ends, p=p, method=method))
    notes = _notes(groups, count, resamples, sampled, FEW_RANKED if ranked else FEW)
    return Comparison(name, len(first), count, level, seed, groups, values, _corrected(differences), notes)


def _is_ranked(kind: str, name: str) -> bool:
    return kind in ("detection", "instances", "multi_label") and name.partition("/")[0].startswith(("map", "ap"))


def _metric(seen: Sequence[Evidence], name: str) -> WeightedMetric:
    arrays = seen[0].arrays if len(seen) == 1 else joined([one.arrays for one in seen])
    return weighted(seen[0].kind, name, arrays, list(seen[0].class_names))


def _mean(metrics: Sequence[WeightedMetric], weights: Weights) -> Weights:
    return np.asarray(np.mean([one(weights) for one in metrics], 0), np.float64)


def _p_value(base: Group, other: Group, name: str, apart: float, sampled: Weights, seed: int) -> tuple[float, str]:
    if len(base.seen) != len(other.seen):
        return bootstrap.centred_p_value(apart, sampled), "centred"
    both = [_metric(pair, name) for pair in zip(base.seen, other.seen, strict=True)]
    pictures = len(base.seen[0])
    return bootstrap.swap_test(lambda weights: _mean(both, weights), pictures, apart, len(sampled), seed), "swap"


def _corrected(found: Sequence[Measured]) -> list[Measured]:
    if len(found) < 2:
        return list(found)
    corrected = bootstrap.holm([one.p or 0.0 for one in found])
    return [replace(one, corrected=p) for one, p in zip(found, corrected, strict=True)]


# --- what else to know ------------------------------------------------------------------------------------------
def _notes(groups: Sequence[Group], count: int, asked: int | None, sampled: Weights, enough: int) -> list[str]:
    seen = [one for group in groups for one in group.seen]
    notes = []
    if asked is None and count != RESAMPLES:
        notes.append(f"{count} resamples instead of {RESAMPLES}: average precision takes long; --resamples changes it")
    if len(seen[0]) < enough:
        notes.append(f"only {len(seen[0])} pictures: intervals from so few are too narrow")
    undefined = int(np.isnan(sampled).any(0).sum())
    if undefined:
        notes.append(f"{undefined} of {count} resamples had nothing to measure and are left out")
    sizes = {" x ".join(map(str, one.facts.get("image_size", ()))): None for one in seen}
    checkpoints = {Path(one.facts.get("checkpoint", "")).name: None for one in seen}
    for words, found in (("the network's input differs", sizes), ("the checkpoints differ", checkpoints)):
        if len(found) > 1:
            notes.append(f"{words}: {', '.join(found)}")
    if any(len(group.seen) != len(groups[0].seen) for group in groups):
        notes.append("groups of unequal size: p is of the centred bootstrap, too small where few pictures differ")
    return notes
