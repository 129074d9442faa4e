"""One embedding, tested at several numbers of ways and shots."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax

from lml_jax.experiments.fewshot.build import learner_of
from lml_jax.experiments.fewshot.embedding import embed, on_features
from lml_jax.experiments.fewshot.report import summary_of
from lml_jax.experiments.fewshot.run import FEWSHOT, Built, Trained, scores_of
from lml_jax.experiments.fewshot.settings import FewShot
from lml_jax.experiments.networks import FEATURES
from lml_jax.experiments.record import Record
from lml_jax.experiments.runner import Experiment, Place

CELLS = ((5, 1), (5, 5), (20, 1), (20, 5))


def cells(*, of: Sequence[tuple[int, int]] = CELLS) -> Experiment[FewShot, Built, Trained]:
    """Few-shot training, then a test at each (ways, shots) of `of`."""
    return FEWSHOT._replace(test=partial(score_cells, of=of), table=table, figures=no_figures)


def score_cells(
    built: Built, trained: Trained, place: Place, *, of: Sequence[tuple[int, int]] = CELLS
) -> Record:
    """A record for each (ways, shots); every image is embedded once."""
    plan, records = built.plan, []
    features = embed(built.net, trained.params["net"], built.tasks.test_set)
    params = {**trained.params, "net": {}}
    for ways, shots in of:
        cell = plan._replace(settings=replace(plan.settings, ways=ways, test_shots=shots))
        learner = learner_of(cell, FEATURES, steps=1, ways=ways)
        key = jax.random.fold_in(jax.random.key(plan.settings.seed), 100 * ways + shots)
        tasks = on_features(cell, features)
        scores = scores_of(cell, learner, params, tasks, key, hidden=place.hidden)
        records.append(summary_of(cell, scores))
    return {"steps": trained.steps, "cells": records}


def table(record: Record) -> str:
    """A line for each cell."""
    lines = []
    for cell in record["cells"]:
        score = f"{100 * cell['accuracy']:6.2f} ± {100 * cell['ci95']:.2f} %"
        lines.append(f"{cell['ways']:3d}-way {cell['shots']}-shot {score}")
    return "\n".join(lines)


def no_figures(record: Record, folder: Path) -> None:
    """Nothing to draw."""
