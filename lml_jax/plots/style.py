"""What the figures share: colours, axes, and how they are written to a file.

They are made without pyplot, so nothing global changes and nothing has to be closed.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lml_jax.atomic_write import replacing

Run = Mapping[str, Any]  # one record of metrics.json
Runs = Run | Sequence[Run]  # the file, one record, or a list of records

# Okabe and Ito's palette, without its yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # a second sign, for print in grey
LARGE, MEDIUM, SMALL = 11, 10, 8  # font sizes


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a png of 150 dots an inch, making its folder; a reader never sees half a file."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return Path(path)


def new_axes() -> tuple[Figure, Axes]:
    """A figure with one pair of axes, lines across and no frame above."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=MEDIUM)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def line_style(n: int) -> dict[str, Any]:
    """How line n is drawn, its colour apart."""
    # Past the end of the palette the dashes tell a colour's second bearer from its first.
    dashes = ("-", "--", ":")[n // len(COLOURS) % 3]
    marker = MARKERS[n % len(MARKERS)]
    return {"marker": marker, "markersize": 5, "linewidth": 1.8, "linestyle": dashes}


def label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each name at the end of its line, moved apart where lines end close together."""
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    ends = sorted(ends)
    places = [y for y, _, _ in ends]
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + gap)
    # Pushed past the top: back down from there, which keeps the order.
    for k in reversed(range(len(places))):
        places[k] = min(places[k], high - gap * (len(places) - 1 - k))
    for place, (_, name, colour) in zip(places, ends, strict=True):
        axes.annotate(
            name,
            xy=(1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=MEDIUM,
            annotation_clip=False,
        )


def records_of(runs: Runs) -> list[Run]:
    """The runs of a file, of one record or of a list.

    Raises: ValueError for none.
    """
    listed = runs.get("runs", [runs]) if isinstance(runs, Mapping) else runs
    records: list[Run] = list(listed)
    if not records:
        raise ValueError("there are no runs to draw")
    return records


def floats(values: Any) -> NDArray[np.float64]:
    """As float64; null, loaded as None, becomes nan."""
    return np.asarray(values, np.float64)


def name_of(run: Run, *fields: str) -> str:
    """What the run says of these fields, for a title or a legend."""
    words = [(f"seed {run[f]}" if f == "seed" else str(run[f])) for f in fields if f in run]
    return ", ".join(words)
