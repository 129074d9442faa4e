"""Lifelong learners and their baselines on one stream: the main job."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lml_jax.checks import known
from lml_jax.experiments.datasets import made_of
from lml_jax.experiments.kept.start import encoder_of
from lml_jax.experiments.lifelong.entries import LifelongEntry, Make, context_of
from lml_jax.experiments.lifelong.learners import FAMILIES, lifelong_learners
from lml_jax.experiments.lifelong.pretrain import features_of, on_features
from lml_jax.experiments.lifelong.report import with_reference, write_figures
from lml_jax.experiments.lifelong.seeds import Built, Common, check_together, parts_of
from lml_jax.experiments.lifelong.settings import (
    Lifelong,
    Plan,
    check_options,
    for_inputs,
    for_learner,
    resolve,
)
from lml_jax.experiments.lifelong.streams import StreamData, background_of, load, stream_of
from lml_jax.experiments.log import Log, ignore
from lml_jax.experiments.record import Record
from lml_jax.experiments.runner import Part, Place, check_time, run_parts
from lml_jax.lifelong.restart import with_fresh_optimizer
from lml_jax.settings import check_seeds
from lml_jax.types import Dataset

SHOWN = ("loss", "d_loss", "diversity", "bound")  # on the bar, as far as a learner has them
Learners = Sequence[str] | Mapping[str, LifelongEntry | Make]


def run_lifelong(
    settings: Lifelong,
    out: str | Path,
    *,
    learners: Learners = FAMILIES,
    seeds: Sequence[int] = (0,),
    seeds_together: bool = False,
    resume: bool = False,
    save_every: float = 60.0,
    progress: bool = True,
    log: Log = ignore,
) -> Record:
    """Run every learner with every seed; write metrics, figures and parameters into `out`.

    The whole state of each registered learner is in `LEARNER_seedS.kept`, see `keep`; of a learner
    of the user's own, and in other scenarios than class-incremental ones, the parameters alone.

    `metrics.json` is written after each task; the record of a run that has not finished says how
    many tasks it has. Each learner and seed has checkpoints of its own.

    Args:
        settings: what to run.
        out: a folder that is absent or empty; with `resume`, also that of an earlier run, which is
            resumed, or extended by other learners and seeds.
        learners: names in `lifelong_learners`; or the learners to run by name, each an entry or a
            function of a `Context`.
        seeds: each makes its own stream, class order and episodes, shared by the learners.
        seeds_together: run all seeds of a learner as one program: several times as fast on a GPU,
            which one small learner leaves mostly idle. Images, or their features, must fit on the
            device. A learner with a generator runs seed by seed all the same.
        resume: continue from the newest checkpoints in `out`, bit-identical to an uninterrupted
            run.
        save_every: minimum seconds between checkpoints.
        progress: show progress bars, where the output is a terminal.
        log: told the metrics of each chunk of updates, as is `log.jsonl` in `out`.

    Returns:
        What `metrics.json` holds.

    Raises:
        ValueError: for settings that cannot be run, before anything is trained; for checkpoints
            of other settings.
        train.DivergedError: if a loss was not finite; what was written so far stays, and the last
            good parameters are in `last_good_LEARNER_seedS.npz`.
        checkpoint.Stopped: after SIGTERM or Ctrl-C, when everything was saved.

    Example:
        >>> from lml_jax.experiments.lifelong.settings import Lifelong
        >>> from lml_jax.lifelong.finetune import finetune
        >>> def mine(c):
        ...     return finetune(c.classifier, c.tx, c.space)
        >>> result = run_lifelong(Lifelong(), "runs/mine",
        ...                       learners={"mine": mine})  # doctest: +SKIP
    """
    check_seeds(seeds)
    check_time(None, save_every)
    entries = entries_of(learners)
    plan = resolve(settings)
    check_options(settings.options, {name: entry.options for name, entry in entries.items()})
    data = load(plan)
    plan = for_inputs(plan, data.train.x)
    background = None if plan.start == "random" else background_of(plan)
    made = made_of(plan.data, background=background, train=data.train, test=data.test)
    # Everything is built before anything is trained, so that no error costs a run.
    images = plan.start != "features"
    built = build_all(plan, data if images else without_images(data), entries, seeds)

    if seeds_together:
        check_together(built)

    def parts(place: Place) -> list[Part]:
        common = Common(background, {"data_made": made}, data.train)
        if background is None or images:
            return parts_of(built, common, together=seeds_together)
        features = features_of(plan, background, place)
        embedded = build_all(
            plan._replace(span=features.span), on_features(data, features), entries, seeds
        )
        encoder = encoder_of(plan, features.embedding, clip=features.span)
        about = common.about | features.about
        common = common._replace(about=about, encoder=encoder)
        return parts_of(embedded, common, together=seeds_together)

    return run_parts(
        parts,
        out,
        finish=with_reference,
        figures=write_figures,
        resume=resume,
        save_every=save_every,
        progress=progress,
        log=log,
    )


def entries_of(learners: Learners) -> dict[str, LifelongEntry]:
    """The entries of the learners to run.

    Raises:
        ValueError: for no learner, an unknown one, or one given twice.
    """
    if not learners:
        raise ValueError(f"nothing to run: learners {learners}")
    if isinstance(learners, Mapping):
        return {
            name: entry if isinstance(entry, LifelongEntry) else LifelongEntry(entry)
            for name, entry in learners.items()
        }
    if len(set(learners)) < len(learners):
        raise ValueError(f"learners must differ, got {', '.join(learners)}")
    return {
        name: lifelong_learners[known(name, lifelong_learners, what="learner")] for name in learners
    }


def build_all(
    plan: Plan, data: StreamData, entries: Mapping[str, LifelongEntry], seeds: Sequence[int]
) -> list[Built]:
    """Every learner on the stream of every seed."""
    built = []
    for seed in seeds:
        stream = stream_of(plan, data, seed)
        for name, entry in entries.items():
            own = for_learner(plan, name, defaults=entry.defaults, options=entry.options)
            context = context_of(own, stream, entry)
            learner = entry.make(context)
            if plan.settings.fresh_optimizer and not entry.own_rule:
                learner = with_fresh_optimizer(learner, context.tx)
            built.append(Built(name, seed, entry, context, learner))
    return built


def without_images(data: StreamData) -> StreamData:
    """The same classes with a feature 0 for each image."""

    def blank(part: Dataset) -> Dataset:
        return replace(part, x=np.zeros((len(part.x), 1), np.float32))

    return StreamData(blank(data.train), None if data.test is None else blank(data.test))
