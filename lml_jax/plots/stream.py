"""Scores over a stream, from the matrix R: a heat map, and lines over tasks."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lml_jax.plots.style import (
    COLOURS,
    LARGE,
    MEDIUM,
    SMALL,
    Run,
    Runs,
    floats,
    label_ends,
    line_style,
    name_of,
    new_axes,
    records_of,
)

PRINTED = 12  # up to this many tasks a cell has room for its value


def heatmap(run: Run, *, key: str = "R") -> Figure:
    """The matrix R of one run: rows after task i = 0..T, columns task j, colours from 0 to 1.

    Undefined cells are hatched; the line parts what was learned (below) from what was to come.

    Raises: ValueError if the run has no `key`, or its shape is not [T + 1, T].
    """
    r = matrix(run, key)
    tasks = r.shape[1]
    side = min(3.0 + 0.45 * tasks, 8.0)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.add_subplot()
    # What imshow leaves out shows the background.
    axes.patch.set(facecolor="0.93", edgecolor="0.75", hatch="////")
    image = axes.imshow(np.ma.masked_invalid(r), vmin=0, vmax=1, cmap="cividis", aspect="auto")
    edges = np.arange(tasks + 1) - 0.5
    x, y = np.repeat(edges, 2)[1:-1], np.repeat(edges[1:], 2)
    axes.plot(x, y, color="white", linewidth=2.5)
    axes.plot(x, y, color="black", linewidth=1)
    if tasks <= PRINTED:
        axes.set_xticks(range(tasks), [str(j + 1) for j in range(tasks)])
        axes.set_yticks(range(tasks + 1), [str(i) for i in range(tasks + 1)])
        for i, j in zip(*np.nonzero(np.isfinite(r)), strict=True):
            ink = "white" if r[i, j] < 0.5 else "black"
            axes.text(j, i, f"{r[i, j]:.2f}", ha="center", va="center", color=ink, fontsize=SMALL)
    else:
        ticks = [*range(4, tasks, 5)]
        axes.set_xticks(ticks, [str(j + 1) for j in ticks])
        axes.set_yticks([0, *(j + 1 for j in ticks)], ["0", *(str(j + 1) for j in ticks)])
    axes.tick_params(length=0, labelsize=MEDIUM)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("score on task $j$", fontsize=LARGE)
    axes.set_ylabel("after task $i$ (0: untrained)", fontsize=LARGE)
    axes.set_title(name_of(run, "learner", "data", "scenario", "seed"), fontsize=LARGE, loc="left")
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(_score_label(key), fontsize=LARGE)
    bar.ax.tick_params(labelsize=MEDIUM)
    bar.outline.set_visible(False)
    return figure


def accuracy_over_stream(runs: Runs, *, key: str = "R") -> Figure:
    """Mean score on the tasks seen so far, against their number: a line a learner.

    1/i sum_{j<=i} R_{i,j} for i = 1..T; the line is the mean over seeds, the band goes from the
    lowest to the highest seed. A gap is an undefined score. Learners without `key` are left out,
    and keep their colour for the other figures.

    Raises: ValueError if no run has `key`, or runs differ in data, scenario or number of tasks.
    """
    records = records_of(runs)
    learners = list(dict.fromkeys(str(run["learner"]) for run in records))
    having = [run for run in records if run.get(key) is not None]
    matrices = [(str(run["learner"]), matrix(run, key)) for run in having]
    if not matrices:
        raise ValueError(f"none of the {len(records)} runs has {key!r}")
    settings = {(run.get("data"), run.get("scenario")) for run in records}
    shapes = {r.shape for _, r in matrices}
    if len(settings) > 1 or len(shapes) > 1:
        raise ValueError(f"runs must share data, scenario and shape; got {settings}, {shapes}")
    tasks = shapes.pop()[1]
    figure, axes = new_axes()
    x = np.arange(1, tasks + 1)
    ends = []
    for n, learner in enumerate(learners):
        seeds = np.array([seen_so_far(r) for name, r in matrices if name == learner])
        if seeds.size == 0:
            continue
        # np.mean, not nanmean: a mean over the seeds that happen to be defined would mislead.
        mean, colour = seeds.mean(axis=0), COLOURS[n % len(COLOURS)]
        axes.fill_between(x, seeds.min(axis=0), seeds.max(axis=0), color=colour, alpha=0.18, lw=0)
        axes.plot(x, mean, color=colour, label=learner, **line_style(n))
        defined = np.flatnonzero(np.isfinite(mean))
        if defined.size:
            ends.append((float(mean[defined[-1]]), learner, colour))
    finite = [y for y, _, _ in ends]
    if finite and min(finite) >= 0 and max(finite) <= 1:
        axes.set_ylim(0, 1.02)
    axes.set_xlim(1 - 0.02 * tasks, tasks + 0.02 * tasks)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    label_ends(axes, ends)
    axes.set_xlabel("tasks learned $i$", fontsize=LARGE)
    axes.set_ylabel(f"{_score_label(key)}, mean over tasks seen", fontsize=LARGE)
    axes.set_title(name_of(records[0], "data", "scenario"), fontsize=LARGE, loc="left")
    return figure


def matrix(run: Run, key: str) -> NDArray[np.float64]:
    """The matrix of scores [T + 1, T] under `key`; ValueError for none, or another shape."""
    if run.get(key) is None:
        raise ValueError(f"the run of {run.get('learner')!r} has no {key!r}")
    r = floats(run[key])
    if r.ndim != 2 or r.shape[1] < 1 or r.shape[0] != r.shape[1] + 1:
        raise ValueError(f"{key} must have shape [T + 1, T], T >= 1; got {r.shape}")
    return r


def seen_so_far(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean score of the tasks seen after each task, [T]."""
    return np.array([r[i, :i].mean() for i in range(1, len(r))])


def _score_label(key: str) -> str:
    """What the matrix R or R_adapted holds."""
    return "accuracy after adapting" if key == "R_adapted" else "accuracy"


def training_curves(losses: Mapping[str, Mapping[int, float]]) -> Figure:
    """The loss over the updates of training, a line for each part of a run.

    Args:
        losses: name -> {updates done: loss}, at least one name.

    Raises:
        ValueError: for nothing to draw.

    Example:
        >>> figure = training_curves({"memory": {25: 0.9, 50: 0.4}})
    """
    if not losses:
        raise ValueError("there are no losses to draw")
    figure, axes = new_axes()
    for n, (name, values) in enumerate(losses.items()):
        style = line_style(n) | {"marker": "", "linewidth": 1.2}
        steps = sorted(values)
        axes.plot(steps, [values[s] for s in steps], color=COLOURS[n % len(COLOURS)], label=name,
                  **style)  # fmt: skip
    axes.set_xlabel("updates", fontsize=LARGE)
    axes.set_ylabel("loss", fontsize=LARGE)
    axes.legend(fontsize=SMALL, frameon=False)
    return figure
