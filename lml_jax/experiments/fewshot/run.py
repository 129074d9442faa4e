"""Meta-train and meta-test one few-shot learner."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from lml_jax import evaluate, keep, train
from lml_jax.execution import Execution
from lml_jax.experiments import runner
from lml_jax.experiments.datasets import made_of
from lml_jax.experiments.fewshot.build import (
    Tasks,
    execution_of,
    learner_of,
    loss_of,
    network_of,
    outer_rule_of,
    score_of,
    tasks_of,
)
from lml_jax.experiments.fewshot.embedding import embed, frozen, on_features
from lml_jax.experiments.fewshot.learners import FewShotEntry, few_shot_learners
from lml_jax.experiments.fewshot.report import draw, summary_of, table
from lml_jax.experiments.fewshot.settings import FewShot, Plan, resolve
from lml_jax.experiments.kept.start import begin_of
from lml_jax.experiments.networks import FEATURES
from lml_jax.experiments.progress import train_with_bar
from lml_jax.experiments.record import Record, resumable, save_params
from lml_jax.experiments.runner import Experiment, Place
from lml_jax.types import Key, Learner, Net, Params


class Built(NamedTuple):
    """What a run is made of."""

    plan: Plan
    tasks: Tasks
    net: Net
    learner: Learner  # as it is trained
    how: Execution


class Trained(NamedTuple):
    """Parameters, and the updates that made them."""

    params: Params
    steps: int
    validated: Record | None  # the update and the score of the best validation


def run_fewshot(
    settings: FewShot,
    out: str | Path,
    *,
    learners: Mapping[str, FewShotEntry] | None = None,
    **options: Any,
) -> Record:
    """Meta-train, meta-test, and write `metrics.json`, `params.npz` and a figure into `out`.

    A learner with an embedding is written to `learner.kept` too, to be taught by `lml-jax teach`.

    Args:
        settings: what to run.
        out: a folder that is absent or empty; with `resume`, also that of an interrupted run.
        learners: the user's own learners, by the name that `settings.learner` gives.
        **options: `minutes`, `resume`, `save_every`, `progress` and `log`, as in `runner.run`.

    Returns:
        The record written.

    Raises:
        ValueError: as in `runner.run`, as all else.
    """
    experiment = FEWSHOT._replace(build=partial(build, learners=learners))
    return runner.run(experiment, settings, out, **options)


def build(settings: FewShot, learners: Mapping[str, FewShotEntry] | None = None) -> Built:
    """Everything a run is made of."""
    plan = resolve(settings, learners)
    tasks = tasks_of(plan)
    plan = of_image_size(plan, tasks)
    net, s = network_of(plan), plan.settings
    learner = learner_of(plan, net, steps=s.inner_steps, ways=s.train_ways)
    return Built(plan, tasks, net, learner, execution_of(plan))


def of_image_size(plan: Plan, tasks: Tasks) -> Plan:
    """The plan with the size that the images have: those of arrays are not resized."""
    shape: tuple[int, ...] = ()
    if not plan.regression:
        shape = jax.tree.leaves(tasks.test_set.x)[0].shape[1:]
    if len(shape) < 2:
        return plan
    if shape[0] != shape[1]:
        return plan._replace(image=(int(shape[0]), int(shape[1])))
    return plan._replace(settings=replace(plan.settings, size=int(shape[0])))


def keys_of(seed: int) -> list[Key]:
    """Keys of the start, of training and of test."""
    return list(jax.random.split(jax.random.key(seed), 3))


def meta_train(built: Built, place: Place) -> tuple[Trained, dict[str, float]]:
    """Parameters after training, written to `params.npz`, and the seconds it took."""
    plan, tasks, _, learner, how = built
    key_init, key_train, _ = keys_of(plan.settings.seed)
    example = tasks.sample(tasks.train_set, key_train).support.x[0]
    tx = outer_rule_of(plan)
    validate = None if tasks.validation_sample is None else validation_of(built)
    with place.keeping(resumable(config_of(built))) as keeper:
        run = train_with_bar(
            train.make_train_step(loss_of(plan, learner), tx),
            tasks.sample,
            train.init_state(learner.init(key_init, example), tx),
            tasks.train_set,
            key_train,
            steps=plan.settings.steps,
            how=how,
            about=f"train {plan.settings.learner}",
            place=place,
            keeper=keeper,
            validate=validate,
            validate_every=plan.settings.validate_every or 1,
        )
    params, validated = run.state.params, None
    if run.best is not None:
        params = run.best.params
        validated = {"step": int(run.best.step), "score": float(run.best.score)}
    params = as_tested(built, params)
    save_params(place.folder, params)
    if plan.entry.embedding and few_shot_learners.get(plan.settings.learner) is plan.entry:
        keep.save(place.folder / "learner.kept", new_learner(plan, params, place.folder))
    return Trained(params, int(run.state.step), validated), {"train": run.seconds}


def as_tested(built: Built, params: Params) -> Params:
    """Parameters with frozen batch statistics, where the settings say so."""
    plan, tasks, net = built.plan, built.tasks, built.net
    if plan.settings.batch_statistics != "frozen":
        return params
    key = keys_of(plan.settings.seed)[0]
    return {**params, "net": frozen(net, params["net"], tasks.train_set, key)}


def validation_of(built: Built) -> Callable[[Params], float]:
    """The score of parameters on the same validation episodes each time, larger is better."""
    plan, tasks, s = built.plan, built.tasks, built.plan.settings
    sample = tasks.validation_sample
    assert sample is not None
    of_task = task_scores(plan, learner_of(plan, built.net, steps=1, ways=s.ways))
    key = jax.random.fold_in(keys_of(s.seed)[1], 1)
    sign = -1 if plan.regression else 1

    def validate(params: Params) -> float:
        rows = evaluate.over_episodes(
            of_task, as_tested(built, params), sample, tasks.validation_set, key,
            episodes=s.validation_episodes,
        )  # fmt: skip
        return sign * float(np.concatenate(list(rows))[:, s.report_step].mean())

    return validate


def new_learner(plan: Plan, params: Params, folder: Path) -> keep.Kept:
    """A learner that is kept, in the embedding that was trained, and knows no class yet."""
    s = plan.settings
    origin = {"few-shot run": str(folder), "learner": s.learner, "data": s.data}
    begin = begin_of(plan, params, origin)
    return keep.new(
        begin.encoder,
        begin.head,
        pixels=begin.pixels,
        head_params=begin.head_params,
        origin=origin,
    )


def meta_test(built: Built, trained: Trained, place: Place) -> Record:
    """The scores of test episodes, each image embedded once where the learner allows it."""
    plan, tasks = built.plan, built.tasks
    net, params = built.net, trained.params
    if plan.entry.embedding:
        features = embed(net, params["net"], tasks.test_set)
        net, params, tasks = FEATURES, {**params, "net": {}}, on_features(plan, features)
    # One inner step at a time, so that the score after each is seen.
    learner = learner_of(plan, net, steps=1, ways=plan.settings.ways)
    key = keys_of(plan.settings.seed)[2]
    scores = scores_of(plan, learner, params, tasks, key, hidden=place.hidden)
    record = {**summary_of(plan, scores), "steps": trained.steps}
    if trained.validated:
        record["validation"] = trained.validated
    if not plan.regression:
        record["data_made"] = made_of(
            plan.data, train=built.tasks.train_set, test=built.tasks.test_set
        )
        if plan.image:
            record["image_size"] = list(plan.image)
    return record


def scores_of(
    plan: Plan, learner: Learner, params: Params, tasks: Tasks, key: Key, *, hidden: bool | None
) -> np.ndarray:
    """Scores [episodes, S + 1] after 0..S inner steps; of a learner without any, [episodes, 1].

    `learner` takes one inner step at a time. A score is an accuracy, or a squared error.
    """
    of_task, s, rows = task_scores(plan, learner), plan.settings, []
    with tqdm(total=s.episodes, disable=hidden, unit="episode", desc="test") as bar:
        for scores in evaluate.over_episodes(
            of_task, params, tasks.test_sample, tasks.test_set, key, episodes=s.episodes
        ):
            rows.append(scores)
            bar.update(len(scores))
    return np.concatenate(rows)


def task_scores(plan: Plan, learner: Learner) -> Callable[..., jax.Array]:
    """The scores of one task after each inner step, or once adapted."""
    score = score_of(plan)
    if plan.entry.embedding:
        return evaluate.once_adapted(learner, score=score)
    return evaluate.per_inner_step(learner, steps=plan.settings.test_inner_steps, score=score)


def config_of(built: Built) -> Record:
    """The settings of the record."""
    return asdict(built.plan.settings)


FEWSHOT: Experiment[FewShot, Built, Trained] = Experiment(
    build, meta_train, meta_test, table, config_of, draw
)
