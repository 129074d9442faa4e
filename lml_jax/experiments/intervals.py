"""A table of runs of several learners with the same seeds: means, intervals, differences."""

from collections.abc import Mapping

import numpy as np

from lml_jax.experiments.lifelong.ablation import paired
from lml_jax.experiments.record import Record


def table(runs: list[Record], figures: Mapping[str, str]) -> str:
    """A line for each learner, in percent, with half of the 95 % interval over its seeds.

    Args:
        runs: records with `learner`, `seed`, `acc`, `bytes`, `seconds` and the figures.
        figures: key -> title of a column.
    """
    names = list(dict.fromkeys(run["learner"] for run in runs))
    seeds = len({run["seed"] for run in runs})
    lines = [
        f"{seeds} paired seeds, in percent, with half of the 95 % interval; in brackets the "
        f"difference of the accuracy to {names[0]}; bank and own state in kB"
    ]
    titles = "".join(f"{title:>16s}" for title in figures.values())
    lines.append(f"{'':14s}{titles}{'difference':>18s}{'bank':>8s}{'own':>8s}{'s':>6s}")
    first = [run["acc"] for run in runs if run["learner"] == names[0]]
    for name in names:
        own = [run for run in runs if run["learner"] == name]
        cells = "".join(f"{interval([run[key] for run in own]):>16s}" for key in figures)
        shift = f"({interval([run['acc'] for run in own], first)})"
        sizes = [np.mean([run["bytes"][part] for run in own]) / 1000 for part in ("bank", "own")]
        seconds = np.mean([sum(run["seconds"].values()) for run in own])
        lines.append(f"{name:14s}{cells}{shift:>18s}{sizes[0]:8.0f}{sizes[1]:8.0f}{seconds:6.0f}")
    return "\n".join(lines)


def interval(values: list[float | None], minus: list[float] | None = None) -> str:
    """The mean and half of its 95 % interval, in percent; of one value the value alone.

    "-" where a value is not known.

    Example:
        >>> interval([0.5, 0.75]), interval([0.5], [0.25]), interval([None])
        ('62.5 ± 158.8', '+25.0', '-')
    """
    known = [value for value in values if value is not None and not np.isnan(value)]
    if len(known) < len(values):
        return "-"
    zero = [0.0] * len(known) if minus is None else minus
    sign = "" if minus is None else "+"
    if len(known) < 2:
        return f"{100 * (known[0] - zero[0]):{sign}.1f}"
    mean, half = paired(known, zero)
    return f"{100 * mean:{sign}.1f} ± {100 * half:.1f}"
