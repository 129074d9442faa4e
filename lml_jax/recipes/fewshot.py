"""Meta-train and meta-test one few-shot learner."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

from lml_jax import evaluate, inner, losses, metrics, nets, plots, train
from lml_jax.data.episodes import episodes
from lml_jax.data.glyphs import glyphs
from lml_jax.data.sources import select
from lml_jax.data.splits import omniglot_split
from lml_jax.data.synthetic import sinusoids
from lml_jax.learners.maml import maml
from lml_jax.learners.reptile import reptile, surrogate
from lml_jax.names import known
from lml_jax.recipes.progress import train_with_bar
from lml_jax.recipes.record import (
    keeping_last_good,
    open_folder,
    save_params,
    versions,
    write_metrics,
)
from lml_jax.types import Dataset, Key, Learner, Loss, Net, Params, Task

LEARNERS = ("maml", "fomaml", "meta-sgd", "maml++", "reptile")
DATA = ("omniglot", "glyphs", "sine")


@dataclass(frozen=True)
class FewShot:
    """Settings of a few-shot run; what is written in its record."""

    learner: str = "maml"
    data: str = "glyphs"
    split: str = "maml-random"  # of Omniglot
    ways: int = 5
    shots: int = 1  # support examples a class (points, for sine), at training
    test_shots: int | None = None  # and at test; None: the same
    train_queries: int = 1
    queries: int = 15
    steps: int = 2000  # meta-steps
    episodes: int = 1000  # test episodes
    meta_batch: int = 32
    inner_steps: int = 1
    test_inner_steps: int = 10
    report_step: int = 3  # inner steps of the headline accuracy
    inner_rate: float = 0.4
    outer_rate: float = 1e-3
    decay: str = "constant"  # or "cosine", of the outer rate
    batch_statistics: str = "transductive"  # or "group"
    filters: int = 64
    seed: int = 0
    data_dir: str | None = None


def run_fewshot(
    settings: FewShot, out: str | Path, *, minutes: float | None = None, progress: bool = True
) -> dict[str, Any]:
    """Meta-train, meta-test, and write `metrics.json`, `params.npz` and a figure into `out`.

    Args:
        settings: what to run.
        out: a folder that is absent or empty.
        minutes: stop training after so many, even if fewer than `settings.steps` are done.
        progress: show a bar.

    Returns:
        The record written.

    Raises:
        ValueError: for settings that cannot be run, before anything is trained.
        train.DivergedError: if a loss was not finite; the last good parameters are in
            `last_good.npz`.
    """
    settings = checked(settings)
    train_set, test_set, sample, test_sample = tasks_of(settings)
    net = network_of(settings)
    learner = learner_of(settings, net, steps=settings.inner_steps)
    folder = open_folder(out)
    key_init, key_train, key_test = jax.random.split(jax.random.key(settings.seed), 3)
    begun = time.perf_counter()
    example = sample(train_set, key_train).support.x[0]
    params = learner.init(key_init, example)
    with keeping_last_good(folder):
        params, done = meta_train(
            settings,
            learner,
            params,
            sample,
            train_set,
            key_train,
            minutes=minutes,
            progress=progress,
        )
    save_params(folder, params)
    trained = time.perf_counter()
    scores = meta_test(settings, net, params, test_sample, test_set, key_test, progress=progress)
    record = {
        **summary_of(settings, scores),
        "steps": done,
        "seconds": {"train": trained - begun, "eval": time.perf_counter() - trained},
        "config": asdict(settings),
        "versions": versions(),
    }
    write_metrics(folder, record)
    if settings.data != "sine":
        plots.save(plots.accuracy_per_inner_step(record), folder / "accuracy_per_inner_step.png")
    return record


def checked(settings: FewShot) -> FewShot:
    """`settings`, or a ValueError that names what is wrong with them."""
    known(settings.learner, LEARNERS, what="learner")
    known(settings.data, DATA, what="data set")
    known(settings.decay, ("constant", "cosine"), what="decay")
    if not 0 <= settings.report_step <= settings.test_inner_steps:
        raise ValueError(
            f"report_step must be in 0..{settings.test_inner_steps} (test_inner_steps), "
            f"got {settings.report_step}"
        )
    for name in ("steps", "episodes", "meta_batch"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}")
    return settings if settings.test_shots else replace(settings, test_shots=settings.shots)


Sampler = Callable[[Any, Key], Task]


def tasks_of(settings: FewShot) -> tuple[Any, Any, Sampler, Sampler]:
    """(training data, test data, sampler of training tasks, sampler of test tasks)."""
    s = settings
    if s.data == "sine":
        train_sampler = sinusoids(tasks=s.meta_batch, shots=s.shots, queries=s.train_queries)
        return (
            (),
            (),
            train_sampler,
            sinusoids(tasks=1000, shots=s.test_shots or s.shots, queries=s.queries),
        )
    turn = s.data == "omniglot"
    train_set, test_set = image_sets(s)
    return (
        train_set,
        test_set,
        episodes(
            train_set,
            tasks=s.meta_batch,
            ways=s.ways,
            shots=s.shots,
            queries=s.train_queries,
            rotate=turn,
        ),
        episodes(
            test_set,
            tasks=20,
            ways=s.ways,
            shots=s.test_shots or s.shots,
            queries=s.queries,
            rotate=turn and s.split == "maml-random",
        ),
    )


def image_sets(settings: FewShot) -> tuple[Dataset, Dataset]:
    """Training and test classes; of glyphs, the last five scripts are for testing."""
    if settings.data == "omniglot":
        return (
            omniglot_split(settings.split, "train", data_dir=settings.data_dir),
            omniglot_split(settings.split, "test", data_dir=settings.data_dir),
        )
    every = glyphs()
    held_out = np.asarray(every.group) >= len(every.groups) - 5
    return select(every, np.flatnonzero(~held_out)), select(every, np.flatnonzero(held_out))


def network_of(settings: FewShot) -> Net:
    """The network of the published protocol: 1-40-40-1 for sine, strided conv4 for images."""
    if settings.data == "sine":
        return nets.mlp([40, 40], 1)
    return nets.conv4(
        settings.ways,
        filters=settings.filters,
        norm=settings.batch_statistics,  # type: ignore[arg-type]
    )


def learner_of(settings: FewShot, net: Net, *, steps: int) -> Learner:
    """The learner by name, with `steps` inner steps."""
    rate, unroll = settings.inner_rate, settings.data != "sine"
    loss = losses.squared_error if settings.data == "sine" else losses.cross_entropy
    if settings.learner == "reptile":
        # Adam without momentum, as the paper's inner loop.
        return reptile(net, optax.adam(rate, b1=0.0), steps=steps, loss=loss, unroll=unroll)
    rules = {
        "meta-sgd": lambda: inner.per_parameter(rate),
        "maml++": lambda: inner.per_layer_and_step(rate, steps=settings.inner_steps),
    }
    rule = rules.get(settings.learner, lambda: inner.fixed(optax.sgd(rate)))()
    return maml(
        net, rule, steps=steps, loss=loss, first_order=settings.learner == "fomaml", unroll=unroll
    )


def loss_of(settings: FewShot, learner: Learner) -> Loss:
    """What the outer loop minimises."""
    loss = losses.squared_error if settings.data == "sine" else losses.cross_entropy
    if settings.learner == "reptile":
        return surrogate(learner, loss=loss)
    return train.episode_loss(learner, loss=loss)


def meta_train(
    settings: FewShot,
    learner: Learner,
    params: Params,
    sample: Sampler,
    data: Any,
    key: Key,
    *,
    minutes: float | None,
    progress: bool,
) -> tuple[Params, int]:
    """Parameters after training, and the number of meta-steps done."""
    rate: Any = settings.outer_rate
    if settings.decay == "cosine":
        rate = optax.cosine_decay_schedule(rate, settings.steps)
    tx = optax.sgd(rate) if settings.learner == "reptile" else optax.adam(rate)
    step = train.make_train_step(loss_of(settings, learner), tx)
    state = train.init_state(params, tx)
    scan = settings.data == "sine"
    chunk = 1000 if scan else max(1, min(50, settings.steps // 20))
    state = train_with_bar(
        step,
        sample,
        state,
        data,
        key,
        steps=settings.steps,
        scan=scan,
        chunk=chunk,
        about=f"train {settings.learner}",
        minutes=minutes,
        progress=progress,
    )
    return state.params, int(state.step)


def meta_test(
    settings: FewShot,
    net: Net,
    params: Params,
    sample: Sampler,
    data: Any,
    key: Key,
    *,
    progress: bool,
) -> np.ndarray:
    """Scores [episodes, S + 1] per inner step: accuracy, or squared error for sine."""
    score = evaluate.query_squared_error if settings.data == "sine" else evaluate.query_accuracy
    of_task = evaluate.per_inner_step(
        learner_of(settings, net, steps=1), steps=settings.test_inner_steps, score=score
    )
    rows = []
    with tqdm(total=settings.episodes, disable=not progress, unit="episode", desc="test") as bar:
        for scores in evaluate.over_episodes(
            of_task, params, sample, data, key, episodes=settings.episodes
        ):
            rows.append(scores)
            bar.update(len(scores))
    return np.concatenate(rows)


def summary_of(settings: FewShot, scores: np.ndarray) -> dict[str, Any]:
    """The record of DESIGN: accuracy with its 95 % interval, and per inner step."""
    per_step = [metrics.mean_ci(column) for column in scores.T]
    mean, half = per_step[settings.report_step]
    common = {
        "learner": settings.learner,
        "data": settings.data,
        "split": settings.split if settings.data == "omniglot" else None,
        "ways": settings.ways,
        "shots": settings.test_shots,
        "episodes": len(scores),
        "queries": settings.queries,
        "seed": settings.seed,
    }
    if settings.data == "sine":
        # An error that a straight line through the data would not reach: the task diverged.
        diverged = ~(scores < 100.0)
        return {
            **common,
            "mse": mean,
            "ci95": half,
            "mse_per_inner_step": [m for m, _ in per_step],
            "mse_first_600_per_inner_step": scores[:600].mean(axis=0),
            "median_per_inner_step": np.median(scores, axis=0),
            "diverged_per_inner_step": diverged.mean(axis=0),
        }
    return {
        **common,
        "batch_statistics": settings.batch_statistics,
        "inner_steps_reported": settings.report_step,
        "accuracy": mean,
        "ci95": half,
        "accuracy_per_inner_step": [m for m, _ in per_step],
        "ci95_per_inner_step": [h for _, h in per_step],
    }


def table(record: dict[str, Any]) -> str:
    """The scores of a run, a line for each inner step."""
    if record["data"] == "sine":
        rows = zip(
            record["mse_per_inner_step"],
            record["median_per_inner_step"],
            record["diverged_per_inner_step"],
            strict=True,
        )
        head = f"sine, K = {record['shots']}, {record['episodes']} tasks\n"
        head += f"{'step':>4s} {'mean MSE':>10s} {'median':>10s} {'diverged':>10s}"
        lines = [f"{s:4d} {m:10.4f} {d:10.4f} {v:10.2%}" for s, (m, d, v) in enumerate(rows)]
        return "\n".join([head, *lines])
    pairs = zip(record["accuracy_per_inner_step"], record["ci95_per_inner_step"], strict=True)
    head = (
        f"{record['ways']}-way {record['shots']}-shot, {record['episodes']} episodes x "
        f"{record['queries']} queries, {record['batch_statistics']} statistics"
    )
    return "\n".join(
        [head, *(f"{s:4d} {100 * m:6.2f} ± {100 * h:.2f} %" for s, (m, h) in enumerate(pairs))]
    )
