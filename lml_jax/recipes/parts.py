"""What a few-shot run is made of: settings, tasks, network, learner, loss."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optax

from lml_jax import inner, losses, nets, train
from lml_jax.data.episodes import episodes
from lml_jax.data.glyphs import glyphs
from lml_jax.data.sources import select
from lml_jax.data.splits import omniglot_split
from lml_jax.data.synthetic import sinusoids
from lml_jax.learners.maml import maml
from lml_jax.learners.reptile import reptile, surrogate
from lml_jax.names import known
from lml_jax.types import Dataset, Key, Learner, Loss, Net, Task

LEARNERS = ("maml", "fomaml", "meta-sgd", "maml++", "reptile")
DATA = ("omniglot", "glyphs", "sine")


@dataclass(frozen=True)
class FewShot:
    """Settings of a few-shot run; what is written in its record.

    None takes what suits the learner and the data, see `suited`.
    """

    learner: str = "maml"  # maml, fomaml, meta-sgd, maml++ or reptile
    data: str = "glyphs"  # glyphs, omniglot or sine
    split: str = "maml-random"  # of Omniglot; also vinyals, background/evaluation
    ways: int = 5
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
    schedule: str = "constant"  # or cosine, of the outer rate
    batch_statistics: str = "transductive"  # or group
    filters: int = 64
    seed: int = 0
    data_dir: str | None = None


def suited(settings: FewShot) -> dict[str, Any]:
    """What stands in for None: the papers' protocols, Omniglot's for all images."""
    sine, learner = settings.data == "sine", settings.learner
    common = {"shots": 10 if sine else 1, "train_queries": 10 if sine else 1}
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
        "outer_rate": 1e-3,
    }


def checked(settings: FewShot) -> FewShot:
    """`settings` with every None filled in, or a ValueError that names what is wrong with them."""
    known(settings.learner, LEARNERS, what="learner")
    known(settings.data, DATA, what="data set")
    known(settings.schedule, ("constant", "cosine"), what="schedule")
    missing = {k: v for k, v in suited(settings).items() if getattr(settings, k) is None}
    settings = replace(settings, **missing)
    if settings.test_shots is None:
        settings = replace(settings, test_shots=settings.shots)
    least = dict.fromkeys(("steps", "episodes", "meta_batch", "shots", "test_shots"), 1)
    for name, low in {**least, "inner_steps": 0, "test_inner_steps": 0}.items():
        if getattr(settings, name) < low:
            raise ValueError(f"{name} must be at least {low}, got {getattr(settings, name)}")
    if not 0 <= settings.report_step <= settings.test_inner_steps:  # type: ignore[operator]
        raise ValueError(
            f"report_step must be in 0..{settings.test_inner_steps} (test_inner_steps), "
            f"got {settings.report_step}"
        )
    return settings


Sampler = Callable[[Any, Key], Task]

# The functions below take checked settings, in which nothing is None.


def tasks_of(settings: Any) -> tuple[Any, Any, Sampler, Sampler]:
    """(training data, test data, sampler of training tasks, sampler of test tasks)."""
    s = settings
    if s.data == "sine":
        train_sampler = sinusoids(tasks=s.meta_batch, shots=s.shots, queries=s.train_queries)
        return (
            (),
            (),
            train_sampler,
            sinusoids(tasks=1000, shots=s.test_shots, queries=s.queries),
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
            shots=s.test_shots,
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


def learner_of(settings: Any, net: Net, *, steps: int) -> Learner:
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


def outer_rule_of(settings: Any) -> optax.GradientTransformation:
    """SGD for Reptile, else Adam; learned step sizes have a rate of their own."""
    s = settings

    def rate(start: float) -> Any:
        return start if s.schedule == "constant" else optax.cosine_decay_schedule(start, s.steps)

    if s.learner == "reptile":
        return optax.sgd(rate(s.outer_rate))
    rules = {
        "theta": optax.adam(rate(s.outer_rate)),
        "alpha": optax.adam(rate(s.step_size_rate)),
    }
    clip = optax.identity() if s.clip is None else optax.clip_by_global_norm(s.clip)
    return optax.chain(clip, optax.multi_transform(rules, {"theta": "theta", "alpha": "alpha"}))


def loss_of(settings: FewShot, learner: Learner) -> Loss:
    """What the outer loop minimises."""
    loss = losses.squared_error if settings.data == "sine" else losses.cross_entropy
    if settings.learner == "reptile":
        return surrogate(learner, loss=loss)
    return train.episode_loss(learner, loss=loss)
