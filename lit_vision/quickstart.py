"""All four tasks on drawn pictures: draw, train, test, predict, one table."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from lit_vision.data.shapes import draw_shapes
from lit_vision.errors import UserError

EXPERIMENTS = Path(__file__).parent.parent / "experiments" / "quickstart"
PICTURES = {"train": 500, "val": 100, "test": 100, "size": 128}


@dataclass(frozen=True)
class Goal:
    """What a task has to reach on the drawn test split with seed 0.

    Args:
        task: name of its experiment and of its folder in the drawn data.
        metric: key of the test metric.
        floor: the least value.
    """

    task: str
    metric: str
    floor: float


GOALS = (
    Goal("classification", "test/accuracy", 0.95),
    Goal("segmentation", "test/miou", 0.80),
    Goal("instances", "test/ap_50", 0.75),
    Goal("detection", "test/map_50", 0.75),
)


@dataclass(frozen=True)
class Outcome:
    """What a task reached: its metric, seconds of fit, test and predict together, and where the run lies."""

    goal: Goal
    value: float
    seconds: float
    folder: Path

    @property
    def reached(self) -> bool:
        """Whether the value is at or above the floor."""
        return self.value >= self.goal.floor


def main(
    output: Path | str = Path("runs"), goals: Sequence[Goal] = GOALS, options: Sequence[str] = ()
) -> list[Outcome]:
    """Draws the data, then trains, tests and predicts with each task, and prints one table.

    Args:
        output: folder of the run folders; the drawn data go to <output>/quickstart/shapes.
        goals: tasks to run.
        options: further options of `lit-vision fit`, test and predict, such as --trainer.max_epochs=1.

    Returns:
        One outcome for each task.

    Raises:
        UserError: the experiments are not there, or a value is below its floor.
    """
    if not EXPERIMENTS.is_dir():
        raise UserError(f"{EXPERIMENTS} is missing: the quick start runs from a checkout of the project")
    console = Console()
    folder, start = Path(output) / "quickstart", time.monotonic()
    console.print(f"drawing pictures: {folder / 'shapes'}")
    data = draw_shapes(folder / "shapes", **PICTURES)
    outcomes = []
    for goal in goals:
        console.rule(goal.task)
        outcomes.append(run_task(goal, data, folder, options))
    console.print(table_of(outcomes))
    console.print(f"{time.monotonic() - start:.0f} s in all; predictions: <run>/predict/pictures")
    missed = [f"{one.goal.task} reached {one.value:.3f}" for one in outcomes if not one.reached]
    if missed and not options:
        raise UserError(f"below the floor of the quick start: {', '.join(missed)}; look at <run>/pictures")
    return outcomes


def run_task(goal: Goal, data: Path, runs: Path, options: Sequence[str] = ()) -> Outcome:
    """fit, test and predict of one task, through the command line's own functions.

    Args:
        goal: the task.
        data: folder of the drawn data.
        runs: folder of the run folders.
        options: further options for all three commands.
    """
    from lit_vision.cli.vision_cli import run

    start = time.monotonic()
    common = ["-c", str(EXPERIMENTS / f"{goal.task}.yaml"), "--data.root", str(data / goal.task), "--runs", str(runs)]
    folder = run("fit", [*common, *options]).folder.path
    again = [*common, "--run_dir", str(folder), "--ckpt_path", "best", *options]
    value = run("test", again).metrics[goal.metric]
    run("predict", again)
    return Outcome(goal, value, time.monotonic() - start, folder)


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """The last screen: task, metric, value, floor, seconds, run folder."""
    table = Table("task", "metric", "value", "floor", "seconds")
    table.add_column("run folder", overflow="fold")  # a path cut short is no path
    for one in outcomes:
        color = "green" if one.reached else "red"
        value = f"[{color}]{one.value:.3f}[/{color}]"
        table.add_row(
            one.goal.task, one.goal.metric, value, f"{one.goal.floor:.2f}", f"{one.seconds:.0f}", str(one.folder)
        )
    return table


def example_pictures(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Writes the first row of each run's test picture, small, to folder/<task>.jpg, such as for the README."""
    import cv2

    from lit_vision.data.decode import read_image
    from lit_vision.plotting import write_picture

    written = []
    for one in outcomes:
        picture = read_image(one.folder / "pictures" / "test.jpg")
        row = picture[: picture.shape[0] // 4]
        small = cv2.resize(row, (800, round(800 * row.shape[0] / row.shape[1])), interpolation=cv2.INTER_AREA)
        written.append(write_picture(folder / f"{one.goal.task}.jpg", np.asarray(small, np.uint8), quality=80))
    return written
