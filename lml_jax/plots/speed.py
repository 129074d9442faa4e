"""Rates beside other libraries, and what a step costs as something grows."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lml_jax.plots.style import COLOURS, LARGE, MEDIUM, SMALL, line_style, new_axes


def rates(races: Sequence[Mapping[str, Any]], *, ours: str) -> Figure:
    """Ours / theirs for each race of `bench.run_races`, on a logarithmic axis.

    A mark is a median over repeats, the line goes through its quartiles; right of 1 ours is faster.

    Raises: ValueError if no race has a peer.
    """
    rows = [
        (f"{race['workload']}: {peer}", ratio)
        for race in races
        for peer, ratio in race["ratios"].items()
    ]
    if not rows:
        raise ValueError("no race has a contestant beside ours")
    figure, axes = new_axes()
    figure.set_figheight(1.2 + 0.28 * len(rows))
    for i, (_, ratio) in enumerate(reversed(rows)):
        axes.plot([ratio["low"], ratio["high"]], [i, i], color=COLOURS[0], linewidth=3, alpha=0.4)
        axes.plot([ratio["median"]], [i], color=COLOURS[0], marker="o")
        axes.annotate(
            f"{ratio['median']:.3g} x",
            (ratio["median"], i),
            (6, 4),
            textcoords="offset points",
            fontsize=SMALL,
        )
    axes.axvline(1, color="0.4", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)], fontsize=SMALL)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{ours} / other, in rate", fontsize=LARGE)
    return figure


def costs(curves: Mapping[str, Mapping[int, float]], *, of: str, unit: str) -> Figure:
    """A line a curve: {how many: cost}, from 0 up, against a logarithmic axis.

    Example:
        >>> figure = costs({"one draw": {1: 2.0, 10: 2.1}}, of="past tasks", unit="ms a step")
    """
    figure, axes = new_axes()
    for n, (name, curve) in enumerate(curves.items()):
        xs, ys = list(curve), list(curve.values())
        axes.plot(xs, ys, color=COLOURS[n % len(COLOURS)], label=name, **line_style(n))
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(of, fontsize=LARGE)
    axes.set_ylabel(unit, fontsize=LARGE)
    axes.legend(frameon=False, fontsize=MEDIUM)
    return figure
