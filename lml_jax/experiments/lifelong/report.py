"""From the runs of lifelong learners to the record of them: metrics, figures, a table."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lml_jax import metrics, plots
from lml_jax.experiments.record import tree_bytes, versions
from lml_jax.lifelong.run import StreamRun


def record_of(settings: Any, name: str, seed: int, row: int, so_far: StreamRun) -> dict[str, Any]:
    """One entry of `metrics.json`; the figures computed from its matrices come later."""
    return {
        "learner": name,
        "data": settings.data,
        "scenario": settings.scenario,
        "seed": seed,
        "tasks_finished": row,
        "R": so_far.R,
        "R_task": so_far.R_task,
        "R_adapted": so_far.R_adapted,
        "shots": settings.shots,
        "batch_statistics": "group" if settings.net == "conv4" else None,
        "online_accuracy": metrics.online_accuracy(so_far.online[:row]) if row else None,
        "seconds": so_far.seconds,
        "bytes": {
            "params": tree_bytes(so_far.state.train.params),
            "bank": tree_bytes(so_far.state.stored),
            "generator": tree_bytes(getattr(so_far.state, "generator", ())),
        },
        "config": asdict(settings),
        "versions": versions(),
    }


def with_reference(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`runs` with the figures from R, R_task and R_adapted; joint training is the reference."""
    reference = {run["seed"]: run for run in runs if run["learner"] == "joint"}
    full = []
    for run in runs:
        figures: dict[str, Any] = {}
        for key, suffix in (("R", ""), ("R_task", "_task"), ("R_adapted", "_adapted")):
            joint_run = reference.get(run["seed"])
            r_joint = None if joint_run is None else joint_run[key]
            for metric, value in metrics.summary(run[key], R_joint=r_joint).items():
                figures[metric + suffix] = value
        full.append({**run, **figures})
    return full


def write_figures(folder: Path, result: dict[str, Any]) -> None:
    """R of each learner (first seed), and accuracy over the stream of all of them."""
    runs = metrics.to_json(result)["runs"]
    first = runs[0]["seed"]
    for run in runs:
        if run["seed"] == first:
            plots.save(plots.heatmap(run), folder / f"R_{run['learner']}.png")
    for key, name in (("R", "accuracy_over_stream"), ("R_adapted", "adapted_over_stream")):
        plots.save(plots.accuracy_over_stream(runs, key=key), folder / f"{name}.png")


def table(result: dict[str, Any]) -> str:
    """Means over seeds, a line for each learner, in percent."""
    columns = {
        "acc": "ACC",
        "learning_accuracy": "LA",
        "bwt": "BWT",
        "forgetting": "forgetting",
        "acc_task": "ACC task",
        "acc_adapted": "ACC adapted",
        "fwt_adapted": "FWT adapted",
    }
    runs = result["runs"]
    lines = [f"{'':14s}" + "".join(f"{title:>13s}" for title in columns.values()) + f"{'s':>8s}"]
    for name in dict.fromkeys(run["learner"] for run in runs):
        own = [run for run in runs if run["learner"] == name]
        cells = [np.mean([run[key] for run in own]) for key in columns]
        seconds = np.mean([sum(run["seconds"].values()) for run in own])
        lines.append(f"{name:14s}" + "".join(f"{100 * c:13.1f}" for c in cells) + f"{seconds:8.0f}")
    return "\n".join(lines)
