"""One learner of a lifelong run: with one seed, or with all seeds as one program."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lml_jax import keep
from lml_jax.experiments.kept.lifelong import kept_of
from lml_jax.experiments.lifelong.entries import Context, LifelongEntry
from lml_jax.experiments.lifelong.generator_measures import measurements
from lml_jax.experiments.lifelong.learners import lifelong_learners
from lml_jax.experiments.lifelong.pretrain import parameters_of
from lml_jax.experiments.lifelong.report import record_of
from lml_jax.experiments.log import means
from lml_jax.experiments.record import Record, save_params
from lml_jax.experiments.runner import Part, Place
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.lifelong.results import StreamRun
from lml_jax.lifelong.run import run_stream
from lml_jax.lifelong.together import run_together
from lml_jax.types import Dataset, LifelongLearner, LifelongState, Metrics, Params

SHOWN = ("loss", "d_loss", "diversity", "bound")  # on the bar, as far as a learner has them


class Built(NamedTuple):
    """One learner on the stream of one seed."""

    name: str
    seed: int
    entry: LifelongEntry
    context: Context
    learner: LifelongLearner


class Common(NamedTuple):
    """What the runs of a job share.

    Attributes:
        background: the classes to meta-train on, if there are any.
        about: what the record says of the data and the start.
        images: the examples of the stream before they were embedded.
        encoder: by what they were embedded; None: they were not.
    """

    background: Dataset | None
    about: Record
    images: Dataset
    encoder: keep.Encoder | None = None


class Begun(NamedTuple):
    """A run before its first task: its parameters, its record so far, measures of a generator."""

    params: Params | None
    about: Record
    measured: Callable[[int, StreamRun | None], Record]


Publish = Callable[[Record], None]


def parts_of(built: Sequence[Built], common: Common, *, together: bool) -> list[Part]:
    """A part for each learner and seed; `together` makes all seeds of a learner one program.

    But for a learner with a generator, whose measures are no part of a checkpoint.
    """
    parts, records = [], {one.name: dict[int, Record]() for one in built}
    for one in built:
        run = partial(one_seed, one, common)
        if together and one.context.generator is None:
            same = [other for other in built if other.name == one.name]
            run = partial(_of_all, one, same, common, records[one.name])
        parts.append(Part({"learner": one.name, "seed": one.seed}, one.context.plan.config, run))
    return parts


def one_seed(
    built: Built, common: Common, place: Place, so_far: Record, publish: Publish
) -> Record:
    """The record of one learner with one seed; `publish` gets it after each task."""
    plan = built.context.plan
    begun = _begun(built, common, place, so_far)
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

        run = run_stream(
            built.learner,
            built.context.stream,
            jax.random.key(built.seed),
            steps=plan.steps,
            scan=plan.how.scan,
            chunk=plan.how.chunk,
            task_incremental=plan.settings.scenario == "task",
            params=begun.params,
            on_chunk=on_chunk,
            on_row=lambda row, run: publish(_record(built, begun, row, run)),
            keeper=keeper,
        )
    return _finished(built, common, begun, place, run)


def all_seeds(
    built: Sequence[Built], common: Common, place: Place, publish: Publish
) -> dict[int, Record]:
    """The records of one learner with several seeds, run as one program, by seed.

    `publish` gets that of the first seed after each task.
    """
    first, plan = built[0], built[0].context.plan
    seeds = [one.seed for one in built]
    places = [place._replace(about=f"{one.name}_seed{one.seed}") for one in built]
    begun = [_begun(one, common, at, {}) for one, at in zip(built, places, strict=True)]
    config = {**plan.config, "learner": first.name, "seeds": seeds}
    own = place._replace(about="_".join([first.name, "seeds", *map(str, seeds)]))
    title = f"{first.name}, {len(seeds)} seeds together"
    with (
        own.keeping(config) as keeper,
        tqdm(total=plan.tasks, disable=place.hidden, unit="task", desc=title) as bar,
    ):

        def on_rows(row: int, runs: list[StreamRun]) -> None:
            publish(_record(first, begun[0], row, runs[0]))
            bar.update(row - bar.n)

        runs = run_together(
            first.learner,
            [one.context.stream for one in built],
            jnp.stack([jax.random.key(seed) for seed in seeds]),
            steps=plan.steps,
            chunk=plan.how.chunk,
            task_incremental=plan.settings.scenario == "task",
            params=begun[0].params,
            on_rows=on_rows,
            keeper=keeper,
        )
    return {
        one.seed: _finished(one, common, own, at, run)
        for one, own, at, run in zip(built, begun, places, runs, strict=True)
    }


def _of_all(
    built: Built,
    same: Sequence[Built],
    common: Common,
    records: dict[int, Record],
    place: Place,
    so_far: Record,
    publish: Publish,
) -> Record:
    """The record of one seed; all seeds run when the first of them is asked for."""
    if not records:
        records.update(all_seeds(same, common, place, publish))
    return records[built.seed]


def check_together(built: Sequence[Built]) -> None:
    """Raise ValueError where the seeds of a learner cannot be one program."""
    spaces: dict[str, LabelSpace] = {}
    for one in built:
        space = spaces.setdefault(one.name, one.context.space)
        if not _equal(space, one.context.space):
            raise ValueError(
                "seeds can run together where their tasks have the same labels, expected as many "
                f"classes in each task with every seed; with seed {one.seed} they differ"
            )


def _equal(one: LabelSpace, other: LabelSpace) -> bool:
    return (one.tasks, one.target) == (other.tasks, other.target) and all(
        np.array_equal(a, b)  # type: ignore[arg-type]  # None is equal to None
        for a, b in ((one.initial, other.initial), (one.members, other.members))
    )


def _begun(built: Built, common: Common, place: Place, so_far: Record) -> Begun:
    plan, stream, kind = built.context.plan, built.context.stream, built.entry.start
    labels = {"original": stream.original, "label_names": stream.label_names}
    about = {"start": "random", **common.about, **labels, "bound": built.entry.bound}
    params = None
    if plan.start == "parameters" and common.background is not None and kind != "random":
        params, found = parameters_of(plan, kind, stream.classes, common.background, place)
        about |= found
    measured = measurements(built.context, place, built.seed, so_far.get("generator", []))
    return Begun(params, about, measured)


def _record(built: Built, begun: Begun, row: int, run: StreamRun) -> Record:
    """The record after task `row`."""
    record = record_of(built.context.plan, row, run)
    return {**record, **begun.about, **begun.measured(row, run)}


def _finished(built: Built, common: Common, begun: Begun, place: Place, run: StreamRun) -> Record:
    """The record of a run that has ended, whose parameters and whole state are written."""
    save_params(place.folder, run.state.train.params, name=f"params_{place.about}")
    _save_learner(built, run.state, common, place)
    plan, tasks = built.context.plan, built.context.stream.tasks
    return {**record_of(plan, tasks, run), **begun.about, **begun.measured(tasks, None)}


def _save_learner(built: Built, state: LifelongState, common: Common, place: Place) -> None:
    """Write the whole learner to `LEARNER_seedS.kept`, where it answers by examples alone."""
    registered = lifelong_learners.get(built.name) is built.entry
    if not registered or built.context.plan.settings.scenario != "class":
        return
    kept = kept_of(
        built.name,
        built.context,
        state,
        images=common.images,
        embedding=common.encoder,
        origin={"lifelong run": str(place.folder), "learner": place.about},
    )
    keep.save(place.folder / f"{place.about}.kept", kept)
