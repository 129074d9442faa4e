"""The measures of a generator after each task, as the record of a lifelong run has them."""

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from lml_jax import metrics, plots
from lml_jax.data.stream import Stream
from lml_jax.experiments.lifelong.entries import Context
from lml_jax.experiments.record import Record
from lml_jax.experiments.runner import Place
from lml_jax.lifelong.results import StreamRun
from lml_jax.metrics import diversity
from lml_jax.metrics.on_stream import diversity_of, grid_labels, judge_of


def measurements(
    context: Context, place: Place, seed: int, rows: list[Record]
) -> Callable[[int, StreamRun | None], Record]:
    """(row, run) -> what the record says of a learner's generator after task `row`.

    The generator of `run` is measured; None asks for what was measured before. `rows` are the
    measurements of an interrupted run. {} for a learner without a generator.
    """
    generator, s = context.generator, context.plan.settings
    if generator is None:
        return lambda row, run: {}
    rows = [{**row, "cas": _floats_of(row.get("cas"))} for row in rows]
    kinds = {"diversity": diversity_of, "all": judge_of}
    # Made when it is first used, for it may train an embedding of the images.
    judge = cache(partial(kinds[s.measures], context.stream, generator, samples=s.samples))

    def measured(row: int, run: StreamRun | None) -> Record:
        if run is not None and row:
            key = jax.random.fold_in(jax.random.key(seed), row)
            found = judge()(run.state.own.generator, row, key)
            rows[row - 1 :] = [_watched(found, context.stream, row, place, s.collapse)]
            said = [row["warning"] for row in rows if row["warning"]]
            if said == [rows[-1]["warning"]]:  # the first of this run; the record has all of them
                warnings.warn(said[0], RuntimeWarning, stacklevel=2)
        if len(rows) < row:
            raise ValueError(
                f"{place.folder / 'metrics.json'} has the measures of {place.about} after "
                f"{len(rows)} tasks, and its checkpoint is of {row}: run it again elsewhere"
            )
        return summary_of(rows[:row], context.stream.tasks)

    return measured


def summary_of(rows: list[Record], tasks: int) -> Record:
    """The last row of measures, all rows, and the matrix of classification accuracy scores."""
    if not rows:
        return {"generator": rows}
    last = {k: v for k, v in rows[-1].items() if k not in ("cas", "warning")}
    found = {"generator": rows, **last, "warnings": [r["warning"] for r in rows if r["warning"]]}
    if rows[-1]["cas"] is None:
        return found
    cas = np.full((tasks + 1, tasks), np.nan)
    for i, row in enumerate(rows, 1):
        cas[i] = row["cas"]
    of = {f"{key}_cas": value for key, value in metrics.summary(cas).items()}
    return {**found, "cas": cas, **of}


def _watched(found: Record, stream: Stream, row: int, place: Place, collapse: float) -> Record:
    """Measures after task `row`, with the grid of samples drawn into the folder.

    `warning` is None, or says that the diversity is below `collapse`.
    """
    where = f"{place.about.replace('_seed', ', seed ')}, after task {row}"
    grid = found.pop("grid")
    if grid.ndim > 3:  # of images; features are not drawn
        figure = plots.sample_grid(grid, grid_labels(stream, row), title=where)
        plots.save(figure, place.folder / f"samples_{place.about}_task{row}.png")
    warning = diversity.collapse_of(
        found["diversity"],
        threshold=collapse,
        each=found["class_diversity"].tolist(),
        where=f" ({where})",
    )
    return {"cas": None, **found, "warning": warning}


def _floats_of(values: Any) -> Any:
    """A row of scores from json, where nan is null."""
    return None if values is None else np.asarray(values, float)
