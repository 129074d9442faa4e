"""Closed-form classifiers taught in sessions of new classes, with no stored example."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import heads, metrics
from lml_jax.experiments.folder import CHECKPOINTS
from lml_jax.experiments.record import Record, tree_bytes, versions
from lml_jax.experiments.runner import Part, Place, run_parts
from lml_jax.heads import Head, Statistics

HELD_OUT = 5  # one example in so many of the first session chooses the strength of a ridge


class Session(NamedTuple):
    """Examples of new classes, as features, and test examples of these classes."""

    z: Array  # [n, d]
    y: Array  # [n], labels among the classes of all sessions
    z_test: Array  # [m, d]
    y_test: Array  # [m]


class Classifier(NamedTuple):
    """A head on the features, or on random features of them.

    Attributes:
        head: the classifier.
        random: on `heads.random_features`.
        chosen: its strength is chosen on held-out examples of the first session.
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

    def one(name: str, seed: int, place: Place, so_far: Record, publish: object) -> Record:
        # There is nothing in it: it says that the folder can be resumed, run by run.
        (place.folder / CHECKPOINTS).mkdir(exist_ok=True)
        if so_far:
            return so_far
        sessions = sessions_of(seed)
        record = taught(classifiers[name], sessions, classes=classes, width=width, seed=seed)
        own = {"config": config, "versions": versions(), **about}
        return {**record, **scores(record["R"]), **own}

    parts = [
        Part({"learner": name, "seed": seed}, config, partial(one, name, seed))
        for seed in seeds
        for name in classifiers
    ]
    return run_parts(parts, out, resume=resume)


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
    if classifier.chosen:
        own = {**own, "log_strength": jnp.log(strength_for(stats, z, sessions[0].y))}
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
        "strength": float(jnp.exp(own["log_strength"])) if classifier.chosen else None,
        "seconds": {"all": perf_counter() - begun},
        "bytes": {part: tree_bytes(tree) for part, tree in sizes.items()},
    }


def strength_for(none: Statistics, z: Array, y: Array) -> Array:
    """The ridge strength with the smallest squared error on one example in `HELD_OUT`.

    Examples come class by class, so that these are as many of each class.
    """
    held = np.arange(len(y)) % HELD_OUT == 0
    some, others = heads.learn(none, z[~held], y[~held]), heads.learn(none, z[held], y[held])
    return heads.choose_strength(some, others)[0]
