"""A generator that does not forget: the learner of `lifelong.generative` on digits, measured."""

import json
from collections.abc import Callable, Container
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lml_jax import metrics
from lml_jax.checkpoint import Keeper, keeper
from lml_jax.checks import known
from lml_jax.experiments.generator.evaluation import judge_of, watched
from lml_jax.experiments.generator.settings import DATA, GENERATORS, Generation, Made, build
from lml_jax.experiments.record import (
    CHECKPOINTS,
    keeping_last_good,
    open_folder,
    resumable,
    tree_bytes,
    versions,
    write_metrics,
)
from lml_jax.lifelong.run import StreamRun, run_stream

Arm = tuple[str, int]  # its name, and the seed
SHOWN = ("loss", "d_loss", "spread", "bound")  # on the bar, as far as a generator has them


def run_generation(
    settings: Generation,
    out: str | Path,
    *,
    arms: dict[str, dict[str, Any]],
    seeds: tuple[int, ...] = (0,),
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Run the generative learner once for each arm and seed; metrics and sample grids into `out`.

    `metrics.json` is written anew after each task; each arm and seed has checkpoints of its own.

    Args:
        settings: what the arms share.
        out: a folder that is absent or empty; with `resume`, also one of a run that was cut.
        arms: by name, the settings that differ.
        seeds: each makes its own stream and start, shared by the arms.
        resume: go on from the newest checkpoints in `out`, bit for bit.
        progress: show a bar.

    Returns:
        What `metrics.json` holds.

    Raises:
        ValueError: for settings that cannot be run, before anything is trained; for checkpoints
            of other settings.
        train.DivergedError: if D, G or the classifier was not finite.
    """
    if not arms or not seeds:
        raise ValueError(f"nothing to run: arms {list(arms)}, seeds {seeds}")
    known(settings.data, DATA, what="data set")
    each = {name: replace(settings, **options) for name, options in arms.items()}
    for s in each.values():
        known(s.generator, GENERATORS, what="generator")
    made = {(name, seed): build(s, seed) for name, s in each.items() for seed in seeds}
    folder = open_folder(out, resume=resume)
    records = records_in(folder, made)

    def write(record: dict[str, Any]) -> dict[str, Any]:
        records[record["arm"], record["seed"]] = record
        result = {"runs": [records[key] for key in made if key in records]}
        write_metrics(folder, result)
        return result

    for (name, seed), parts in made.items():
        about, rows = f"{name}_seed{seed}", rows_of(records.get((name, seed), {}))
        kept = keeper(
            folder / CHECKPOINTS / about,
            config={**resumable(each[name]), "arm": name, "seed": seed},
        )
        with keeping_last_good(folder, about=about), kept as keeping:
            record = run_one(each[name], name, seed, parts, rows, folder, write, progress, keeping)
        result = write(record)
    return result


def records_in(folder: Path, made: Container[Arm]) -> dict[Arm, dict[str, Any]]:
    """The records in the metrics of a run that was cut; ValueError if they are of other arms."""
    path = folder / "metrics.json"
    found = json.loads(path.read_text()) if path.exists() else {"runs": []}
    records = {(run.get("arm"), run.get("seed")): run for run in found.get("runs", [{}])}
    for arm, seed in records:
        if (arm, seed) not in made:
            raise ValueError(f"{path} is of another run: it holds arm {arm}, seed {seed}")
    return records


def rows_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What was said of the generator after each task, with nan for json's null."""

    def number(name: str, value: Any) -> Any:
        return np.nan if value is None and name != "warning" else value

    rows = record.get("generator", [])
    return [{name: number(name, value) for name, value in row.items()} for row in rows]


def run_one(
    settings: Generation,
    name: str,
    seed: int,
    made: Made,
    rows: list[dict[str, Any]],
    folder: Path,
    on_record: Callable[[dict[str, Any]], Any],
    progress: bool,
    keeper: Keeper,
) -> dict[str, Any]:
    """The record of one arm with one seed, of which `on_record` is told each row.

    `rows` are those that were judged before the run was cut; a grid of samples is drawn after each.
    """
    s, tasks = settings, settings.tasks
    assert made.generator is not None
    # Made when it is first used, for it trains an embedding of larger images.
    judge = cache(
        partial(judge_of, made.stream, made.generator, samples=s.samples, neighbours=s.neighbours)
    )
    where: Any = {"about": name, "seed": seed, "folder": folder, "collapse": s.collapse}

    def record(row: int, so_far: StreamRun) -> dict[str, Any]:
        if len(rows) < row:
            raise ValueError(
                f"{folder / 'metrics.json'} says of {name}, seed {seed}, what was measured after "
                f"{len(rows)} tasks, and its checkpoint is of {row}: run it anew elsewhere"
            )
        return record_of(s, name, seed, rows[:row], so_far)

    with tqdm(total=tasks * s.steps, disable=not progress, desc=f"{name}, seed {seed}") as bar:

        def on_chunk(task: int, done: int, values: Any) -> None:
            shown = {key: float(jnp.nanmean(values[key])) for key in SHOWN if key in values}
            bar.set_postfix(task=task, **{key: f"{value:.2f}" for key, value in shown.items()})
            bar.update(task * s.steps + done - bar.n)

        def on_row(row: int, so_far: StreamRun) -> None:
            if row:
                del rows[row - 1 :]
                own = so_far.state.generator
                rows.append(watched(judge(), made.stream, own, row, **where))
            on_record(record(row, so_far))

        run = run_stream(
            made.learner,
            made.stream,
            jax.random.key(seed),
            steps=s.steps,
            scan=True,
            chunk=min(s.steps, 250),
            on_chunk=on_chunk,
            on_row=on_row,
            keeper=keeper,
        )
    return record(tasks, run)


def record_of(
    s: Generation, name: str, seed: int, rows: list[dict[str, Any]], run: StreamRun
) -> dict[str, Any]:
    """Everything measured so far; `rows` are what was said of the generator after each task."""
    cas = np.full((s.tasks + 1, s.tasks), np.nan)
    for row, found in enumerate(rows, 1):
        cas[row] = np.asarray(found["cas"], float)  # None is nan
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
        "warnings": [found["warning"] for found in rows if found["warning"]],
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
) -> Callable[..., str]:
    """(folder, resume=False) -> report: every arm with every seed."""
    return lambda out, **options: table(
        run_generation(settings, out, arms=arms, seeds=seeds, **options)
    )
