"""Closed-form classifiers on pretrained features, class-incremental, with no stored example."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import heads, keep, metrics
from lml_jax.data.prepared import from_tfds
from lml_jax.data.streams import class_incremental
from lml_jax.experiments.folder import CHECKPOINTS
from lml_jax.experiments.intervals import table
from lml_jax.experiments.recipe import Recipe
from lml_jax.experiments.record import Record, fingerprint, tree_bytes, versions
from lml_jax.experiments.runner import Part, Place, Report, run_parts
from lml_jax.heads import Head, Statistics
from lml_jax.settings import check_numbers, check_seeds
from lml_jax.types import Dataset


@dataclass(frozen=True)
class ExemplarFree:
    """Settings: CIFAR-100 in tasks of classes, in a random order for each seed."""

    tasks: int = 10
    train_per_class: int | None = None  # None: all 500
    test_per_class: int | None = None  # None: all 100
    width: int = 5000  # of the random features
    held_out: float = 0.2  # share of the first task that chooses the strength of a ridge regression
    size: int = 128  # pixels that the encoder resizes images to
    seeds: tuple[int, ...] = tuple(range(20))  # class orders
    data_dir: str | None = None  # folder of prepared data


class Classifier(NamedTuple):
    """A head on the features, or on random features of them.

    Attributes:
        head: the classifier.
        random: on `heads.random_features`.
        chosen: its strength is chosen on held-out examples of the first task.
    """

    head: Head
    random: bool = False
    chosen: bool = False


CLASSIFIERS: Mapping[str, Classifier] = {
    "nearest-mean": Classifier(heads.nearest_mean()),
    "cosine": Classifier(heads.nearest_mean(distance="cosine")),
    "gaussian": Classifier(heads.gaussian()),
    "lda": Classifier(heads.lda()),
    "ridge": Classifier(heads.ridge(), chosen=True),
    "random-ridge": Classifier(heads.ridge(), random=True, chosen=True),
}
FIGURES = {
    "acc": "last",
    "average_incremental_accuracy": "average",
    "forgetting": "forgetting",
}


def compare(
    classifiers: Mapping[str, Classifier] = CLASSIFIERS,
) -> Callable[[ExemplarFree], Report]:
    """Settings -> (folder, resume=False) -> report: every classifier with every class order."""

    def report_of(settings: ExemplarFree) -> Report:
        def run(out: Path, *, resume: bool = False) -> str:
            result = run_classifiers(classifiers, settings, out, resume=resume)
            return table(result["runs"], FIGURES)

        return run

    return report_of


def run_classifiers(
    classifiers: Mapping[str, Classifier],
    settings: ExemplarFree,
    out: Path,
    *,
    resume: bool = False,
) -> Record:
    """Teach every classifier the tasks of every class order; finished runs in `out` are kept.

    Raises:
        ValueError: for settings that cannot be, or no or repeated seeds.
        ModuleNotFoundError: where the weights of the encoder are not installed.
    """
    s = settings
    least = dict.fromkeys(("tasks", "train_per_class", "test_per_class", "width", "size"), 1)
    check_numbers(s, least=least, above=())
    check_seeds(s.seeds)
    if not 0 < s.held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, got {s.held_out}")
    encoder = keep.efficientnet_lite0(size=s.size)
    images = {part: from_tfds("cifar100", part, data_dir=s.data_dir) for part in ("train", "test")}
    train, test = (keep.features(encoder, images[part]) for part in ("train", "test"))
    config = {name: value for name, value in asdict(s).items() if name != "seeds"}
    about = {"data_made": {part: fingerprint(data) for part, data in images.items()}}

    def one(name: str, seed: int, place: Place, so_far: Record, publish: object) -> Record:
        # There is nothing in it: it says that the folder can be resumed, run by run.
        (place.folder / CHECKPOINTS).mkdir(exist_ok=True)
        return so_far or {
            **taught(classifiers[name], s, train, test, seed),
            "config": config,
            "versions": versions(),
            **about,
        }

    parts = [
        Part({"learner": name, "seed": seed}, config, partial(one, name, seed))
        for seed in s.seeds
        for name in classifiers
    ]
    return run_parts(parts, out, resume=resume)


def taught(
    classifier: Classifier, settings: ExemplarFree, train: Dataset, test: Dataset, seed: int
) -> Record:
    """Accuracies R, bytes and seconds of one classifier with one class order."""
    s, begun = settings, perf_counter()
    stream = class_incremental(
        train,
        tasks=s.tasks,
        classes_per_task=train.classes // s.tasks,
        seed=seed,
        test=test,
        train_per_class=s.train_per_class,
        test_per_class=s.test_per_class,
    )
    net = heads.random_features(heads.identity, s.width) if classifier.random else heads.identity
    params = net.init(jax.random.key(seed), jnp.asarray(train.x[:1]))
    embed, head = jax.jit(net.apply), classifier.head
    learn, fit, predict = jax.jit(head.learn), jax.jit(head.fit), jax.jit(head.predict)
    tests = [stream.test(i) for i in range(s.tasks)]
    z_test = [embed(params, test.x) for test in tests]
    stats, own, R = None, head.params(), np.full((s.tasks + 1, s.tasks), np.nan)
    for i in range(s.tasks):
        batch = stream.train(i)
        z = embed(params, batch.x)
        if stats is None:
            stats = head.init(stream.classes, z.shape[1])
            if classifier.chosen:
                own = {**own, "log_strength": jnp.log(_strength(stats, z, batch.y, s.held_out))}
        stats = learn(stats, z, batch.y)
        fitted = fit(own, stats)
        for j in range(i + 1):
            R[i + 1, j] = float((predict(fitted, z_test[j]).argmax(1) == tests[j].y).mean())
    sizes = {"params": (), "bank": (), "own": (params, stats)}
    return {
        "R": R,
        **metrics.summary(R),
        "strength": float(jnp.exp(own["log_strength"])) if classifier.chosen else None,
        "seconds": {"all": perf_counter() - begun},
        "bytes": {part: tree_bytes(tree) for part, tree in sizes.items()},
    }


def _strength(none: Statistics, z: Array, y: Array, share: float) -> Array:
    """The ridge strength with the smallest squared error on a share of the examples."""
    # Examples come class by class, so that every n-th is a share of each class.
    held = jnp.arange(len(y)) % round(1 / share) == 0
    some, others = heads.learn(none, z[~held], y[~held]), heads.learn(none, z[held], y[held])
    return heads.choose_strength(some, others)[0]


_QUICK = ExemplarFree(train_per_class=50, test_per_class=20, width=1000, seeds=(0, 1))

recipes: dict[str, Recipe] = {
    "cifar100-exemplar-free": Recipe(
        "CIFAR-100, 10 tasks x 10 classes, class-incremental, no stored example: closed-form "
        "classifiers on frozen features of EfficientNet-Lite0 (ImageNet); accuracy of all classes "
        "after the last task (last) and mean over tasks (average); 20 class orders",
        "McDonnell et al. 2023, a ResNet-50: nearest mean 61.5, ridge 73.3, ridge on random "
        "features 75.5",
        ExemplarFree(),
        compare(),
        _QUICK,
    ),
}
