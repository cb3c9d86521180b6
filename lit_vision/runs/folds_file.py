"""The folder of k folds, runs/<experiment>/folds<k>-<time>-<id>/: a run folder for each, and folds.json.

Needs no torch.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lit_vision.errors import UserError
from lit_vision.runs import folder as run_folder

NAME = "folds.json"


@dataclass
class Fold:
    """One of k trainings.

    Args:
        fold: 0 to k - 1, which part it was validated on.
        pictures: in that part; None where the task does not tell.
        last: the metric after the last epoch.
        best: of the best checkpoint, which was chosen on the very same part.
        seconds: of training, of all its starts together.
        trained: its training has come to its end.
    """

    fold: int
    pictures: int | None = None
    last: float | None = None
    best: float | None = None
    seconds: float = 0.0
    trained: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.trained and self.last is not None and self.best is not None


@dataclass
class Folds:
    """What is known of k trainings that belong together; kept in folds.json after each step.

    Args:
        folder: of all of them; its name is no run's name, so that no command takes it for one.
        experiment: its name.
        words: options of `lit-vision fit` that all have in common.
        metric: key of the metric, such as "val/accuracy"; "" as long as none is known.
        runs: one for each fold.
        summary: mean, interval ...; empty as long as a fold is not finished.
    """

    folder: Path
    experiment: str
    words: list[str]
    metric: str = ""
    runs: list[Fold] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def run_dir(self, fold: int) -> Path:
        """Run folder of a fold."""
        return self.folder / f"fold{fold}"

    def save(self) -> None:
        """Writes folds.json as one step."""
        content = {name: value for name, value in asdict(self).items() if name != "folder"}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{NAME}.partial"
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(self.folder / NAME)


def new(runs: Path, experiment: str, count: int, words: Sequence[str], folder: Path | None = None) -> Folds:
    """Folds that begin.

    Args:
        runs: root of all run folders.
        experiment: name of the experiment.
        count: k.
        words: options that all have in common.
        folder: of the folds; None = a new one below `runs`.
    """
    if folder is None:
        name = run_folder.new(runs, experiment).path.name
        folder = runs / experiment / f"folds{count}-{name}"
    return Folds(folder, experiment, list(words), runs=[Fold(k) for k in range(count)])


def read(folder: Path) -> Folds:
    """Folds as they were left.

    Raises:
        UserError: folds.json is damaged.
    """
    try:
        content = json.loads((folder / NAME).read_text())
        return Folds(folder, **{**content, "runs": [Fold(**one) for one in content["runs"]]})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / NAME} is damaged: begin new folds, or mend it") from error


def newest(runs: Path, experiment: str, count: int) -> Path | None:
    """The newest folder of k folds of an experiment; None where there is none."""
    found = sorted((runs / experiment).glob(f"folds{count}-*/{NAME}"))
    return found[-1].parent if found else None
