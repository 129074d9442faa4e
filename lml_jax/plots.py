"""Figures from saved metrics: each function takes what `metrics.json` holds, returns a `Figure`.

The figures are made without pyplot, so nothing global changes and nothing has to be closed.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lml_jax.files import replacing

Run = Mapping[str, Any]  # one record of metrics.json
Runs = Run | Sequence[Run]  # the file, one record, or a list of records

# Okabe and Ito's palette, without its yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # a second sign, for print in grey
PRINTED = 12  # up to this many tasks a cell has room for its value
LARGE, MEDIUM, SMALL = 11, 10, 8  # font sizes


def heatmap(run: Run, *, key: str = "R") -> Figure:
    """The matrix R of one run: rows after task i = 0..T, columns task j, colours from 0 to 1.

    Undefined cells are hatched; the line parts what was learned (below) from what was to come.

    Raises: ValueError if the run has no `key`, or its shape is not [T + 1, T].
    """
    r = _matrix(run, key)
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
    axes.set_title(_name(run, "learner", "data", "scenario", "seed"), fontsize=LARGE, loc="left")
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
    records = _records(runs)
    learners = list(dict.fromkeys(str(run["learner"]) for run in records))
    having = [run for run in records if run.get(key) is not None]
    matrices = [(str(run["learner"]), _matrix(run, key)) for run in having]
    if not matrices:
        raise ValueError(f"none of the {len(records)} runs has {key!r}")
    settings = {(run.get("data"), run.get("scenario")) for run in records}
    shapes = {r.shape for _, r in matrices}
    if len(settings) > 1 or len(shapes) > 1:
        raise ValueError(f"runs must share data, scenario and shape; got {settings}, {shapes}")
    tasks = shapes.pop()[1]
    figure, axes = _axes()
    x = np.arange(1, tasks + 1)
    ends = []
    for n, learner in enumerate(learners):
        seeds = np.array([_seen_so_far(r) for name, r in matrices if name == learner])
        if seeds.size == 0:
            continue
        # np.mean, not nanmean: a mean over the seeds that happen to be defined would mislead.
        mean, colour = seeds.mean(axis=0), COLOURS[n % len(COLOURS)]
        axes.fill_between(x, seeds.min(axis=0), seeds.max(axis=0), color=colour, alpha=0.18, lw=0)
        axes.plot(x, mean, color=colour, label=learner, **_style(n))
        defined = np.flatnonzero(np.isfinite(mean))
        if defined.size:
            ends.append((float(mean[defined[-1]]), learner, colour))
    finite = [y for y, _, _ in ends]
    if finite and min(finite) >= 0 and max(finite) <= 1:
        axes.set_ylim(0, 1.02)
    axes.set_xlim(1 - 0.02 * tasks, tasks + 0.02 * tasks)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _label_ends(axes, ends)
    axes.set_xlabel("tasks learned $i$", fontsize=LARGE)
    axes.set_ylabel(f"{_score_label(key)}, mean over tasks seen", fontsize=LARGE)
    axes.set_title(_name(records[0], "data", "scenario"), fontsize=LARGE, loc="left")
    return figure


def accuracy_over_classes(
    lengths: Sequence[int],
    measured: Mapping[str, NDArray],
    published: Mapping[str, Mapping[int, float]],
) -> Figure:
    """Held-out accuracy against the number of classes learned, beside published values.

    `measured`: name -> [draws, lengths], the line is the mean and the band two standard
    deviations over draws; `published`: name -> {number of classes: accuracy}, dashed.
    """
    figure, axes = _axes()
    for n, (name, values) in enumerate(measured.items()):
        mean, spread = values.mean(0), 2 * values.std(0)
        colour = COLOURS[n % len(COLOURS)]
        axes.fill_between(lengths, mean - spread, mean + spread, color=colour, alpha=0.18, lw=0)
        axes.plot(lengths, mean, color=colour, label=name, **_style(n))
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
    figure, axes = _axes()
    for n, (name, values) in enumerate(recall["samples"].items()):
        colour = COLOURS[n % len(COLOURS)]
        axes.plot(recall["bytes"], values, color=colour, label=f"{name}, samples", **_style(n))
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


def accuracy_per_inner_step(runs: Runs) -> Figure:
    """Few-shot accuracy after 0..S inner steps, with its 95 % confidence interval if stored.

    A run with no accuracy per step, as of a learner that takes none, is a dashed level.

    Raises: ValueError if a run has neither `accuracy_per_inner_step` nor `accuracy`, or its
    `ci95_per_inner_step` has another length.
    """
    figure, axes = _axes()
    records = _records(runs)
    longest = 0
    for n, run in enumerate(records):
        y = _floats(run.get("accuracy_per_inner_step") or [run.get("accuracy")])
        label = _name(run, "learner") + _episode(run)
        if not np.isfinite(y).any():
            raise ValueError(f"{label}: neither 'accuracy_per_inner_step' nor 'accuracy'")
        if y.size == 1:
            colour = COLOURS[n % len(COLOURS)]
            axes.axhline(float(y[0]), color=colour, linestyle="--", linewidth=1.8, label=label)
            continue
        ci95 = run.get("ci95_per_inner_step")
        half = _floats(ci95) if ci95 else np.full(y.shape, np.nan)
        if half.shape != y.shape:
            raise ValueError(f"{label}: {y.size} accuracies but {half.size} intervals")
        colour = COLOURS[n % len(COLOURS)]
        axes.fill_between(np.arange(y.size), y - half, y + half, color=colour, alpha=0.18, lw=0)
        axes.plot(np.arange(y.size), y, color=colour, label=label, **_style(n))
        longest = max(longest, y.size - 1)
    if longest:
        axes.set_xlim(-0.02 * longest, 1.02 * longest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("inner steps", fontsize=LARGE)
    axes.set_ylabel("query accuracy", fontsize=LARGE)
    axes.set_title(_name(records[0], "data"), fontsize=LARGE, loc="left")
    axes.legend(frameon=False, fontsize=MEDIUM, loc="best")
    return figure


def sample_grid(images: NDArray[np.floating], labels: Sequence[str], *, title: str = "") -> Figure:
    """Examples side by side, a row a class: `images` [rows, columns, H, W] in 0..1, ink bright.

    Raises: ValueError if `images` is not of rank 4, or `labels` names another number of rows.
    """
    if images.ndim != 4 or images.shape[0] != len(labels):
        raise ValueError(
            f"expected images [rows, columns, H, W] and a label a row; got {images.shape} and "
            f"{len(labels)} labels"
        )
    rows, columns, h, w = images.shape
    # One image with thin lines between: an axes for each would take seconds to draw.
    sheet = np.full((rows * (h + 1) - 1, columns * (w + 1) - 1), 0.5)
    for i, j in np.ndindex(rows, columns):
        sheet[i * (h + 1) : i * (h + 1) + h, j * (w + 1) : j * (w + 1) + w] = images[i, j]
    scale = min(0.5, 8.0 / max(rows, columns))
    figure = Figure(figsize=(columns * scale + 1.2, rows * scale + 0.5), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet, vmin=0, vmax=1, cmap="gray_r", aspect="equal", interpolation="nearest")
    axes.set_yticks([i * (h + 1) + h / 2 for i in range(rows)], labels)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=SMALL)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=MEDIUM, loc="left")
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a png of 150 dots an inch, making its folder; a reader never sees half a file."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return Path(path)


def _records(runs: Runs) -> list[Run]:
    listed = runs.get("runs", [runs]) if isinstance(runs, Mapping) else runs
    records: list[Run] = list(listed)
    if not records:
        raise ValueError("there are no runs to draw")
    return records


def _floats(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)  # null, loaded as None, becomes NaN


def _matrix(run: Run, key: str) -> NDArray[np.float64]:
    if run.get(key) is None:
        raise ValueError(f"the run of {run.get('learner')!r} has no {key!r}")
    r = _floats(run[key])
    if r.ndim != 2 or r.shape[1] < 1 or r.shape[0] != r.shape[1] + 1:
        raise ValueError(f"{key} must have shape [T + 1, T], T >= 1; got {r.shape}")
    return r


def _seen_so_far(r: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([r[i, :i].mean() for i in range(1, len(r))])


def _name(run: Run, *fields: str) -> str:
    words = [(f"seed {run[f]}" if f == "seed" else str(run[f])) for f in fields if f in run]
    return ", ".join(words)


def _episode(run: Run) -> str:
    if "ways" not in run or "shots" not in run:
        return ""
    return f", {run['ways']}-way {run['shots']}-shot"


def _score_label(key: str) -> str:
    return "accuracy after adapting" if key == "R_adapted" else "accuracy"


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=MEDIUM)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _style(n: int) -> dict[str, Any]:
    # Past the end of the palette the dashes tell a colour's second bearer from its first.
    dashes = ("-", "--", ":")[n // len(COLOURS) % 3]
    marker = MARKERS[n % len(MARKERS)]
    return {"marker": marker, "markersize": 5, "linewidth": 1.8, "linestyle": dashes}


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
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
