"""Charts as RGB pictures: confusion matrices and curves. matplotlib is imported on first use."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lit_vision.types import UInt8Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERED = 25  # classes up to which the cells of a confusion matrix carry their counts


def confusion_matrix(counts: npt.ArrayLike, class_names: Sequence[str]) -> UInt8Array:
    """Rows are the truth, columns the prediction; colours are shares of a row, numbers are counts.

    Args:
        counts: (K, K) images, or pixels.
        class_names: K names.
    """
    matrix = np.asarray(counts, np.float64)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    classes = len(class_names)
    figure = _figure(side := min(12.0, 2.5 + 0.42 * classes), side)
    axes = figure.add_subplot()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(classes), class_names, rotation=90)
    axes.set_yticks(range(classes), class_names)
    axes.set(xlabel="predicted", ylabel="true")
    if classes <= NUMBERED:
        for i, j in np.ndindex(matrix.shape):
            axes.text(j, i, f"{matrix[i, j]:g}", ha="center", va="center", color="w" if shares[i, j] > 0.5 else "k")
    return _pixels(figure)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str = "epoch", ylabel: str = ""
) -> UInt8Array:
    """Lines of one chart.

    Args:
        series: name -> (x values, y values); values that are not finite leave a gap.
        xlabel: of the axis.
        ylabel: of the axis.
    """
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    for name, (x, y) in series.items():
        axes.plot(x, y, marker="o" if len(x) < 30 else "", markersize=3, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    if series:
        axes.legend(frameon=False)
    return _pixels(figure)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _pixels(figure: "Figure") -> UInt8Array:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves these methods without annotations
    canvas.draw()
    return np.array(canvas.buffer_rgba(), np.uint8)[:, :, :3]
