"""The case and the settings that follow from estimates, made up so that the answer is known."""

import numpy as np
import pytest

from lit_vision.transfer.advice import HEAD_LR, LEAST_EPOCHS, LR, advise
from lit_vision.transfer.estimates import Probe
from lit_vision.transfer.similarity import Similarity, StageEstimate
from lit_vision.transfer.strategies import GENTLE, HEAD, LAST, MANY, Recipe, quadrant


def estimate(explained: float, noise: np.ndarray) -> StageEstimate:
    return StageEstimate("block", 8, Probe(1 - explained + noise, np.ones(len(noise), bool)), 0.5, 0.0)


def similarity(pretrained: list[float], random: list[float], samples: int = 400, spread: float = 0.1) -> Similarity:
    """Stages that explain so much, nearest the head first; every stage errs on samples of its own."""
    rng = np.random.default_rng(0)
    rows = [[estimate(value, spread * rng.normal(size=samples)) for value in part] for part in (pretrained, random)]
    return Similarity(samples, rows[0], rows[1], np.arange(samples))


SIMILAR = similarity([0.5, 0.42, 0.2, 0.1, 0.1, 0.05], [0.1, 0.1, 0.15, 0.1, 0.1, 0.1])
DIFFERENT = similarity([0.7, 0.8, 0.92, 0.9, 0.8, 0.7], [0.3, 0.5, 0.8, 0.85, 0.8, 0.7])


def test_verdicts() -> None:
    assert SIMILAR.verdict == "similar"
    assert (SIMILAR.best, SIMILAR.good_until) == (0, 0)
    assert DIFFERENT.verdict == "different"
    assert (DIFFERENT.best, DIFFERENT.good_until) == (2, 2)


def test_good_features_have_to_lie_in_the_deepest_third() -> None:
    """Of six stages the deepest two count; random weights are far behind in both cases."""
    assert similarity([0.5, 0.9, 0.6, 0.4, 0.3, 0.2], [0.1] * 6).verdict == "similar"
    third = similarity([0.5, 0.6, 0.9, 0.4, 0.3, 0.2], [0.1] * 6)
    assert (third.deep, third.good_until) == (2, 2)
    assert third.verdict == "different"


def test_no_better_than_random_weights_is_different() -> None:
    flat = [0.3] * 6
    assert similarity(flat, flat, spread=0.05).verdict == "different"
    assert similarity(flat, flat, samples=8, spread=1.0).verdict == "unclear"


def test_a_sample_too_small_says_so_and_takes_the_cautious_way() -> None:
    found = advise(10, 5, 32, 200_000, similarity([0.3] * 6, [0.3] * 6, samples=8, spread=1.0))
    assert found.case == "few_similar"
    assert "too small to tell" in found.reasons[-2]


@pytest.mark.parametrize(
    ("images", "similar", "case"),
    [
        (MANY - 1, True, "few_similar"),
        (MANY - 1, False, "few_different"),
        (MANY, True, "many_similar"),
        (MANY, False, "many_different"),
    ],
)
def test_the_textbooks_table(images: int, similar: bool, case: str) -> None:
    assert quadrant(images, similar) == case
    found = advise(images, 5, 32, 0, SIMILAR if similar else DIFFERENT)
    assert found.case == case


def test_epochs_give_a_small_set_steps_enough() -> None:
    assert advise(25, 5, 32, 0, SIMILAR).epochs == 150
    assert advise(320, 5, 32, 0, SIMILAR).epochs == 15
    assert advise(50_000, 5, 32, 0, SIMILAR).epochs == LEAST_EPOCHS


def test_a_head_alone_learns_faster() -> None:
    head, both = advise(500, 5, 32, 0, SIMILAR), advise(MANY, 5, 32, 0, SIMILAR)
    assert (head.recipe.at, head.lr) == ((), HEAD_LR)
    assert (len(both.recipe.at), both.lr) == (1, LR)


def test_stages_that_are_no_good_are_opened_whatever_the_case() -> None:
    """Similar by its first third, but the deepest of six stages is much worse than the next: one part opens."""
    found = similarity([0.1, 0.5, 0.4, 0.2, 0.1, 0.1], [0.1] * 6)
    assert (found.verdict, found.good_until) == ("similar", 1)
    assert advise(500, 5, 32, 0, found).recipe.at == (0.2,)


def test_a_large_network_on_few_unlike_pictures_is_too_large() -> None:
    assert advise(490, 5, 32, 25_000_000, DIFFERENT).small
    assert not advise(490, 5, 32, 200_000, DIFFERENT).small
    assert not advise(490, 5, 32, 25_000_000, SIMILAR).small


@pytest.mark.parametrize(("per_class", "recipe"), [(5, HEAD), (14, HEAD), (15, LAST), (49, LAST), (50, GENTLE)])
def test_the_more_pictures_of_each_class_the_deeper(per_class: int, recipe: Recipe) -> None:
    found = advise(490, per_class, 32, 0, SIMILAR)
    assert found.case == "few_similar"
    assert found.recipe == recipe
    assert found.reasons[-1] == f"with {per_class} pictures to learn a class from it pays to {recipe.words}"
    assert advise(490, per_class, 32, 0, DIFFERENT).recipe == GENTLE
