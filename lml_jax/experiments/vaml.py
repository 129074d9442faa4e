"""VAML on sine waves and on Omniglot: train once, test with several numbers of shots."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array
from tqdm import tqdm

from lml_jax import evaluate, metrics, nets
from lml_jax.checkpoint import Keeper, keeper
from lml_jax.data.arrays import select
from lml_jax.data.episodes import episodes, fewer_shots
from lml_jax.data.splits import omniglot_split
from lml_jax.data.synthetic import sinusoids
from lml_jax.experiments.fewshot.settings import Sampler
from lml_jax.experiments.progress import Trained, train_with_bar
from lml_jax.experiments.record import (
    CHECKPOINTS,
    keeping_last_good,
    open_folder,
    resumable,
    save_params,
    versions,
    write_metrics,
)
from lml_jax.generative.vaml.images import mlp_parts, vaml
from lml_jax.generative.vaml.posterior import Weights
from lml_jax.generative.vaml.regression import vaml_regression
from lml_jax.types import Dataset, Generator, Key, Learner, Params, Task


@dataclass(frozen=True)
class Vaml:
    """Settings of a run, the same for both data sets where they do not say otherwise."""

    data: str = "omniglot"  # or sine
    encoder: str = "conv4"  # with GroupNorm; or mlp
    hidden: tuple[int, ...] = (400, 400)  # of every perceptron
    code: int = 64  # d, length of a code
    latent: int = 24  # length of z
    head: bool = False  # the amortised head instead of the evidence
    discriminative: float = 100.0  # weight of log p(y|x, S)
    support: float = 0.0  # weight of the support set's own likelihood
    draws: int = 4
    ways: int = 5
    shots: int = 5  # the largest number at training; each task has a random one
    least_shots: int = 1
    train_queries: int = 3  # a class
    test_shots: tuple[int, ...] = (1, 5)
    queries: int = 15
    meta_batch: int = 8
    steps: int = 9000
    rate: float = 2e-3  # falls to 0 by a cosine
    held_out: int = 0  # last background alphabets of Omniglot kept from training, to choose on
    episodes: int = 600
    seed: int = 0


SINE = Vaml(
    data="sine",
    encoder="mlp",
    hidden=(128, 128, 128),
    code=32,
    support=1.0,
    draws=16,
    ways=1,
    shots=10,
    least_shots=3,
    train_queries=5,
    test_shots=(5, 10),
    queries=20,
    meta_batch=24,
    steps=10_000,
    episodes=5000,
)


class Setup(NamedTuple):
    """What is trained and tested: `tests` is a sampler for each number of shots.

    `held_out` are classes neither trained nor tested on; None where the settings ask for none.
    """

    learner: Learner
    generator: Generator
    train_set: Any
    test_set: Any
    held_out: Any
    sample: Sampler
    tests: dict[int, Sampler]
    score: evaluate.QueryScore


def sine(s: Vaml) -> Setup:
    """A code of each wave, from its points."""
    learner, generator = vaml_regression(
        nets.mlp(s.hidden, 2 * s.code),
        nets.mlp(s.hidden, 1),
        outer_rule(s),
        weights=Weights(support=s.support),
        draws=s.draws,
    )
    return Setup(
        learner,
        generator,
        (),
        (),
        None,
        sinusoids(tasks=s.meta_batch, shots=s.shots, queries=s.train_queries),
        {k: sinusoids(tasks=500, shots=k, queries=s.queries) for k in s.test_shots},
        evaluate.query_squared_error,
    )


def omniglot(s: Vaml) -> Setup:
    """A code of each character; trained on background classes, tested on evaluation classes.

    Each class of a training episode is turned by a random multiple of 90 degrees, none at test.
    """
    conv = s.encoder == "conv4"
    encode = nets.conv4(2 * s.code, norm="group") if conv else nets.mlp(s.hidden, 2 * s.code)
    head = nets.mlp((128,), 2 * (s.code + 1)) if s.head else None
    learner, generator = vaml(
        mlp_parts(encode, pixels=28 * 28, latent=s.latent, hidden=s.hidden, head=head),
        outer_rule(s),
        shape=(28, 28),
        classes=s.ways,
        weights=Weights(support=s.support),
        discriminative=s.discriminative,
        draws=s.draws,
    )
    train_set, test_set = (omniglot_split("background/evaluation", p) for p in ("train", "test"))
    train_set, held_out = without_last(train_set, s.held_out)
    sample = episodes(
        train_set,
        tasks=s.meta_batch,
        ways=s.ways,
        shots=s.shots,
        queries=s.train_queries,
        rotate=True,
    )
    tests = {
        k: episodes(test_set, tasks=20, ways=s.ways, shots=k, queries=s.queries)
        for k in s.test_shots
    }
    score = evaluate.query_accuracy
    return Setup(learner, generator, train_set, test_set, held_out, sample, tests, score)


def without_last(data: Dataset, alphabets: int) -> tuple[Dataset, Dataset | None]:
    """The classes of all but the last `alphabets`, and those of the last."""
    if alphabets == 0:
        return data, None
    last = np.asarray(data.group) >= int(data.group.max()) + 1 - alphabets
    return select(data, np.flatnonzero(~last)), select(data, np.flatnonzero(last))


def outer_rule(s: Vaml) -> optax.GradientTransformation:
    """Adam at a rate that falls to 0."""
    return optax.adam(optax.cosine_decay_schedule(s.rate, s.steps))


def run_vaml(
    settings: Vaml,
    out: str | Path,
    *,
    minutes: float | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train, test with each number of shots, and write `metrics.json` and `params.npz` into `out`.

    Args:
        settings: what to run.
        out: a folder that is absent or empty; with `resume`, also one of a run that was cut.
        minutes: stop training after so many, even if fewer than `settings.steps` are done.
        resume: go on from the newest checkpoint in `out`, bit for bit.
        progress: show a bar.

    Returns:
        The record written.

    Raises:
        train.DivergedError: if a loss was not finite; the last good parameters are in
            `last_good.npz`.
    """
    setup = SETUPS[settings.data](settings)
    folder = open_folder(out, resume=resume)
    key_test = jax.random.split(jax.random.key(settings.seed), 3)[2]
    kept = keeper(folder / CHECKPOINTS, config=resumable(settings))
    with keeping_last_good(folder), kept as keeping:
        run = trained(settings, setup, folder, keeping, minutes=minutes, progress=progress)
        begun = time.perf_counter()
        tests = tested(settings, setup, run.state.params, key_test, progress=progress)
    record = {
        "learner": "vaml",
        "data": settings.data,
        "steps": int(run.state.step),
        "tests": tests,
        "seconds": {"train": run.seconds, "eval": time.perf_counter() - begun},
        "config": asdict(settings),
        "versions": versions(),
    }
    write_metrics(folder, record)
    return record


def trained(
    settings: Vaml,
    setup: Setup,
    folder: Path,
    keeper: Keeper,
    *,
    minutes: float | None,
    progress: bool,
) -> Trained:
    """The run after training, its parameters written to `params.npz` in `folder`."""
    s = settings
    key_init, key_train, _ = jax.random.split(jax.random.key(s.seed), 3)
    sample = fewer_shots(setup.sample, ways=s.ways, shots=s.shots, least=s.least_shots)
    state = setup.generator.init(key_init, sample(setup.train_set, key_train).support.x[0])
    # Convolutions inside a scan crawl on a CPU.
    scan = s.encoder == "mlp" or jax.default_backend() != "cpu"
    run = train_with_bar(
        setup.generator.step,
        sample,
        state,
        setup.train_set,
        key_train,
        steps=s.steps,
        scan=scan,
        chunk=1000 if s.data == "sine" else 50,
        about=f"train vaml on {s.data}",
        minutes=minutes,
        progress=progress,
        keeper=keeper,
    )
    save_params(folder, run.state.params)
    return run


def tested(
    settings: Vaml, setup: Setup, params: Params, key: Key, *, progress: bool
) -> list[dict[str, Any]]:
    """Mean score and 95 % interval over test tasks, for each number of shots."""

    def of_task(params: Params, task: Task, key: Key) -> Array:
        fast = setup.learner.adapt(params, task.support, key)
        return setup.score(setup.learner.predict(params, fast, task.query.x), task.query)

    rows = []
    for shots, sample in setup.tests.items():
        batches = evaluate.over_episodes(
            of_task, params, sample, setup.test_set, key, episodes=settings.episodes
        )
        about = f"test with {shots} shots"
        scores = np.concatenate(list(tqdm(batches, disable=not progress, desc=about)))
        mean, half = metrics.mean_ci(scores)
        rows.append({"shots": shots, "score": mean, "ci95": half, "episodes": len(scores)})
    return rows


def over_seeds(settings: Vaml, *, seeds: int = 1, minutes: float | None = None) -> Callable:
    """Seeds 0, 1, ... into a folder each; (folder, resume=False) -> a report."""

    def run(out: Path, *, resume: bool = False) -> str:
        open_folder(out, resume=resume)
        lines = []
        for seed in range(seeds):
            own, folder = replace(settings, seed=seed), out / f"seed{seed}"
            record = run_vaml(own, folder, minutes=minutes, resume=resume)
            lines.append(
                f"seed {seed}, {record['steps']} steps in {record['seconds']['train']:.0f} s, "
                f"tested in {record['seconds']['eval']:.0f} s"
            )
            lines += [
                f"  {row['shots']:2d} shots: {row['score']:.4f} ± {row['ci95']:.4f} "
                f"({row['episodes']} tasks)"
                for row in record["tests"]
            ]
        return "\n".join(lines)

    return run


SETUPS = {"sine": sine, "omniglot": omniglot}
