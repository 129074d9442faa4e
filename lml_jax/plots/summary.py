"""The summary figure of a lifelong run: accuracy over the stream with its bounds, forgetting."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lml_jax.plots.stream import matrix, seen_so_far
from lml_jax.plots.style import COLOURS, LARGE, MEDIUM, Run, Runs, line_style, name_of, records_of


def summary(runs: Runs) -> Figure:
    """Accuracy over the tasks seen so far, and forgetting after the last task, of every learner.

    On the left 1/i sum_{j<=i} R_{i,j} for i = 1..T, mean over seeds; learners whose `bound` is
    "lower" or "upper" are dashed, with the area between them shaded. On the right the mean
    `forgetting` over seeds, and each seed as a dot.

    Args:
        runs: records of `metrics.json`.

    Raises:
        ValueError: if a run has no R, or runs differ in data, scenario or number of tasks.

    Example:
        >>> run = {"R": [[0, 0], [0.9, 0], [0.7, 0.8]], "forgetting": 0.2, "data": "glyphs"}
        >>> figure = summary([{**run, "learner": "memory"},
        ...                   {**run, "learner": "finetune", "bound": "lower"}])
    """
    records = records_of(runs)
    shared = {(r.get("data"), r.get("scenario"), matrix(r, "R").shape) for r in records}
    if len(shared) > 1:
        raise ValueError(f"runs must share data, scenario and shape; got {shared}")
    by_learner: dict[str, list[Run]] = {}
    for record in records:
        by_learner.setdefault(str(record["learner"]), []).append(record)
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_accuracy(left, by_learner)
    _draw_forgetting(right, by_learner)
    left.set_title(name_of(records[0], "data", "scenario"), fontsize=LARGE, loc="left")
    return figure


def _draw_accuracy(axes: Axes, by_learner: dict[str, list[Run]]) -> None:
    _frame(axes, "y")
    bounds = {}
    for n, (name, own) in enumerate(by_learner.items()):
        mean = np.mean([seen_so_far(matrix(run, "R")) for run in own], axis=0)
        x, bound, style = np.arange(1, len(mean) + 1), own[0].get("bound"), line_style(n)
        label = f"{name} ({bound} bound)" if bound else name
        style |= {"linestyle": "--"} if bound else {}
        axes.plot(x, mean, color=COLOURS[n % len(COLOURS)], label=label, **style)
        if bound:
            bounds[bound] = mean
    if len(bounds) == 2:
        axes.fill_between(x, bounds["lower"], bounds["upper"], color="0.5", alpha=0.12, lw=0)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("tasks learned", fontsize=LARGE)
    axes.set_ylabel("accuracy, mean over tasks seen", fontsize=LARGE)
    axes.legend(fontsize=MEDIUM, frameon=False)


def _draw_forgetting(axes: Axes, by_learner: dict[str, list[Run]]) -> None:
    _frame(axes, "x")
    for n, own in enumerate(by_learner.values()):
        values = [run.get("forgetting") for run in own]
        each = 100 * np.array([np.nan if v is None else v for v in values], float)
        colour = COLOURS[n % len(COLOURS)]
        axes.barh(n, each.mean(), color=colour, alpha=0.8)
        axes.plot(each, np.full(len(each), n), color="0.2", marker="o", markersize=3, lw=0)
    axes.set_yticks(range(len(by_learner)), list(by_learner), fontsize=MEDIUM)
    axes.invert_yaxis()
    axes.set_xlabel("forgetting after the last task, in points", fontsize=LARGE)


def _frame(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=MEDIUM)
    axes.grid(axis=grid, color="0.9", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
