"""From what was counted and measured to what to do: the case, its reasons in numbers, and the settings that follow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lit_vision.transfer.estimates import paired
from lit_vision.transfer.similarity import Similarity, StageEstimate
from lit_vision.transfer.strategies import MANY, PARTS, RECIPES, Quadrant, Recipe, enough_for, quadrant

LEAST_EPOCHS, LEAST_STEPS = 12, 150
HEAD_LR, LR = 5e-3, 2e-3  # of AdamW, for a head alone and with a backbone behind it; see docs/transfer.md
PARAMETERS_PER_IMAGE = 10_000  # a backbone with more of them is large for so little data


@dataclass(frozen=True)
class Advice:
    """What to do, and why.

    Attributes:
        case: of the textbook.
        recipe: its openings, deeper where the measured features call for it.
        reasons: sentences with numbers.
        epochs: of the run.
        lr: of the head, for AdamW and its like.
        small: whether a smaller backbone would suit the data better.
    """

    case: Quadrant
    recipe: Recipe
    reasons: Sequence[str]
    epochs: int
    lr: float
    small: bool


def advise(images: int, per_class: float, batch_size: int, parameters: int, found: Similarity) -> Advice:
    """Decides.

    Args:
        images: training pictures.
        per_class: of them, for each class; where a picture shows many objects or pixels, all of them.
        batch_size: pictures per step, of all processes.
        parameters: of the backbone.
        found: what its features are worth.
    """
    similar = found.verdict != "different"
    case = quadrant(images, similar)
    recipe = _deep_enough(enough_for(per_class) if case == "few_similar" else RECIPES[case], found)
    steps = max(images // batch_size, 1)
    small = case == "few_different" and parameters > PARAMETERS_PER_IMAGE * images
    epochs = max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / steps))
    reasons = [_amount(images), *_likeness(found)]
    if case == "few_similar":
        reasons.append(f"with {per_class:.0f} pictures to learn a class from it pays to {enough_for(per_class).words}")
    return Advice(case, recipe, reasons, epochs, LR if recipe.at else HEAD_LR, small)


def _deep_enough(recipe: Recipe, found: Similarity) -> Recipe:
    """Opens the parts whose features are worse than those before them, whatever the case."""
    needed = math.ceil(found.good_until / len(found.pretrained) * PARTS)
    missing = needed - len(recipe.at)
    if missing <= 0:
        return recipe
    words = f"{recipe.words}; and the {needed} of {PARTS} parts whose features are no good here"
    return Recipe((*recipe.at, *[0.2] * missing), min(recipe.lr_decay, 0.5), words)


def _amount(images: int) -> str:
    much = "much" if images >= MANY else "little"
    return f"{images:,} training pictures: {much} data (the border is at about {MANY:,})"


def _likeness(found: Similarity) -> list[str]:
    best, last, gain = found.pretrained[found.best], found.pretrained[0], found.gain
    loss = found.loss(0)
    said = [f"the features of {best.module} tell most of the labels: {_explained(best, found)} of their variance"]
    if found.best:
        worse = "less, beyond chance" if loss.above else "less, which may be chance"
        said.append(f"the deepest ones, of {last.module}, tell {loss.mean:.2f} ± {loss.margin:.2f} {worse}")
    said.append(
        f"deep features tell {gain.mean:.2f} ± {gain.margin:.2f} more than the best ones of the same network with "
        "random weights"
    )
    return [*said, _VERDICTS[found.verdict]]


_VERDICTS = {
    "similar": "so the data are like those of the pretraining",
    "different": "so the data are unlike those of the pretraining",
    "unclear": "the sample is too small to tell; taken as like those of the pretraining, the cautious choice",
}


def _explained(one: StageEstimate, found: Similarity) -> str:
    spread = paired(one.probe.errors, one.probe.errors * 0, found.groups)
    return f"{one.probe.explained:.2f} ± {spread.margin:.2f}"
