"""Accuracy against inner steps, classes learned, or bytes stored."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lml_jax.plots.style import (
    COLOURS,
    LARGE,
    MARKERS,
    MEDIUM,
    SMALL,
    Run,
    Runs,
    floats,
    line_style,
    name_of,
    new_axes,
    records_of,
)


def accuracy_per_inner_step(runs: Runs) -> Figure:
    """Few-shot accuracy after 0..S inner steps, with its 95 % confidence interval if stored.

    A run with no accuracy per step, as of a learner that takes none, is a dashed level.

    Raises: ValueError if a run has neither `accuracy_per_inner_step` nor `accuracy`, or its
    `ci95_per_inner_step` has another length.
    """
    figure, axes = new_axes()
    records = records_of(runs)
    longest = 0
    for n, run in enumerate(records):
        y = floats(run.get("accuracy_per_inner_step") or [run.get("accuracy")])
        label = name_of(run, "learner") + _episode(run)
        if not np.isfinite(y).any():
            raise ValueError(f"{label}: neither 'accuracy_per_inner_step' nor 'accuracy'")
        if y.size == 1:
            colour = COLOURS[n % len(COLOURS)]
            axes.axhline(float(y[0]), color=colour, linestyle="--", linewidth=1.8, label=label)
            continue
        ci95 = run.get("ci95_per_inner_step")
        half = floats(ci95) if ci95 else np.full(y.shape, np.nan)
        if half.shape != y.shape:
            raise ValueError(f"{label}: {y.size} accuracies but {half.size} intervals")
        colour = COLOURS[n % len(COLOURS)]
        axes.fill_between(np.arange(y.size), y - half, y + half, color=colour, alpha=0.18, lw=0)
        axes.plot(np.arange(y.size), y, color=colour, label=label, **line_style(n))
        longest = max(longest, y.size - 1)
    if longest:
        axes.set_xlim(-0.02 * longest, 1.02 * longest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("inner steps", fontsize=LARGE)
    axes.set_ylabel("query accuracy", fontsize=LARGE)
    axes.set_title(name_of(records[0], "data"), fontsize=LARGE, loc="left")
    axes.legend(frameon=False, fontsize=MEDIUM, loc="best")
    return figure


def _episode(run: Run) -> str:
    if "ways" not in run or "shots" not in run:
        return ""
    return f", {run['ways']}-way {run['shots']}-shot"


def accuracy_over_classes(
    lengths: Sequence[int],
    measured: Mapping[str, NDArray],
    published: Mapping[str, Mapping[int, float]],
) -> Figure:
    """Held-out accuracy against the number of classes learned, beside published values.

    `measured`: name -> [draws, lengths], the line is the mean and the band two standard
    deviations over draws; `published`: name -> {number of classes: accuracy}, dashed.
    """
    figure, axes = new_axes()
    for n, (name, values) in enumerate(measured.items()):
        mean, spread = values.mean(0), 2 * values.std(0)
        colour = COLOURS[n % len(COLOURS)]
        axes.fill_between(lengths, mean - spread, mean + spread, color=colour, alpha=0.18, lw=0)
        axes.plot(lengths, mean, color=colour, label=name, **line_style(n))
    for n, (name, points) in enumerate(published.items()):
        xs, ys = list(points), list(points.values())
        mark = MARKERS[(n + len(measured)) % len(MARKERS)]
        axes.plot(xs, ys, linestyle=":", marker=mark, color="0.45", label=name, markersize=5)
    axes.set_ylim(top=1.0)
    axes.set_xlabel("classes learned, one after another", fontsize=LARGE)
    axes.set_ylabel("held-out accuracy", fontsize=LARGE)
    axes.legend(fontsize=SMALL, frameon=False, loc="lower left")
    return figure


def accuracy_by_bytes(recall: Run) -> Figure:
    """Accuracy from the bank alone against the bytes it stores, on a logarithmic axis.

    Lines: more and more stored samples of each class; a single mark: stored statistics instead.
    """
    figure, axes = new_axes()
    for n, (name, values) in enumerate(recall["samples"].items()):
        colour = COLOURS[n % len(COLOURS)]
        axes.plot(recall["bytes"], values, color=colour, label=f"{name}, samples", **line_style(n))
        point = recall["statistics"][name]
        axes.plot(
            [point["bytes"]], [point["accuracy"]], color=colour, linestyle="", marker="*",
            markersize=12, label=f"{name}, statistics",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("bytes stored", fontsize=LARGE)
    axes.set_ylabel("held-out accuracy", fontsize=LARGE)
    axes.legend(fontsize=SMALL, frameon=False, loc="lower right")
    return figure
