"""Estimates against closed forms, an independent calculation, and data in which the answer is known."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from lit_vision.errors import UserError
from lit_vision.transfer.estimates import PENALTIES, logme, neighbours, paired, probe


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(int(labels.max()) + 1)[labels]


def clusters(apart: float, count: int = 90, width: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three Gaussian classes whose means are `apart` from each other along their own axes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = rng.normal(size=(count, width))
    features[np.arange(count), labels] += apart
    return features, labels


def test_separate_classes_are_told_apart_and_noise_is_not() -> None:
    features, labels = clusters(8.0)
    good = probe(features, one_hot(labels))
    assert good.accuracy == 1.0
    assert good.explained > 0.9
    drawn = np.random.default_rng(1).normal(size=(90, 6))
    noise = probe(drawn, one_hot(labels))
    assert noise.accuracy < 0.6
    assert abs(noise.explained) < 0.15
    assert neighbours(features, one_hot(labels)).mean() == 1.0
    assert logme(features, one_hot(labels)) > logme(drawn, one_hot(labels)) + 0.5


def test_the_probe_is_ridge_regression_on_the_other_folds() -> None:
    """Two groups make two folds: each half is predicted from the other, here by the normal equations."""
    features, labels = clusters(2.0, count=12, width=3)
    groups, targets = np.arange(12) % 2, one_hot(labels)
    least, plain = np.full(len(PENALTIES), 0.0), 0.0
    for out in (groups == 0, groups == 1):
        mean, deviation, shares = features[~out].mean(0), features[~out].std(0), targets[~out].mean(0)
        inputs, queries = (features[~out] - mean) / deviation, (features[out] - mean) / deviation
        plain += ((targets[out] - shares) ** 2).sum()
        for k, penalty in enumerate(PENALTIES):
            left = inputs.T @ inputs + penalty * len(inputs) * np.eye(3)
            outputs = shares + queries @ np.linalg.solve(left, inputs.T @ (targets[~out] - shares))
            least[k] += ((outputs - targets[out]) ** 2).sum()
    assert probe(features, targets, groups).explained == pytest.approx(1 - least.min() / plain, abs=1e-10)


def test_groups_stay_together() -> None:
    """Copies of a picture in other folds would give its label away: with groups, noise stays noise."""
    rng = np.random.default_rng(0)
    pictures, labels = rng.normal(size=(30, 20)), np.arange(30) % 3
    copies = np.repeat(np.arange(30), 4)
    features = pictures[copies] + 0.01 * rng.normal(size=(120, 20))
    targets = one_hot(labels[copies])
    assert neighbours(features, targets).mean() > 0.9  # without groups the copies find each other
    assert neighbours(features, targets, copies).mean() < 0.6
    assert probe(features, targets, copies).accuracy < 0.6


def test_what_stands_still_says_nothing() -> None:
    features, labels = clusters(3.0)
    still = np.hstack([features, np.full((90, 2), 7.0)])
    assert probe(still, one_hot(labels)).explained == pytest.approx(probe(features, one_hot(labels)).explained)


def test_several_classes_at_once() -> None:
    """A sample of two classes is hit by either."""
    features, labels = clusters(8.0)
    targets = one_hot(labels)
    targets[:, 0] = 1  # all are of class 0 too
    assert probe(features, targets).accuracy == 1.0
    assert neighbours(features, targets).mean() == 1.0


def test_logme_is_the_largest_evidence_of_the_linear_model() -> None:
    """Against the density of the targets under N(0, F F' / alpha + I / beta), maximised over a grid."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(25, 4))
    target = (features @ [1.0, -1.0, 0.5, 0.0] + 0.5 * rng.normal(size=25) > 0).astype(float)
    best = -np.inf
    for alpha in np.exp(np.linspace(-1, 4, 60)):
        for beta in np.exp(np.linspace(-1, 4, 60)):
            covariance = features @ features.T / alpha + np.eye(25) / beta
            best = max(best, multivariate_normal(np.zeros(25), covariance).logpdf(target) / 25)
    assert logme(features, target[:, None]) == pytest.approx(best, abs=2e-3)


def test_a_paired_difference_has_the_interval_of_a_t_test_for_many_samples() -> None:
    first, second = np.array([3.0, 5.0, 4.0, 8.0]), np.array([1.0, 2.0, 3.0, 2.0])
    found = paired(first, second)
    assert found.mean == 3.0
    assert found.margin == pytest.approx(1.96 * np.std([2, 3, 1, 6], ddof=1) / 2)
    assert found.above
    assert not found.below
    assert paired(second, first).below


def test_groups_widen_the_interval() -> None:
    """Four equal samples of one picture say no more than one."""
    values = np.array([1.0, -0.5, 2.0, 0.4])
    alone = paired(values, np.zeros(4))
    repeated = paired(np.repeat(values, 4), np.zeros(16), np.repeat(np.arange(4), 4))
    assert repeated.mean == pytest.approx(alone.mean)
    assert repeated.margin == pytest.approx(alone.margin)
    assert paired(np.repeat(values, 4), np.zeros(16)).margin < 0.6 * alone.margin


def test_one_class_cannot_be_told_from_anything() -> None:
    with pytest.raises(UserError, match="two classes"):
        probe(np.zeros((4, 2)), np.ones((4, 1)))
