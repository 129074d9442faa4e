"""The settings of a few-shot run, and the tasks they ask for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lml_jax.checks import known
from lml_jax.data.arrays import rotations, select
from lml_jax.data.episodes import episodes
from lml_jax.data.glyphs import glyphs
from lml_jax.data.splits import omniglot_split
from lml_jax.data.synthetic import sinusoids
from lml_jax.types import Dataset, Key, Task

METRIC = ("protonet", "matching", "gemcl")  # classify in an embedding, without inner steps
LEARNERS = ("maml", "fomaml", "meta-sgd", "maml++", "reptile", *METRIC)
DATA = ("omniglot", "glyphs", "sine")
TURNED = ("maml-random", "vinyals")  # splits whose protocols turn characters at test too
SCHEDULES = ("constant", "cosine", "halving")


@dataclass(frozen=True)
class FewShot:
    """Settings of a few-shot run; what is written in its record.

    None takes what suits the learner and the data, see `suited`.
    """

    learner: str = "maml"  # maml, fomaml, meta-sgd, maml++, reptile, protonet, matching or gemcl
    data: str = "glyphs"  # glyphs, omniglot or sine
    split: str = "maml-random"  # of Omniglot; also vinyals, background/evaluation
    size: int = 28  # pixels a side, of Omniglot
    ways: int = 5
    train_ways: int | None = None  # at training, of protonet, matching and gemcl; else `ways`
    shots: int | None = None  # support examples a class (points, for sine), at training
    test_shots: int | None = None  # and at test; None: the same
    train_queries: int | None = None
    queries: int = 15  # of a class, at test
    steps: int = 2000  # meta-steps
    episodes: int = 1000  # test episodes
    meta_batch: int | None = None
    inner_steps: int | None = None
    test_inner_steps: int | None = None
    report_step: int | None = None  # inner steps of the headline score
    inner_rate: float | None = None
    outer_rate: float | None = None
    step_size_rate: float | None = None  # outer rate of learned step sizes
    clip: float | None = None  # largest norm of the outer gradient; None: any
    schedule: str = "constant"  # or cosine, or halving every 2,000 steps, of the outer rate
    batch_statistics: str | None = None  # transductive, group, or frozen after training
    filters: int = 64
    seed: int = 0
    data_dir: str | None = None


def suited(settings: FewShot) -> dict[str, Any]:
    """What stands in for None: the papers' protocols, Omniglot's for all images."""
    sine, learner = settings.data == "sine", settings.learner
    common = {
        "shots": 10 if sine else 1,
        "train_queries": 10 if sine else 1,
        "train_ways": settings.ways,
        "batch_statistics": "transductive",
        "outer_rate": 1e-3,
    }
    if learner in METRIC:
        # Many ways and one network for every number of shots.
        return {
            **common, "shots": 5, "train_queries": 5, "train_ways": 20, "meta_batch": 1,
            "inner_steps": 0, "test_inner_steps": 0, "report_step": 0,
            "batch_statistics": "frozen",
        }  # fmt: skip
    if learner == "reptile":
        # Ten examples a class in all, and many more steps at test than at training.
        rates = {"inner_rate": 0.01 if sine else 1e-3, "outer_rate": 0.1 if sine else 1.0}
        tested = 10 if sine else 50
        return {
            **common, **rates, "train_queries": 10 if sine else 9, "meta_batch": 5,
            "inner_steps": 5, "test_inner_steps": tested, "report_step": tested,
        }  # fmt: skip
    learned = learner in ("meta-sgd", "maml++")
    return {
        **common,
        "meta_batch": 25 if sine else 16,
        "inner_steps": 5 if learner == "maml++" else 1,
        # Several learned steps in a row blow up at Adam's usual rate, as large as they are.
        "step_size_rate": 1e-5 if learner == "maml++" else 1e-3,
        "clip": 10.0 if learner == "maml++" else None,
        "test_inner_steps": 10,
        "report_step": 1 if sine else 3,
        "inner_rate": (0.01 if learner == "meta-sgd" else 0.001)
        if sine
        else (0.1 if learned else 0.4),
    }


def checked(settings: FewShot) -> FewShot:
    """`settings` with every None filled in, or a ValueError that names what is wrong with them."""
    known(settings.learner, LEARNERS, what="learner")
    known(settings.data, DATA, what="data set")
    known(settings.schedule, SCHEDULES, what="schedule")
    missing = {k: v for k, v in suited(settings).items() if getattr(settings, k) is None}
    settings = replace(settings, **missing)
    if settings.test_shots is None:
        settings = replace(settings, test_shots=settings.shots)
    least = dict.fromkeys(("steps", "episodes", "meta_batch", "shots", "test_shots"), 1)
    for name, low in {**least, "inner_steps": 0, "test_inner_steps": 0}.items():
        if getattr(settings, name) < low:
            raise ValueError(f"{name} must be at least {low}, got {getattr(settings, name)}")
    metric = settings.learner in METRIC
    if metric and settings.data == "sine":
        raise ValueError(f"{settings.learner} classifies; expected data other than 'sine'")
    statistics = ("frozen", "group") if metric else ("transductive", "group")
    known(
        str(settings.batch_statistics), statistics, what=f"batch statistics of {settings.learner}"
    )
    if not metric and settings.train_ways != settings.ways:
        raise ValueError(
            f"{settings.learner} has a head of {settings.ways} ways, "
            f"so train_ways must be the same, got {settings.train_ways}"
        )
    if not 0 <= settings.report_step <= settings.test_inner_steps:  # type: ignore[operator]
        raise ValueError(
            f"report_step must be in 0..{settings.test_inner_steps} (test_inner_steps), "
            f"got {settings.report_step}"
        )
    return settings


Sampler = Callable[[Any, Key], Task]


def tasks_of(settings: Any) -> tuple[Any, Any, Sampler, Sampler]:
    """(training data, test data, sampler of training tasks, sampler of test tasks).

    Of checked settings, in which nothing is None.
    """
    s = settings
    if s.data == "sine":
        train_sampler = sinusoids(tasks=s.meta_batch, shots=s.shots, queries=s.train_queries)
        return (
            (),
            (),
            train_sampler,
            sinusoids(tasks=1000, shots=s.test_shots, queries=s.queries),
        )
    # Where an embedding is compared with itself, a turned character is a class of its own.
    turn = s.data == "omniglot" and s.learner not in METRIC
    train_set, test_set = image_sets(s)
    return (
        train_set,
        test_set,
        episodes(
            train_set,
            tasks=s.meta_batch,
            ways=s.train_ways,
            shots=s.shots,
            queries=s.train_queries,
            rotate=turn,
        ),
        episodes(
            test_set,
            tasks=20,
            ways=s.ways,
            shots=s.test_shots,
            queries=s.queries,
            rotate=turn and s.split in TURNED,
        ),
    )


def image_sets(settings: FewShot) -> tuple[Dataset, Dataset]:
    """Training and test classes; of glyphs, the last five scripts are for testing."""
    if settings.data == "omniglot":
        train_set, test_set = (
            omniglot_split(settings.split, part, data_dir=settings.data_dir, size=settings.size)
            for part in ("train", "test")
        )
        if settings.learner in METRIC and settings.split in TURNED:
            return rotations(train_set), rotations(test_set)
        return train_set, test_set
    every = glyphs()
    held_out = np.asarray(every.group) >= len(every.groups) - 5
    return select(every, np.flatnonzero(~held_out)), select(every, np.flatnonzero(held_out))
