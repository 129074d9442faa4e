"""Lifelong runs that differ in some settings, compared with the first of them, paired by seed."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from lml_jax.experiments.folder import opened
from lml_jax.experiments.lifelong.report import generator_table
from lml_jax.experiments.lifelong.run import run_lifelong
from lml_jax.experiments.lifelong.settings import Lifelong
from lml_jax.experiments.record import Record, write_metrics
from lml_jax.experiments.runner import Report
from lml_jax.settings import check_seeds


class Arm(NamedTuple):
    """A learner by name, and the settings that differ from those of the other arms."""

    learner: str
    changes: Mapping[str, Any] = {}


FIGURES = (
    "acc", "forgetting", "bwt", "learning_accuracy", "learning_accuracy_task", "acc_task",
    "acc_adapted", "fwt_adapted",
)  # fmt: skip


def arms_of(learner: str, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Arm]:
    """Arms of one learner.

    Example:
        >>> arms_of("memory", {"1": {}, "0": {"retention_weight": 0.0}})["0"].changes
        {'retention_weight': 0.0}
    """
    return {name: Arm(learner, own) for name, own in changes.items()}


HISTORY = arms_of(
    "lifelong-maml",
    {"none": {"decay": None}, "0.5": {"decay": 0.5}, "0.9": {"decay": 0.9}, "1": {"decay": 1.0}},
)
RETENTION = arms_of(
    "memory",
    {
        "0": {"retention_weight": 0.0},
        "0.3": {"retention_weight": 0.3},
        "1": {"retention_weight": 1.0},
        "1 statistics": {"retention_weight": 1.0, "recall_by": "statistics"},
    },
)


def ablation(
    arms: Mapping[str, Arm],
    settings: Lifelong,
    *,
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    report: Callable[[Mapping[str, list[Record]]], tuple[Record, str]] | None = None,
) -> Report:
    """(folder, resume=False) -> report: every arm with every seed, all else the same.

    Args:
        arms: by name; the others are compared with the first.
        settings: what the arms share.
        seeds: of the paired runs, at least 2 for a comparison.
        report: the records by arm -> (an entry of `metrics.json`, text); None for a comparison.

    Raises:
        ValueError: for fewer than 2 seeds, unless `report` is given.
    """
    check_seeds(seeds)
    if report is None and len(seeds) < 2:
        raise ValueError(f"expected at least 2 paired seeds, got {len(seeds)}")

    def run(out: Path, *, resume: bool = False, progress: bool = True) -> str:
        runs: dict[str, list[Record]] = {}
        with opened(out, resume=resume) as folder:
            for name, arm in arms.items():
                result = run_lifelong(
                    replace(settings, **arm.changes),
                    folder / name.replace(" ", "_"),
                    learners=(arm.learner,),
                    seeds=seeds,
                    resume=resume,
                    progress=progress,
                )
                runs[name] = [{**record, "arm": name} for record in result["runs"]]
            found, text = (report or compared)(runs)
            write_metrics(folder, {"settings": asdict(settings), **found})
        return text

    return run


def generators(runs: Mapping[str, list[Record]]) -> tuple[Record, str]:
    """The records of all arms, and a table of the measures of their generators."""
    every = [record for own in runs.values() for record in own]
    return {"runs": every}, generator_table(every)


def compared(runs: Mapping[str, list[Record]]) -> tuple[Record, str]:
    """Each arm's figures and its paired differences to the first arm, and a table of them."""
    first = next(iter(runs.values()))
    comparison: dict[str, dict[str, Any]] = {
        arm: {
            key: {
                "mean": float(np.mean([run[key] for run in own])),
                "difference": paired([run[key] for run in own], [run[key] for run in first]),
            }
            for key in FIGURES
        }
        for arm, own in runs.items()
    }
    lines = [
        f"{len(first)} paired seeds, in percent; in brackets the difference to the first row, with "
        "half of its 95 % interval"
    ]
    lines.append(f"{'':14s}" + "".join(f"{key:>26s}" for key in FIGURES))
    for arm, figures in comparison.items():
        cells = []
        for key in FIGURES:
            mean, (shift, half) = figures[key]["mean"], figures[key]["difference"]
            cells.append(f"{100 * mean:8.1f} ({100 * shift:+5.1f} ± {100 * half:4.1f})")
        lines.append(f"{arm:14s}" + "".join(f"{cell:>26s}" for cell in cells))
    return {"comparison": comparison}, "\n".join(lines)


def paired(a: list[float], b: list[float]) -> tuple[float, float]:
    """Mean of a - b over n paired runs, and half its 95 % interval: t_{n-1} sd / sqrt(n).

    Example:
        >>> mean, half = paired([3.0, 5.0], [1.0, 1.0])
        >>> mean, round(half, 3)
        (3.0, 12.706)
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    n = len(difference)
    quantile = stats.t.ppf(0.975, n - 1)
    return float(difference.mean()), float(quantile * difference.std(ddof=1) / np.sqrt(n))
