"""A generator that does not forget: the learner of `lifelong.generative` on digits, measured."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lml_jax import metrics
from lml_jax.lifelong.stream import StreamRun, run_stream
from lml_jax.names import known
from lml_jax.recipes.generators import DATA, GENERATORS, Generation, Made, build
from lml_jax.recipes.judge import judge_of, watched
from lml_jax.recipes.record import (
    keeping_last_good,
    open_folder,
    tree_bytes,
    versions,
    write_metrics,
)

SHOWN = ("loss", "d_loss", "spread", "bound")  # on the bar, as far as a generator has them


def run_generation(
    settings: Generation,
    out: str | Path,
    *,
    arms: dict[str, dict[str, Any]],
    seeds: tuple[int, ...] = (0,),
    progress: bool = True,
) -> dict[str, Any]:
    """Run the generative learner once for each arm and seed; metrics and sample grids into `out`.

    Args:
        settings: what the arms share.
        out: a folder that is absent or empty.
        arms: by name, the settings that differ.
        seeds: each makes its own stream and start, shared by the arms.
        progress: show a bar.

    Returns:
        What `metrics.json` holds.

    Raises:
        ValueError: for settings that cannot be run, before anything is trained.
        train.DivergedError: if D, G or the classifier was not finite.
    """
    if not arms or not seeds:
        raise ValueError(f"nothing to run: arms {list(arms)}, seeds {seeds}")
    known(settings.data, DATA, what="data set")
    each = {name: replace(settings, **options) for name, options in arms.items()}
    for s in each.values():
        known(s.generator, GENERATORS, what="generator")
    made = {(name, seed): build(s, seed) for name, s in each.items() for seed in seeds}
    folder = open_folder(out)
    runs: list[dict[str, Any]] = []
    for (name, seed), parts in made.items():
        with keeping_last_good(folder, about=f"{name}_seed{seed}"):
            runs.append(run_one(each[name], name, seed, parts, folder, progress))
        write_metrics(folder, {"runs": runs})
    return {"runs": runs}


def run_one(
    settings: Generation, name: str, seed: int, made: Made, folder: Path, progress: bool
) -> dict[str, Any]:
    """The record of one arm with one seed; a grid of samples after each task."""
    s, tasks = settings, settings.tasks
    assert made.generator is not None
    judge = judge_of(made.stream, made.generator, samples=s.samples, neighbours=s.neighbours)
    where: Any = {"about": name, "seed": seed, "folder": folder, "collapse": s.collapse}
    rows: list[dict[str, Any]] = []

    with tqdm(total=tasks * s.steps, disable=not progress, desc=f"{name}, seed {seed}") as bar:

        def on_chunk(task: int, done: int, values: Any) -> None:
            shown = {key: float(jnp.nanmean(values[key])) for key in SHOWN if key in values}
            bar.set_postfix(task=task, **{key: f"{value:.2f}" for key, value in shown.items()})
            bar.update(task * s.steps + done - bar.n)

        def on_row(row: int, so_far: StreamRun) -> None:
            if row == 0:
                return
            own = so_far.state.generator
            rows.append(watched(judge, made.stream, own, row, **where))

        run = run_stream(
            made.learner,
            made.stream,
            jax.random.key(seed),
            steps=s.steps,
            scan=True,
            chunk=min(s.steps, 250),
            on_chunk=on_chunk,
            on_row=on_row,
        )
    cas = np.stack([np.full(tasks, np.nan), *(found.pop("cas") for found in rows)])
    warned = [found.pop("warning") for found in rows]
    return {
        "learner": f"generative, {name}",
        "arm": name,
        "data": s.data,
        "scenario": "class",
        "seed": seed,
        "R": run.R,
        "R_task": run.R_task,
        "R_adapted": run.R_adapted,
        "cas": cas,
        **metrics.summary(run.R),
        **{f"{key}_cas": value for key, value in metrics.summary(cas).items()},
        "generator": rows,
        "warnings": [message for message in warned if message],
        "seconds": run.seconds,
        "bytes": {
            "params": tree_bytes(run.state.train.params),
            "bank": tree_bytes(run.state.stored),
            "generator": tree_bytes(run.state.generator),
        },
        "config": asdict(s),
        "versions": versions(),
    }


COLUMNS = {
    "acc_cas": "CAS",
    "forgetting_cas": "forgetting",
    "acc": "f_theta",
    "spread": "spread",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "two_sample": "C2ST",
    "memorisation": "memorisation",
}


def table(result: dict[str, Any]) -> str:
    """A line for each arm and seed, after the last task, and the mean over seeds."""
    runs = result["runs"]
    lines = [f"{'':36s}" + "".join(f"{title:>14s}" for title in COLUMNS.values()) + f"{'s':>8s}"]

    def line(about: str, values: dict[str, float], seconds: float) -> None:
        cells = "".join(f"{values[key]:14.3f}" for key in COLUMNS)
        lines.append(f"{about:36s}{cells}{seconds:8.0f}")

    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = [run for run in runs if run["arm"] == arm]
        found = [{**run, **run["generator"][-1]} for run in own]
        seconds = [sum(run["seconds"].values()) for run in own]
        for run, values, spent in zip(own, found, seconds, strict=True):
            line(f"{arm}, seed {run['seed']}", values, spent)
        if len(own) > 1:
            means = {key: float(np.mean([values[key] for values in found])) for key in COLUMNS}
            line(f"{arm}, mean of {len(own)}", means, float(np.mean(seconds)))
    return "\n".join(lines)


def recipe(
    settings: Generation, arms: dict[str, dict[str, Any]], *, seeds: tuple[int, ...] = (0, 1, 2)
) -> Callable[[Path], str]:
    """(folder) -> report: every arm with every seed."""
    return lambda out: table(run_generation(settings, out, arms=arms, seeds=seeds))
