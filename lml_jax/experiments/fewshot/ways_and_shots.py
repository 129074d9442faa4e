"""One embedding, tested at several numbers of ways and shots."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from lml_jax.experiments.fewshot.embedding import embedded, restore
from lml_jax.experiments.fewshot.run import meta_test, run_fewshot, summary_of
from lml_jax.experiments.fewshot.settings import FewShot, checked, image_sets
from lml_jax.experiments.record import open_folder, write_metrics

CELLS = ((5, 1), (5, 5), (20, 1), (20, 5))


def cells(settings: FewShot, *, of: Sequence[tuple[int, int]] = CELLS) -> Callable[..., str]:
    """(folder, resume=False) -> report: train once, test at each (ways, shots) of `of`."""

    def run(out: Path, *, resume: bool = False) -> str:
        folder = open_folder(out, resume=resume)
        trained = run_fewshot(settings, folder / "train", resume=resume)
        records = score_cells(settings, folder / "train" / "params.npz", of=of)
        write_metrics(folder, {"trained": trained, "cells": records})
        lines = [f"{trained['steps']} steps in {trained['seconds']['train']:.0f} s"]
        for cell in records:
            score = f"{100 * cell['accuracy']:6.2f} ± {100 * cell['ci95']:.2f} %"
            lines.append(f"{cell['ways']:3d}-way {cell['shots']}-shot {score}")
        return "\n".join(lines)

    return run


def score_cells(
    settings: FewShot, path: Path, *, of: Sequence[tuple[int, int]] = CELLS
) -> list[dict[str, Any]]:
    """A record for each (ways, shots), from the parameters that training wrote."""
    complete: Any = checked(settings)
    _, test_set = image_sets(complete)
    net, params = restore(complete, path, test_set.x)
    records = []
    for ways, shots in of:
        cell = replace(complete, ways=ways, test_shots=shots)
        # The features are the same for every cell, but quick to make beside the training.
        tested = embedded(cell, net, params, test_set)
        key = jax.random.fold_in(jax.random.key(complete.seed), 100 * ways + shots)
        records.append(summary_of(cell, meta_test(cell, *tested, key, progress=True)))
    return records
