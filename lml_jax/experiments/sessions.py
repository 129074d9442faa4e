"""Closed-form classifiers taught in sessions of new classes, with no stored example."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import heads, losses, metrics
from lml_jax.experiments.once import run_each
from lml_jax.experiments.record import Record, tree_bytes, versions
from lml_jax.experiments.runner import Place
from lml_jax.heads import Head, Statistics
from lml_jax.types import Params

HELD_OUT = 5  # one example in so many of the first session chooses what a head is given
ALPHAS = (1.0, 10.0, 100.0, 1000.0, 10000.0)


class Session(NamedTuple):
    """Examples of new classes, as features, and test examples of these classes."""

    z: Array  # [n, d]
    y: Array  # [n], labels among the classes of all sessions
    z_test: Array  # [m, d]
    y_test: Array  # [m]


class Choose(Protocol):
    """Parameters of a head, chosen on features z [n, d] and labels y [n]."""

    def __call__(self, head: Head, none: Statistics, z: Array, y: Array, /) -> Params: ...  # noqa: D102


class Classifier(NamedTuple):
    """A head on the features, or on random features of them.

    Attributes:
        head: the classifier.
        random: on `heads.random_features`.
        params: (head, features, labels of the first session) -> its parameters, chosen on them;
            None for the initial ones.
    """

    head: Head
    random: bool = False
    params: Choose | None = None


def strength_of(head: Head, none: Statistics, z: Array, y: Array) -> Params:
    """The strength of a ridge regression with the smallest squared error on held-out examples."""
    held = _held_out(y)
    some, others = heads.learn(none, z[~held], y[~held]), heads.learn(none, z[held], y[held])
    return {**head.params(), "log_strength": jnp.log(heads.choose_strength(some, others)[0])}


def prior_of(head: Head, none: Statistics, z: Array, y: Array) -> Params:
    """The prior of a Gaussian head: beta / alpha is the variance of these features within a class.

    alpha is that of the smallest cross-entropy on held-out examples.
    """
    held = _held_out(y)
    some = head.learn(none, z[~held], y[~held])
    spread = some.moments.spread
    assert spread is not None
    count = some.moments.total
    variance = spread.sum() / (jnp.maximum(count - 1, 0).sum() * z.shape[1])
    given = [
        {"log_alpha": jnp.log(alpha), "log_beta": jnp.log(alpha * variance)} for alpha in ALPHAS
    ]
    loss = [
        losses.cross_entropy(head.predict(head.fit(params, some), z[held]), y[held]).mean()
        for params in given
    ]
    return given[int(jnp.argmin(jnp.stack(loss)))]


def _held_out(y: Array) -> np.ndarray:
    """One example in `HELD_OUT`; examples come class by class, so it is as many of each."""
    return np.arange(len(y)) % HELD_OUT == 0


CLASSIFIERS: Mapping[str, Classifier] = {
    "nearest-mean": Classifier(heads.nearest_mean()),
    "cosine": Classifier(heads.nearest_mean(distance="cosine")),
    "gaussian": Classifier(heads.gaussian(), params=prior_of),
    "lda": Classifier(heads.lda()),
    "ridge": Classifier(heads.ridge(), params=strength_of),
    "random-ridge": Classifier(heads.ridge(), random=True, params=strength_of),
}


def run_sessions(
    classifiers: Mapping[str, Classifier],
    sessions_of: Callable[[int], Sequence[Session]],
    scores: Callable[[np.ndarray], Record],
    out: Path,
    *,
    classes: int,
    width: int,
    seeds: Sequence[int],
    config: Record,
    about: Record,
    resume: bool = False,
) -> Record:
    """Teach every classifier the sessions of every seed; finished runs in `out` are kept.

    Args:
        classifiers: by name.
        sessions_of: a seed -> its sessions.
        scores: accuracies R [S + 1, S] -> what the record says of them beside `metrics.summary`.
        out: a new folder, or with `resume` that of an earlier run.
        classes: of all sessions.
        width: of the random features.
        seeds: of the sessions and the random features.
        config: settings of the record.
        about: what it says of the data.
        resume: keep the finished runs in `out`.
    """

    def one(name: str, seed: int, place: Place) -> Record:
        sessions = sessions_of(seed)
        record = taught(classifiers[name], sessions, classes=classes, width=width, seed=seed)
        own = {"config": config, "versions": versions(), **about}
        return {**record, **scores(record["R"]), **own}

    return run_each(classifiers, seeds, one, out, config=config, resume=resume)


def taught(
    classifier: Classifier, sessions: Sequence[Session], *, classes: int, width: int, seed: int
) -> Record:
    """Accuracies R of one classifier: row i after session i, among all classes seen by then."""
    begun, many = perf_counter(), len(sessions)
    net = heads.random_features(heads.identity, width) if classifier.random else heads.identity
    params = net.init(jax.random.key(seed), sessions[0].z[:1])
    embed, head = jax.jit(net.apply), classifier.head
    learn, fit, predict = jax.jit(head.learn), jax.jit(head.fit), jax.jit(head.predict)
    tests = [embed(params, session.z_test) for session in sessions]
    z = embed(params, sessions[0].z)
    stats, own = head.init(classes, z.shape[1]), head.params()
    if classifier.params is not None:
        own = classifier.params(head, stats, z, sessions[0].y)
    R = np.full((many + 1, many), np.nan)
    for i, session in enumerate(sessions):
        stats = learn(stats, embed(params, session.z), session.y)
        fitted = fit(own, stats)
        for j in range(i + 1):
            right = predict(fitted, tests[j]).argmax(1) == sessions[j].y_test
            R[i + 1, j] = float(right.mean())
    sizes = {"params": (), "bank": (), "own": (params, stats)}
    return {
        "R": R,
        **metrics.summary(R),
        "parameters": {name: float(value) for name, value in own.items()},
        "seconds": {"all": perf_counter() - begun},
        "bytes": {part: tree_bytes(tree) for part, tree in sizes.items()},
    }
