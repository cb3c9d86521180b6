"""The textbook's four strategies as openings of a backbone: what trains, from when on, and how fast.

| | similar to the pretraining data | different |
|---|---|---|
| little data | the last layers only | all layers, gently; and a network as small as the data |
| much data | the last few layers | nearly the whole network |

In all of them the head learns first: thawed under a newly drawn head, features are bent before it knows what it needs
(Kumar et al. 2022, https://arxiv.org/abs/2202.10054).
"""

from dataclasses import dataclass
from typing import Literal

Quadrant = Literal["few_similar", "few_different", "many_similar", "many_different"]
Strategy = Literal["few_similar", "few_different", "many_similar", "many_different", "auto"]

MANY = 10_000  # training pictures from which on there is much data
PARTS = 3  # into which the strategies divide a backbone


@dataclass(frozen=True)
class Recipe:
    """How a backbone thaws.

    Attributes:
        at: shares of the run at which parts of the backbone open, the one nearest the head first; parts without one
            stay closed.
        lr_decay: factor on the learning rate for each part farther from the head.
        words: what it does.
    """

    at: tuple[float, ...]
    lr_decay: float
    words: str


HEAD = Recipe((), 1.0, "train the head alone")
LAST = Recipe((0.2,), 0.5, "train the head, then the last third of the backbone too")
GENTLE = Recipe((0.2, 0.2, 0.2), 0.5, "train the head, then everything, gently")
RECIPES: dict[Quadrant, Recipe] = {
    "few_similar": HEAD,
    "few_different": GENTLE,
    "many_similar": LAST,
    "many_different": Recipe((0.1, 0.1, 0.1), 0.8, "train the head for a short time, then everything"),
}
# With little data like the pretraining data: the most pictures for each class with which it did not pay to open more.
BY_PICTURES: tuple[tuple[float, Recipe], ...] = ((15, HEAD), (50, LAST), (float("inf"), GENTLE))


def quadrant(images: int, similar: bool) -> Quadrant:
    """The textbook's case.

    Args:
        images: training pictures.
        similar: to the pretraining data.
    """
    if images < MANY:
        return "few_similar" if similar else "few_different"
    return "many_similar" if similar else "many_different"


def enough_for(per_class: float) -> Recipe:
    """What so many pictures for each class are enough to train, if they are like those of the pretraining."""
    return next(recipe for most, recipe in BY_PICTURES if per_class < most)
