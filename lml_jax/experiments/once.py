"""Learners by seeds, each of which is run once: what is finished in a folder is kept."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from lml_jax.experiments.folder import CHECKPOINTS
from lml_jax.experiments.record import Record
from lml_jax.experiments.runner import Part, Place, run_parts


def run_each(
    learners: Iterable[str],
    seeds: Sequence[int],
    run: Callable[[str, int, Place], Record],
    out: Path,
    *,
    config: Record,
    figures: Callable[[Record, Path], None] = lambda result, folder: None,
    resume: bool = False,
) -> Record:
    """Run every learner with every seed into `out`, seed by seed.

    Args:
        learners: their names.
        seeds: one run of each learner for each.
        run: (learner, seed, place) -> its record.
        out: a new folder, or with `resume` that of an earlier run, whose finished runs are kept.
        config: settings that a finished run must agree with.
        figures: draws the result into the folder.
        resume: go on in `out`.

    Returns:
        What `metrics.json` holds.
    """

    def one(name: str, seed: int, place: Place, so_far: Record, publish: object) -> Record:
        # There is nothing in it: it says that the folder can be resumed, run by run.
        (place.folder / CHECKPOINTS).mkdir(exist_ok=True)
        return so_far or run(name, seed, place)

    names = tuple(learners)
    parts = [
        Part({"learner": name, "seed": seed}, config, partial(one, name, seed))
        for seed in seeds
        for name in names
    ]
    return run_parts(parts, out, figures=figures, resume=resume)
