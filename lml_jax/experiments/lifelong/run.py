"""Lifelong learners and their baselines on one stream: the main job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from lml_jax import keep
from lml_jax.checkpoint import Keeper
from lml_jax.checks import known
from lml_jax.experiments.datasets import made_of
from lml_jax.experiments.kept.lifelong import kept_of
from lml_jax.experiments.kept.start import encoder_of
from lml_jax.experiments.lifelong.entries import Context, LifelongEntry, Make, context_of
from lml_jax.experiments.lifelong.generator_measures import measurements
from lml_jax.experiments.lifelong.learners import FAMILIES, lifelong_learners
from lml_jax.experiments.lifelong.pretrain import features_of, on_features, parameters_of
from lml_jax.experiments.lifelong.report import record_of, with_reference, write_figures
from lml_jax.experiments.lifelong.settings import (
    Lifelong,
    Plan,
    check_options,
    for_inputs,
    for_learner,
    resolve,
)
from lml_jax.experiments.lifelong.streams import StreamData, background_of, load, stream_of
from lml_jax.experiments.log import Log, ignore, means
from lml_jax.experiments.record import Record, save_params
from lml_jax.experiments.runner import Part, Place, check_time, run_parts
from lml_jax.lifelong.restart import with_fresh_optimizer
from lml_jax.lifelong.results import StreamRun
from lml_jax.lifelong.run import run_stream
from lml_jax.settings import check_seeds
from lml_jax.types import Dataset, LifelongLearner, LifelongState, Metrics, Params

SHOWN = ("loss", "d_loss", "diversity", "bound")  # on the bar, as far as a learner has them
Learners = Sequence[str] | Mapping[str, LifelongEntry | Make]


class Built(NamedTuple):
    """One learner on the stream of one seed."""

    name: str
    seed: int
    entry: LifelongEntry
    context: Context
    learner: LifelongLearner


class Images(NamedTuple):
    """The examples of a stream before they were embedded, and by what; None: they were not."""

    data: Dataset
    encoder: keep.Encoder | None


def run_lifelong(
    settings: Lifelong,
    out: str | Path,
    *,
    learners: Learners = FAMILIES,
    seeds: Sequence[int] = (0,),
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

    def parts(place: Place) -> list[Part]:
        own, about, encoder = built, {"data_made": made}, None
        if background is not None and not images:
            features = features_of(plan, background, place)
            spanned = plan._replace(span=features.span)
            own = build_all(spanned, on_features(data, features), entries, seeds)
            about |= features.about
            encoder = encoder_of(plan, features.embedding, clip=features.span)
        return [
            Part(
                {"learner": one.name, "seed": one.seed},
                one.context.plan.config,
                partial(run_one, one, background, about, Images(data.train, encoder)),
            )
            for one in own
        ]

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


def run_one(
    built: Built,
    background: Dataset | None,
    about: Record,
    images: Images,
    place: Place,
    so_far: Record,
    publish: Callable[[Record], None],
) -> Record:
    """The record of one learner with one seed; `publish` gets it after each task.

    `about` is what the record says of the data and the start, `images` what the stream was made of
    before it was embedded, `so_far` the record of an interrupted run.
    """
    plan, stream = built.context.plan, built.context.stream
    params, kind = None, built.entry.start
    labels = {"original": stream.original, "label_names": stream.label_names}
    about = {"start": "random", **about, **labels, "bound": built.entry.bound}
    if plan.start == "parameters" and background is not None and kind != "random":
        params, found = parameters_of(plan, kind, stream.classes, background, place)
        about |= found
    measured = measurements(built.context, place, built.seed, so_far.get("generator", []))
    title = f"{built.name}, seed {built.seed}"
    with (
        place.keeping({**plan.config, "learner": built.name, "seed": built.seed}) as keeper,
        tqdm(total=plan.tasks * plan.steps, disable=place.hidden, unit="step", desc=title) as bar,
    ):

        def on_chunk(task: int, done: int, values: Metrics) -> None:
            shown = {key: f"{np.nanmean(values[key]):.3f}" for key in SHOWN if key in values}
            bar.set_postfix(task=task, **shown)
            step = task * plan.steps + done
            bar.update(step - bar.n)
            place.log({"run": place.about, "task": task, "step": step, **means(values)})

        def on_row(row: int, run: StreamRun) -> None:
            publish({**record_of(plan, row, run), **about, **measured(row, run)})

        run = learn(built, params, on_chunk, on_row, keeper)
    save_params(place.folder, run.state.train.params, name=f"params_{place.about}")
    save_learner(built, run.state, images, place)
    tasks = stream.tasks
    return {**record_of(plan, tasks, run), **about, **measured(tasks, None)}


def save_learner(built: Built, state: LifelongState, images: Images, place: Place) -> None:
    """Write the whole learner to `LEARNER_seedS.kept`, where it answers by examples alone."""
    registered = lifelong_learners.get(built.name) is built.entry
    if not registered or built.context.plan.settings.scenario != "class":
        return
    kept = kept_of(
        built.name,
        built.context,
        state,
        images=images.data,
        embedding=images.encoder,
        origin={"lifelong run": str(place.folder), "learner": place.about},
    )
    keep.save(place.folder / f"{place.about}.kept", kept)


def learn(
    built: Built,
    params: Params | None,
    on_chunk: Callable[[int, int, Metrics], None],
    on_row: Callable[[int, StreamRun], None],
    keeper: Keeper,
) -> StreamRun:
    """The run of a learner over its stream."""
    plan = built.context.plan
    return run_stream(
        built.learner,
        built.context.stream,
        jax.random.key(built.seed),
        steps=plan.steps,
        scan=plan.how.scan,
        chunk=plan.how.chunk,
        task_incremental=plan.settings.scenario == "task",
        params=params,
        on_chunk=on_chunk,
        on_row=on_row,
        keeper=keeper,
    )
