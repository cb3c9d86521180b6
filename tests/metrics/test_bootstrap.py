"""The statistics against scipy, exact tests and simulated experiments."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from lit_vision.metrics import bootstrap

Floats = np.ndarray
Metric = Callable[[Floats], Floats]


def mean_of(values: Floats) -> Metric:
    return lambda weights: weights @ values / weights.sum(1)


def all_of(metric: Metric, pictures: int, count: int, seed: int = 0) -> Floats:
    return np.concatenate([metric(block) for block in bootstrap.resamples(pictures, count, seed)])


def p_of(first: Floats, second: Floats, seed: int = 0, count: int = 1000) -> float:
    metric = mean_of(np.concatenate([first, second]))
    return bootstrap.swap_test(metric, len(first), float(second.mean() - first.mean()), count, seed)


# --- resamples --------------------------------------------------------------------------------------------------
def test_resamples_are_multisets_of_all_pictures_and_follow_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.concatenate(list(bootstrap.resamples(7, 100, seed=3)))
    assert drawn.shape == (100, 7)
    assert (drawn.sum(1) == 7).all()
    assert drawn.mean(0) == pytest.approx(np.ones(7), abs=0.4)
    assert drawn.var() == pytest.approx(1 - 1 / 7, rel=0.15)  # of a multinomial count
    assert np.array_equal(drawn, np.concatenate(list(bootstrap.resamples(7, 100, seed=3))))
    assert not np.array_equal(drawn, np.concatenate(list(bootstrap.resamples(7, 100, seed=4))))
    monkeypatch.setattr(bootstrap, "CELLS", 35)
    blocks = list(bootstrap.resamples(7, 12, seed=3))
    assert [len(block) for block in blocks] == [5, 5, 2]  # memory is bounded
    assert np.array_equal(np.concatenate(blocks), drawn[:12])  # and changes no draw


def test_distribution_of_a_mean_is_scipys() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=80)
    ours = all_of(mean_of(values), 80, 20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=np.random.default_rng(1)
    )
    assert stats.ks_2samp(ours, theirs.bootstrap_distribution).pvalue > 0.01
    spread = theirs.bootstrap_distribution.std()
    assert bootstrap.interval(ours) == pytest.approx(tuple(theirs.confidence_interval), abs=0.06 * spread)
    assert stats.ks_2samp(ours, theirs.bootstrap_distribution + 0.1 * spread).pvalue < 0.01  # it can fail


def test_interval_leaves_out_what_could_not_be_measured() -> None:
    values = np.append(np.arange(101.0), np.nan)
    assert bootstrap.interval(values, 0.9) == pytest.approx((5.0, 95.0))
    assert np.isnan(bootstrap.interval(np.full(3, np.nan))).all()


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    weights = np.concatenate(list(bootstrap.resamples(200, 1000, 0)))
    inside = {0.95: 0, 0.5: 0}
    for _ in range(500):
        right = rng.random(200) < 0.8
        found = weights @ right / 200
        for level in inside:
            low, high = bootstrap.interval(found, level)
            inside[level] += low <= 0.8 <= high
    assert 0.92 <= inside[0.95] / 500 <= 0.97
    assert 0.42 <= inside[0.5] / 500 <= 0.58  # a level means what it says


# --- p-values ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("gained", "lost"), [(9, 2), (5, 0), (3, 3), (30, 14)])
def test_swap_test_of_accuracies_is_the_exact_test_of_mcnemar(gained: int, lost: int) -> None:
    first, second = np.zeros(100), np.zeros(100)
    first[:20] = second[:20] = 1
    second[20 : 20 + gained] = first[60 : 60 + lost] = 1
    exact = stats.binomtest(gained, gained + lost).pvalue
    found = p_of(first, second, count=40_000)
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000) + 1e-4)


def test_centred_p_value_is_scipys_and_too_small_where_few_pictures_differ() -> None:
    """Why the swap test is used: five pictures won, none lost, are no proof at 0.05."""
    gains = np.zeros(100)
    gains[:5] = 1
    found = bootstrap.centred_p_value(0.05, all_of(mean_of(gains), 100, 40_000))
    drawn = np.arange(101)
    exact = stats.binom.pmf(drawn, 100, 0.05)[np.abs(drawn - 5) >= 5].sum()
    assert found == pytest.approx(exact, abs=0.004)
    assert found < 0.05 < stats.binomtest(5, 5).pvalue


@pytest.mark.parametrize("kind", ["swap", "centred"])
def test_p_values_are_uniform_where_nothing_differs(kind: str) -> None:
    rng = np.random.default_rng(1)
    drawn = np.concatenate(list(bootstrap.resamples(150, 600, 2)))
    found = []
    for _ in range(400):
        first, second = rng.normal(size=(2, 150)) + rng.normal(size=150)
        if kind == "swap":
            found.append(p_of(first, second, seed=int(rng.integers(1 << 30)), count=600))
        else:
            difference = float((second - first).mean())
            found.append(bootstrap.centred_p_value(difference, drawn @ (second - first) / 150))
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert stats.kstest(np.square(found), "uniform").pvalue < 0.01  # p-values that are too small would be seen


def test_a_real_difference_is_found_and_pairing_finds_it() -> None:
    rng = np.random.default_rng(2)
    hardness = rng.normal(size=200)  # the same for both runs
    first, second = hardness + 0.1 * rng.normal(size=200), hardness + 0.1 * rng.normal(size=200) + 0.05
    assert p_of(first, second) < 0.005
    assert stats.ttest_ind(first, second).pvalue > 0.3  # which a comparison of two means would have missed


def test_equal_runs_have_p_1() -> None:
    same = np.random.default_rng(0).random(50)
    assert p_of(same, same) == 1.0
    assert bootstrap.centred_p_value(0.0, np.zeros(100)) == 1.0
    assert bootstrap.swap_p_value(2.0, np.zeros(99)) == 0.01  # never 0


def test_holm() -> None:
    assert bootstrap.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm's by hand
    assert bootstrap.holm([0.6, 0.7]) == [1.0, 1.0]
    assert bootstrap.holm([0.2]) == [0.2]


def test_mean_interval_is_students() -> None:
    values = [0.81, 0.84, 0.79, 0.86, 0.80]
    mean, low, high = bootstrap.mean_interval(values)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 4, np.mean(values), stats.sem(values)))
    assert mean == pytest.approx(0.82)
