"""VAML on sine waves and on Omniglot: train once, test with several numbers of shots."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jax import Array
from tqdm import tqdm

from lml_jax import evaluate, metrics, nets
from lml_jax.data.arrays import select
from lml_jax.data.episodes import episodes, fewer_shots
from lml_jax.execution import execution
from lml_jax.experiments.datasets import DataEntry, DataRequest, data_entry, made_of
from lml_jax.experiments.fewshot.run import keys_of
from lml_jax.experiments.progress import Sampler, Trained, train_with_bar
from lml_jax.experiments.record import Record, resumable, save_params
from lml_jax.experiments.runner import Experiment, Place
from lml_jax.generative.vaml.images import mlp_parts, vaml
from lml_jax.generative.vaml.posterior import Weights
from lml_jax.generative.vaml.regression import vaml_regression
from lml_jax.settings import check_literals, check_numbers
from lml_jax.types import Dataset, Learner, Params, Task, TaskGenerator


@dataclass(frozen=True)
class Vaml:
    """Settings of a run on any data set."""

    data: str = "omniglot"  # of images with classes to meta-train on, or of regression tasks
    encoder: Literal["conv4", "mlp"] = "conv4"  # of images; conv4 with GroupNorm
    hidden: tuple[int, ...] = (400, 400)  # of every perceptron
    code: int = 64  # d, length of a code
    latent: int = 24  # length of z
    head: bool = False  # classify by the amortised head instead of the evidence
    discriminative: float = 100.0  # weight of log p(y|x, S)
    support: float = 0.0  # weight of the support set's own likelihood
    draws: int = 4  # of the code, per task
    ways: int = 5
    shots: int = 5  # largest number at training, where each task has a random one
    least_shots: int = 1
    train_queries: int = 3  # per class
    test_shots: tuple[int, ...] = (1, 5)
    queries: int = 15  # per class, at test
    meta_batch: int = 8
    steps: int = 9000
    rate: float = 2e-3  # falls to 0 along a cosine
    held_out: int = 0  # last groups of the training classes, kept from training
    episodes: int = 600
    seed: int = 0
    data_dir: str | None = None


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

    settings: Vaml
    entry: DataEntry
    learner: Learner
    generator: TaskGenerator
    train_set: Any
    test_set: Any
    held_out: Dataset | None
    sample: Sampler
    tests: dict[int, Sampler]
    score: evaluate.QueryScore


def build(s: Vaml) -> Setup:
    """Everything a run is made of.

    Raises:
        ValueError: for settings that cannot be.
    """
    entry = data_entry(s.data, data_dir=s.data_dir, command="few-shot")
    check_literals(s)
    ones = ("code", "latent", "draws", "ways", "shots", "least_shots", "train_queries", "queries",
            "meta_batch", "steps", "episodes")  # fmt: skip
    check_numbers(s, least={**dict.fromkeys(ones, 1), "held_out": 0, "seed": 0}, above=("rate",))
    return (_images if entry.tasks is None else _regression)(s, entry)


def _regression(s: Vaml, entry: DataEntry) -> Setup:
    """A code of each wave, from its points."""
    assert entry.tasks is not None
    learner, generator = vaml_regression(
        nets.mlp(s.hidden, 2 * s.code),
        nets.mlp(s.hidden, 1),
        outer_rule(s),
        weights=Weights(support=s.support),
        draws=s.draws,
    )
    return Setup(
        s,
        entry,
        learner,
        generator,
        (),
        (),
        None,
        entry.tasks(tasks=s.meta_batch, shots=s.shots, queries=s.train_queries),
        {k: entry.tasks(tasks=500, shots=k, queries=s.queries) for k in s.test_shots},
        evaluate.query_squared_error,
    )


def _images(s: Vaml, entry: DataEntry) -> Setup:
    """A code of each class; trained on background classes, tested on others.

    Each class of a training episode is turned by a random multiple of 90 degrees, none at test.
    """
    assert entry.background is not None
    assert entry.stream is not None
    request = DataRequest(s.data_dir)
    every, (test_set, _) = entry.background(request), entry.stream(request)
    train_set, held_out = without_last(every, s.held_out)
    shape = train_set.x.shape[1:]
    wide = 2 * s.code
    encode = nets.conv4(wide, norm="group") if s.encoder == "conv4" else nets.mlp(s.hidden, wide)
    head = nets.mlp((128,), 2 * (s.code + 1)) if s.head else None
    learner, generator = vaml(
        mlp_parts(encode, pixels=int(np.prod(shape)), latent=s.latent, hidden=s.hidden, head=head),
        outer_rule(s),
        shape=shape,
        classes=s.ways,
        weights=Weights(support=s.support),
        discriminative=s.discriminative,
        draws=s.draws,
    )
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
    train_set, test_set = jax.device_put((train_set, test_set))
    score = evaluate.query_accuracy
    return Setup(s, entry, learner, generator, train_set, test_set, held_out, sample, tests, score)


def without_last(data: Dataset, groups: int) -> tuple[Dataset, Dataset | None]:
    """The classes of all but the last `groups` (alphabets), and those of the last."""
    if groups == 0:
        return data, None
    last = np.asarray(data.group) >= int(data.group.max()) + 1 - groups
    return select(data, np.flatnonzero(~last)), select(data, np.flatnonzero(last))


def outer_rule(s: Vaml) -> optax.GradientTransformation:
    """Adam at a rate that falls to 0."""
    return optax.adam(optax.cosine_decay_schedule(s.rate, s.steps))


def train_vaml(setup: Setup, place: Place) -> tuple[Trained, dict[str, float]]:
    """The training, its parameters written to `params.npz`."""
    s = setup.settings
    key_init, key_train, _ = keys_of(s.seed)
    sample = fewer_shots(setup.sample, ways=s.ways, shots=s.shots, least=s.least_shots)
    state = setup.generator.init(key_init, first_support(sample, setup.train_set, key_train))
    with place.keeping(resumable(asdict(s))) as keeper:
        run = train_with_bar(
            setup.generator.step,
            sample,
            state,
            setup.train_set,
            key_train,
            steps=s.steps,
            how=execution("conv" if s.encoder == "conv4" else "dense", steps=s.steps),
            about=f"train vaml on {s.data}",
            place=place,
            keeper=keeper,
        )
    save_params(place.folder, run.state.params)
    return run, {"train": run.seconds}


def first_support(sample: Sampler, data: Any, key: Array) -> Array:
    """The support set of one task, as an example of what is learned."""
    return sample(data, key).support.x[0]


def score_vaml(setup: Setup, trained: Trained, place: Place) -> Record:
    """Mean score and 95 % interval over test tasks, for each number of shots."""
    s = setup.settings

    def of_task(params: Params, task: Task, key: Array) -> Array:
        fast = setup.learner.adapt(params, task.support, key)
        return setup.score(setup.learner.predict(params, fast, task.query.x), task.query)

    rows, key = [], keys_of(s.seed)[2]
    for shots, sample in setup.tests.items():
        batches = evaluate.over_episodes(
            of_task, trained.state.params, sample, setup.test_set, key, episodes=s.episodes
        )
        bar = tqdm(batches, disable=place.hidden, desc=f"test with {shots} shots")
        scores = np.concatenate(list(bar))
        mean, half = metrics.mean_ci(scores)
        rows.append({"shots": shots, "score": mean, "ci95": half, "episodes": len(scores)})
    return {
        "learner": "vaml",
        "data": s.data,
        "seed": s.seed,
        "steps": int(trained.state.step),
        "tests": rows,
        **data_of(setup),
    }


def data_of(setup: Setup) -> Record:
    """What the data was made with, where there is any."""
    if setup.entry.tasks is not None:
        return {}
    return {"data_made": made_of(setup.entry, train=setup.train_set, test=setup.test_set)}


def table(record: Record) -> str:
    """A line for each number of shots."""
    return "\n".join(
        f"  {row['shots']:2d} shots: {row['score']:.4f} ± {row['ci95']:.4f} "
        f"({row['episodes']} tasks)"
        for row in record["tests"]
    )


def config_of(setup: Setup) -> Record:
    """The settings of the record."""
    return asdict(setup.settings)


VAML: Experiment[Vaml, Setup, Trained] = Experiment(build, train_vaml, score_vaml, table, config_of)
