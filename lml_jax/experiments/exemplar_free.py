"""CIFAR-100 by closed-form classifiers on pretrained features, with no stored example."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax.numpy as jnp

from lml_jax import keep
from lml_jax.data.prepared import from_tfds
from lml_jax.data.streams import class_incremental
from lml_jax.experiments.intervals import table
from lml_jax.experiments.recipe import Recipe
from lml_jax.experiments.record import Record, fingerprint
from lml_jax.experiments.runner import Report
from lml_jax.experiments.sessions import CLASSIFIERS, Session, run_sessions
from lml_jax.settings import check_numbers, check_seeds
from lml_jax.types import Dataset

FIGURES = {
    "acc": "last",
    "average_incremental_accuracy": "average",
    "forgetting": "forgetting",
}


@dataclass(frozen=True)
class ExemplarFree:
    """Settings: CIFAR-100 in tasks of classes, in a random order for each seed."""

    tasks: int = 10
    train_per_class: int | None = None  # None: all 500
    test_per_class: int | None = None  # None: all 100
    width: int = 5000  # of the random features
    size: int = 128  # pixels that the encoder resizes images to
    seeds: tuple[int, ...] = tuple(range(20))  # class orders
    data_dir: str | None = None  # folder of prepared data


def compare(settings: ExemplarFree) -> Report:
    """(folder, resume=False) -> report: every classifier with every class order."""

    def run(out: Path, *, resume: bool = False) -> str:
        return table(run_classifiers(settings, out, resume=resume)["runs"], FIGURES)

    return run


def run_classifiers(settings: ExemplarFree, out: Path, *, resume: bool = False) -> Record:
    """Teach every classifier the tasks of every class order.

    Raises:
        ValueError: for settings that cannot be, or no or repeated seeds.
        ModuleNotFoundError: where the weights of the encoder are not installed.
    """
    s = settings
    least = dict.fromkeys(("tasks", "train_per_class", "test_per_class", "width", "size"), 1)
    check_numbers(s, least=least)
    check_seeds(s.seeds)
    encoder = keep.efficientnet_lite0(size=s.size)
    images = {part: from_tfds("cifar100", part, data_dir=s.data_dir) for part in ("train", "test")}
    train, test = (keep.features(encoder, images[part]) for part in ("train", "test"))
    return run_sessions(
        CLASSIFIERS,
        partial(sessions_of, s, train, test),
        lambda R: {},
        out,
        classes=train.classes // s.tasks * s.tasks,
        width=s.width,
        seeds=s.seeds,
        config={name: value for name, value in asdict(s).items() if name != "seeds"},
        about={"data_made": {part: fingerprint(data) for part, data in images.items()}},
        resume=resume,
    )


def sessions_of(s: ExemplarFree, train: Dataset, test: Dataset, seed: int) -> Sequence[Session]:
    """The tasks of one class order."""
    stream = class_incremental(
        train,
        tasks=s.tasks,
        classes_per_task=train.classes // s.tasks,
        seed=seed,
        test=test,
        train_per_class=s.train_per_class,
        test_per_class=s.test_per_class,
    )
    parts = [(stream.train(i), stream.test(i)) for i in range(s.tasks)]
    return [Session(*map(jnp.asarray, (a.x, a.y, b.x, b.y))) for a, b in parts]


_QUICK = ExemplarFree(train_per_class=50, test_per_class=20, width=1000, seeds=(0, 1))

recipes: dict[str, Recipe] = {
    "cifar100-exemplar-free": Recipe(
        "CIFAR-100, 10 tasks x 10 classes, class-incremental, no stored example: closed-form "
        "classifiers on frozen features of EfficientNet-Lite0 (ImageNet); accuracy of all classes "
        "after the last task (last) and mean over tasks (average); 20 class orders",
        "McDonnell et al. 2023, a ResNet-50: nearest mean 61.5, ridge 73.3, ridge on random "
        "features 75.5",
        ExemplarFree(),
        compare,
        _QUICK,
    ),
}
