"""ProgressiveUnfreezing by a strategy: the textbook's four, or what a measurement on the run's data suggests."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from lit_vision.errors import UserError
from lit_vision.transfer.advice import advise
from lit_vision.transfer.similarity import measure, pictures_per_class
from lit_vision.transfer.strategies import RECIPES, Recipe, Strategy

FILE = "strategy.json"  # in the run folder: a run that is resumed keeps to what was decided


def check_alone(strategy: Strategy | None, **others: Any) -> None:
    """A strategy says how the backbone is divided and when it opens, and nothing else may.

    Args:
        strategy: as given.
        others: settings that it takes the place of, by name; null = not given.

    Raises:
        UserError: one of them is given too, or there is no such strategy.
    """
    if strategy is None:
        return
    if strategy not in get_args(Strategy):
        raise UserError(f"ProgressiveUnfreezing: strategy is {strategy!r}; use one of {', '.join(get_args(Strategy))}")
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise UserError(
            f"ProgressiveUnfreezing: strategy says how the backbone is divided and opens: leave {given[0]} out"
        )


def recipe_of(strategy: Strategy, trainer: pl.Trainer, module: Any) -> Recipe:
    """What a strategy does in this run; "auto" measures on rank 0, once, and tells all processes.

    Raises:
        UserError: "auto" without a data module of lit_vision.
    """
    if strategy != "auto":
        return RECIPES[strategy]
    path = Path(trainer.default_root_dir) / FILE
    found = _decided(path, trainer, module) if trainer.is_global_zero else {}
    told: dict[str, Any] = trainer.strategy.broadcast(found, src=0)
    return replace(Recipe(**told), at=tuple(told["at"]))


def _decided(path: Path, trainer: pl.Trainer, module: Any) -> dict[str, Any]:
    """The recipe in the run folder, or a new one, which is put there."""
    if path.is_file():
        facts = json.loads(path.read_text())
        rank_zero_info(f"strategy: {facts['case']}, as {path} says: {facts['recipe']['words']}")
        return dict(facts["recipe"])
    data: Any = getattr(trainer, "datamodule", None)
    if data is None or not hasattr(data, "index"):
        raise UserError("ProgressiveUnfreezing: strategy: auto needs a data module of lit_vision")
    training = module.training
    found = measure(module, data, seed=data.seed)
    module.train(training)
    backbone = next(iter(module.backbones.values()))
    images, parameters = len(data.index.indices("train")), sum(p.numel() for p in backbone.parameters())
    advice = advise(images, pictures_per_class(data), data.batch_size * trainer.world_size, parameters, found)
    for reason in advice.reasons:
        rank_zero_info(f"strategy: {reason}")
    rank_zero_info(f"strategy: {advice.case}: {advice.recipe.words}")
    recipe = asdict(advice.recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"case": advice.case, "recipe": recipe, "reasons": list(advice.reasons)}
    path.write_text(json.dumps(facts, indent=1) + "\n")
    return recipe
