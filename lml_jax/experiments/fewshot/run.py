"""Meta-train and meta-test one few-shot learner."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lml_jax import evaluate, metrics, plots, train
from lml_jax.checkpoint import Keeper, keeper
from lml_jax.experiments.fewshot.build import learner_of, loss_of, network_of, outer_rule_of
from lml_jax.experiments.fewshot.embedding import embedded, frozen
from lml_jax.experiments.fewshot.settings import METRIC, FewShot, Sampler, checked, tasks_of
from lml_jax.experiments.progress import train_with_bar
from lml_jax.experiments.record import (
    CHECKPOINTS,
    keeping_last_good,
    open_folder,
    resumable,
    save_params,
    versions,
    write_metrics,
)
from lml_jax.types import Key, Learner, Net, Params


def run_fewshot(
    settings: FewShot,
    out: str | Path,
    *,
    minutes: float | None = None,
    resume: bool = False,
    save_every: float = 60.0,
    progress: bool = True,
) -> dict[str, Any]:
    """Meta-train, meta-test, and write `metrics.json`, `params.npz` and a figure into `out`.

    Args:
        settings: what to run.
        out: a folder that is absent or empty; with `resume`, also one of a run that was cut.
        minutes: stop training after so many, even if fewer than `settings.steps` are done.
        resume: go on from the newest checkpoint in `out`, bit for bit.
        save_every: least seconds between two checkpoints.
        progress: show a bar.

    Returns:
        The record written.

    Raises:
        ValueError: for settings that cannot be run, before anything is trained; for checkpoints
            of other settings.
        train.DivergedError: if a loss was not finite; the last good parameters are in
            `last_good.npz`.
        checkpoint.Stopped: after SIGTERM or Ctrl-C, when everything was saved.
    """
    complete: Any = checked(settings)
    train_set, test_set, sample, test_sample = tasks_of(complete)
    net = network_of(complete)
    learner = learner_of(complete, net, steps=complete.inner_steps, ways=complete.train_ways)
    folder = open_folder(out, resume=resume)
    key_init, key_train, key_test = jax.random.split(jax.random.key(complete.seed), 3)
    example = sample(train_set, key_train).support.x[0]
    params = learner.init(key_init, example)
    kept = keeper(folder / CHECKPOINTS, config=resumable(complete), every=save_every)
    with keeping_last_good(folder), kept as kept_by:
        params, done, seconds = meta_train(
            complete,
            learner,
            params,
            sample,
            train_set,
            key_train,
            minutes=minutes,
            progress=progress,
            keeper=kept_by,
        )
        begun = time.perf_counter()
        if complete.batch_statistics == "frozen":
            params = {**params, "net": frozen(net, params["net"], train_set, key_init)}
        save_params(folder, params)
        tested = (net, params, test_set, test_sample)
        if complete.learner in METRIC:
            tested = embedded(complete, net, params, test_set)
        scores = meta_test(complete, *tested, key_test, progress=progress)
    record = {
        **summary_of(complete, scores),
        "steps": done,
        "seconds": {"train": seconds, "eval": time.perf_counter() - begun},
        "config": asdict(complete),
        "versions": versions(),
    }
    write_metrics(folder, record)
    if complete.data != "sine" and complete.learner not in METRIC:
        plots.save(plots.accuracy_per_inner_step(record), folder / "accuracy_per_inner_step.png")
    return record


def meta_train(
    settings: Any,
    learner: Learner,
    params: Params,
    sample: Sampler,
    data: Any,
    key: Key,
    *,
    minutes: float | None,
    progress: bool,
    keeper: Keeper,
) -> tuple[Params, int, float]:
    """Parameters after training, the number of meta-steps done, and the seconds they took."""
    tx = outer_rule_of(settings)
    step = train.make_train_step(loss_of(settings, learner), tx)
    state = train.init_state(params, tx)
    # Convolutions inside a scan crawl on CPU; elsewhere a launch costs more than small steps do.
    sine = settings.data == "sine"
    scan = sine or jax.default_backend() != "cpu"
    chunk = 1000 if sine else max(1, min(50, settings.steps // 20))
    run = train_with_bar(
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
        keeper=keeper,
    )
    return run.state.params, int(run.state.step), run.seconds


def meta_test(
    settings: Any,
    net: Net,
    params: Params,
    data: Any,
    sample: Sampler,
    key: Key,
    *,
    progress: bool,
) -> np.ndarray:
    """Scores [episodes, S + 1] per inner step: accuracy, or squared error for sine.

    Of a learner without inner steps, [episodes, 1].
    """
    learner = learner_of(settings, net, steps=1, ways=settings.ways)
    return scores_of(settings, learner, params, data, sample, key, progress=progress)


def scores_of(
    settings: Any,
    learner: Learner,
    params: Params,
    data: Any,
    sample: Sampler,
    key: Key,
    *,
    progress: bool,
) -> np.ndarray:
    """As `meta_test`, of any learner that takes a single inner step, if it takes any."""
    score = evaluate.query_squared_error if settings.data == "sine" else evaluate.query_accuracy
    if settings.learner in METRIC:
        of_task = evaluate.once_adapted(learner, score=score)
    else:
        of_task = evaluate.per_inner_step(learner, steps=settings.test_inner_steps, score=score)
    rows = []
    with tqdm(total=settings.episodes, disable=not progress, unit="episode", desc="test") as bar:
        for scores in evaluate.over_episodes(
            of_task, params, sample, data, key, episodes=settings.episodes
        ):
            rows.append(scores)
            bar.update(len(scores))
    return np.concatenate(rows)


def summary_of(settings: Any, scores: np.ndarray) -> dict[str, Any]:
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
    many = len(record["accuracy_per_inner_step"]) > 1
    return "\n".join(
        [
            head,
            *(
                f"{s if many else '':4} {100 * m:6.2f} ± {100 * h:.2f} %"
                for s, (m, h) in enumerate(pairs)
            ),
        ]
    )
