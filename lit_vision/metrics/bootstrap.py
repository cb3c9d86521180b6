"""Luck over pictures: resamples, intervals, p-values of a difference, and their correction for several comparisons.

Pure functions of numbers and a seed. A metric here is a function of weights (R, N) with values (R,): row r says how
often each of the N pictures is in multiset r.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
CELLS = 2_000_000  # weights in a block of resamples: 16 MB
TIE = 1e-12  # two values nearer than this are the same one, added up in another order


def resamples(pictures: int, count: int, seed: int) -> Iterator[Floats]:
    """Weights of resamples with replacement, in blocks: how often each picture was drawn.

    Args:
        pictures: N.
        count: R, of all blocks together.
        seed: the same seed draws the same resamples.
    """
    rng = np.random.default_rng((seed, 0))
    for rows in _blocks(pictures, count):
        drawn = rng.integers(0, pictures, (rows, pictures))
        drawn += np.arange(rows)[:, None] * pictures
        yield np.bincount(drawn.ravel(), minlength=rows * pictures).reshape(rows, pictures).astype(np.float64)


def swaps(pictures: int, count: int, seed: int) -> Iterator[Floats]:
    """Rows of 0 and 1 at random, in blocks: for each picture, whether two runs change their places."""
    rng = np.random.default_rng((seed, 1))
    for rows in _blocks(pictures, count):
        yield rng.integers(0, 2, (rows, pictures)).astype(np.float64)


def _blocks(pictures: int, count: int) -> Iterator[int]:
    rows = max(1, CELLS // max(pictures, 1))
    for start in range(0, count, rows):
        yield min(rows, count - start)


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of resampled values; those that are NaN are left out.

    Args:
        values: (R,).
        level: share of the values inside.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def swap_p_value(difference: float, swapped: Floats) -> float:
    """Two-sided p-value of a difference, against those with two runs' places changed at random for each picture.

    Args:
        difference: the measured one.
        swapped: (R,) what it would have been.
    """
    return _share(np.abs(swapped[~np.isnan(swapped)]) >= abs(difference) - TIE)


def centred_p_value(difference: float, resampled: Floats) -> float:
    """Two-sided p-value of a difference from its bootstrap distribution, moved to where there is none.

    Args:
        difference: the measured one.
        resampled: (R,) differences of resamples.
    """
    known = resampled[~np.isnan(resampled)]
    return _share(np.abs(known - difference) >= abs(difference) - TIE)


def _share(extreme: npt.NDArray[np.bool_]) -> float:
    # The measured one counts as one of them: p is never 0, and its test never rejects too often.
    return float((1 + extreme.sum()) / (1 + len(extreme)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): below the limit with no more than that chance of any mistake."""
    order = np.argsort(p_values)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of k values, and its interval by Student's t with k - 1 degrees of freedom.

    Args:
        values: k numbers, 2 or more.
        level: of the interval.
    """
    from scipy.stats import t

    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    reach = float(t.ppf((1 + level) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return mean, mean - reach, mean + reach


def swap_test(metric: Callable[[Floats], Floats], pictures: int, difference: float, count: int, seed: int) -> float:
    """The swap test of two runs.

    Args:
        metric: of weights (R, 2 N): the pictures as one run saw them, then as the other did.
        pictures: N.
        difference: the measured one, the other run's value minus the first one's.
        count: number of random swaps.
        seed: of their draw.
    """
    found = []
    for block in swaps(pictures, count, seed):
        first, second = np.hstack([1 - block, block]), np.hstack([block, 1 - block])
        found.append(metric(second) - metric(first))
    return swap_p_value(difference, np.concatenate(found))
