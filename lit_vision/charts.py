"""Charts as RGB pictures: confusion matrices, curves, intervals, unfreezing over time. matplotlib is imported late."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lit_vision.metrics.operating_points import Curve
from lit_vision.plotting import write_picture
from lit_vision.types import UInt8Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 60  # classes up to which a confusion matrix names them; hundreds of names take half a minute and show nothing
NUMBERED = 25  # classes up to which the cells of a confusion matrix carry their counts
COLOURED = 10  # classes up to which each has a colour and a place in a legend
COUNTED = 100_000  # counts from here on no longer fit into a cell


def confusion_matrix(counts: npt.ArrayLike, class_names: Sequence[str]) -> UInt8Array:
    """Rows are the truth, columns the prediction; colours are shares of a row, numbers are counts, or percent of a row.

    Percent where there are too many for the cells, as of pixels.

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
    if classes <= NAMED:
        # A "$" in a name is no formula.
        axes.set_xticks(range(classes), class_names, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), class_names, parse_math=False)
    many = matrix.max(initial=0) >= COUNTED
    axes.set(xlabel="predicted, % of what is true" if many else "predicted", ylabel="true")
    if classes <= NUMBERED:
        for i, j in np.ndindex(matrix.shape):
            number = f"{100 * shares[i, j]:.0f}" if many else f"{matrix[i, j]:g}"
            axes.text(j, i, number, ha="center", va="center", color="w" if shares[i, j] > 0.5 else "k")
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


def precision_recall(found: Mapping[str, Curve], thresholds: Mapping[str, float]) -> UInt8Array:
    """Left precision over recall at an IoU of 0.5, right F1 over the score threshold, with a dot at the ones in force.

    Few classes have a colour each and their average precision in the legend; of many, thin lines show the range. The
    black line is the mean.

    Args:
        found: name -> curve of a class.
        thresholds: name -> score threshold.
    """
    figure = _figure(11, 5)
    left, right = figure.subplots(1, 2)
    recalls, scores = np.linspace(0, 1, 101), np.linspace(0, 1, 201)
    high = [curve.at_recalls() for curve in found.values()]
    f1 = [curve.f1_above(scores) for curve in found.values()]
    few = len(found) <= COLOURED
    for k, (name, curve) in enumerate(found.items()):
        look: dict[str, Any] = {"color": f"C{k}" if few else "0.75", "linewidth": 1.4 if few else 0.6}
        left.plot(recalls, high[k], **look, label=f"{name} {curve.average_precision:.3f}" if few else None)
        right.plot(scores, f1[k], **look)
        chosen = np.array([thresholds[name]])
        right.plot(chosen, curve.f1_above(chosen), "o", color=look["color"], markersize=4)
    if len(found) > 1:
        mean = float(np.mean([curve.average_precision for curve in found.values()]))
        label = f"mean of {len(found)} classes {mean:.3f}"
        left.plot(recalls, np.mean(high, 0), color="k", linewidth=2.2, label=label)
        right.plot(scores, np.mean(f1, 0), color="k", linewidth=2.2)
    left.set(xlabel="recall", ylabel="precision, IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
    right.set(xlabel="score threshold", ylabel="F1, IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    for text in left.legend(frameon=False, loc="lower left", title="average precision").get_texts():
        text.set_parse_math(False)
    return _pixels(figure)


def intervals(panels: Mapping[str, Sequence[tuple[str, float, float, float]]]) -> UInt8Array:
    """A forest plot: values with their intervals, a line each, one panel over the other.

    Args:
        panels: title -> (name, value, low, high) from top to bottom; one whose title begins with "difference" gets a
            line at 0.
    """
    rows = [len(lines) for lines in panels.values()]
    figure = _figure(8, 1.0 * len(panels) + 0.4 * sum(rows))
    for axes, (title, lines) in zip(
        figure.subplots(len(panels), 1, squeeze=False, height_ratios=rows)[:, 0], panels.items(), strict=True
    ):
        for y, (_, value, low, high) in enumerate(lines):
            axes.plot([low, high], [y, y], color="C0", linewidth=2)
            axes.plot(value, y, "o", color="C0")
        axes.set_yticks(range(len(lines)), [textwrap.shorten(name, 60) for name, *_ in lines], parse_math=False)
        axes.set(ylim=(len(lines) - 0.5, -0.5), xlabel=title)
        axes.grid(axis="x", alpha=0.3)
        if title.startswith("difference"):
            axes.axvline(0, color="0.4", linewidth=1)
    return _pixels(figure)


def unfreezing_timeline(
    history: Sequence[Mapping[str, Any]],
    stage_labels: Sequence[str],
    monitor: str,
    total_steps: int,
    path: Path,
    experiment: str | None = None,
) -> Path:
    """Draws when each stage was open, the head on top, below the monitored metric.

    Args:
        history: events in order, each {step, epoch, stage, event, value}: step = optimizer steps done, stage = number
            of stages open from then on, event = "start", "open", "rollback", "value" or "end", value = of the metric.
        stage_labels: of stage 0, 1, ...; the head needs none.
        monitor: name of the metric.
        total_steps: planned optimizer steps; the axis ends with the run where it has ended.
        path: PNG to write; its folder is made.
        experiment: for the title.
    """
    now = max((event["step"] for event in history), default=0)
    ended = any(event["event"] == "end" for event in history)
    end = max(now if ended else max(now, total_steps), 1)
    labels = ["head", *(textwrap.fill(label, 44, max_lines=2, placeholder=" ...") for label in stage_labels)]
    height = len(labels) * (0.42 if any("\n" in label for label in labels) else 0.34)
    figure = _figure(9, 2.9 + height)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.0, height])
    _draw_metric(upper, history, monitor)
    _draw_lanes(lower, history, labels, now)
    for axes in (upper, lower):
        for event in history:
            if event["event"] in ("open", "rollback"):
                axes.axvline(event["step"], color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    lower.set(xlabel="optimizer step", xlim=(-0.01 * end, 1.01 * end))
    lower.xaxis.get_major_locator().set_params(integer=True)
    _tick_epochs(upper, history, end)
    figure.suptitle(f"Unfreezing of {experiment}" if experiment else "Unfreezing", fontsize=11)
    return write_picture(path, _pixels(figure))


def _draw_metric(axes: "Axes", history: Sequence[Mapping[str, Any]], monitor: str) -> None:
    values = [event for event in history if event["event"] == "value"]
    # None and NaN leave a gap.
    y = [math.nan if event["value"] is None else float(event["value"]) for event in values]
    axes.plot([event["step"] for event in values], y, marker="o", markersize=3, color="C3")
    if not any(map(math.isfinite, y)):
        axes.text(0.5, 0.5, "no finite value", ha="center", va="center", transform=axes.transAxes, color="0.5")
        axes.set_yticks([])
    axes.set_ylabel(monitor)
    axes.grid(axis="y", alpha=0.3)


def _draw_lanes(axes: "Axes", history: Sequence[Mapping[str, Any]], labels: Sequence[str], now: int) -> None:
    for lane in range(len(labels)):
        # The head is open from the start; stage k is while more than k stages are.
        spans = [(0, now, False)] if lane == 0 else open_spans(history, lane - 1, now)
        for start, end, taken_back in spans:
            look: dict[str, Any] = {"color": "C0" if lane else "0.45"}
            if taken_back:
                look = {"facecolor": "none", "edgecolor": "C1", "hatch": "////"}
                axes.annotate("taken back", (end, lane), (4, 0), textcoords="offset points", va="center", fontsize=8)
            axes.barh(lane, end - start, left=start, height=0.66, **look)
            axes.plot([start, start], [lane - 0.33, lane + 0.33], color=look.get("color", "C1"), linewidth=2)
        if not spans:
            axes.text(0.01, lane, "closed", va="center", fontsize=8, color="0.6", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def open_spans(history: Sequence[Mapping[str, Any]], stage: int, now: int) -> list[tuple[int, int, bool]]:
    """(first step, last step, whether it was taken back) of each time that a stage was open."""
    spans: list[tuple[int, int, bool]] = []
    since: int | None = None
    for event in history:
        if event["stage"] > stage and since is None:
            since = event["step"]
        elif event["stage"] <= stage and since is not None:
            spans, since = [*spans, (since, event["step"], True)], None
    return spans if since is None else [*spans, (since, now, False)]


def _tick_epochs(axes: "Axes", history: Sequence[Mapping[str, Any]], end: int) -> None:
    """Marks the starts of epochs above, where the history tells how long they are."""
    steps = steps_per_epoch(history)
    if steps is None:
        return
    every = max(1, math.ceil(end / steps / 12))
    above = axes.secondary_xaxis("top")
    starts = range(0, math.floor(end / steps) + 1, every)
    above.set_xticks([epoch * steps for epoch in starts], [str(epoch) for epoch in starts])
    above.set_xlabel("epoch")


def steps_per_epoch(history: Sequence[Mapping[str, Any]]) -> float | None:
    """Steps of an epoch, as long as those whose ends the history has seen: an event in epoch e is at most its end."""
    known = [event for event in history if event["event"] != "end" and event["step"] > 0]
    ends = [event["step"] / (event["epoch"] + 1) for event in known if event["event"] == "value"]
    starts = [event["step"] / event["epoch"] for event in known if event["epoch"] > 0]
    return max(ends, default=min(starts, default=None))


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _pixels(figure: "Figure") -> UInt8Array:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves these methods without annotations
    canvas.draw()
    return np.array(canvas.buffer_rgba(), np.uint8)[:, :, :3]
