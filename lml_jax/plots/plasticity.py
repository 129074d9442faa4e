"""Accuracy while learning, and dormant units, over many tasks."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lml_jax.plots.style import COLOURS, LARGE, MEDIUM, Runs, floats, name_of, records_of

_POINTS = 50  # along the tasks, each a mean of those around it


def plasticity(runs: Runs) -> Figure:
    """Online accuracy of each task, and the share of dormant units after it.

    A line is the mean over the seeds of a learner, in blocks of tasks; the band is the standard
    deviation over seeds.

    Args:
        runs: records with `learner`, `online` and `dormant`, a number for each task.

    Raises: ValueError if the runs of a learner have different numbers of tasks.
    """
    records = records_of(runs)
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = {"online": "accuracy while learning", "dormant": "dormant hidden units"}
    for n, name in enumerate(dict.fromkeys(name_of(run, "learner") for run in records)):
        own = [run for run in records if name_of(run, "learner") == name]
        for axes, key in zip(panels, titles, strict=True):
            rows = [floats(run.get(key)) for run in own]
            if len({row.size for row in rows}) > 1:
                raise ValueError(f"{name}: runs of {sorted({row.size for row in rows})} tasks")
            blocks = np.array_split(np.arange(rows[0].size), min(_POINTS, rows[0].size))
            x = [block.mean() + 1 for block in blocks]
            y = np.stack([[row[block].mean() for block in blocks] for row in rows])
            colour, mean, spread = COLOURS[n % len(COLOURS)], y.mean(0), y.std(0)
            axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.18, lw=0)
            axes.plot(x, mean, color=colour, label=name, linewidth=1.8)
    for axes, title in zip(panels, titles.values(), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.tick_params(labelsize=MEDIUM)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("task", fontsize=LARGE)
        axes.set_title(title, fontsize=LARGE, loc="left")
    panels[0].legend(frameon=False, fontsize=MEDIUM)
    return figure
