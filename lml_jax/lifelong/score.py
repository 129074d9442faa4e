"""Scores of a lifelong learner on the test sets of a stream."""

import warnings
from collections.abc import Hashable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import losses
from lml_jax.data.stream import Stream
from lml_jax.metrics import accuracy
from lml_jax.types import Batch, Key, LifelongLearner, LifelongState, Recall


class Score(Hashable, Protocol):
    """The score of outputs [n, C] on a test set, larger is better; a scalar.

    `labels` bool [C] are the classes to choose among.
    """

    def __call__(self, outputs: Array, batch: Batch, labels: Array, /) -> Array: ...  # noqa: D102


class Scores(NamedTuple):
    """Of one test set: by `recall`, by `recall` among the task's own classes, by `predict`."""

    R: Array
    R_task: Array
    R_adapted: Array
    right: Array  # [C], test examples of each class that `recall` has right
    shown: Array  # [C], test examples of each class


def class_accuracy(logits: Array, batch: Batch, labels: Array) -> Array:
    """Accuracy in [0, 1] among the classes `labels` bool [C]; NaN if no example counts.

    An example whose own class is not among them, or has the logit -inf, is not counted: it has
    not been seen, and what cannot be right says nothing about what is remembered. A row with a
    NaN predicts nothing and is wrong.

    Example:
        >>> logits = jnp.array([[0.0, 1.0, -jnp.inf], [2.0, 1.0, -jnp.inf]])
        >>> batch = Batch(jnp.zeros((2, 1)), jnp.array([1, 1]))
        >>> float(class_accuracy(logits, batch, jnp.ones(3, bool)))
        0.5
    """
    logits = losses.mask_logits(logits, labels)
    return accuracy(logits, batch.y, weight=possible(logits, batch))


def negative_squared_error(outputs: Array, batch: Batch, labels: Array) -> Array:
    """Minus the mean squared error of a regression, so that larger is better."""
    each = losses.squared_error(outputs, batch.y)
    return -losses.weighted_mean(each, losses.weights_of(batch))


def possible(logits: Array, batch: Batch) -> Array:
    """Weights [n] of the examples, 0 where the logit of the own class is -inf or y is -1."""
    y = losses.as_labels(batch.y)
    own = jnp.take_along_axis(logits, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]
    return jnp.where(jnp.isneginf(own), 0.0, losses.labelled(batch))


def warn_if_mixed(recall: Recall, state: LifelongState, test: Batch, key: Key) -> None:
    """Warn where the prediction for one test image changes with the other images beside it.

    With the statistics of a test batch, which holds the classes of one task, a network can tell
    the task: scores near 1 then say nothing about what is remembered.
    """
    x = jax.tree.map(lambda leaf: leaf[:4], test.x)
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], leaf.shape[0], axis=0), x)
    beside, alone = (np.asarray(recall(state, part, key)[0]) for part in (x, repeated))
    known = np.isfinite(beside) & np.isfinite(alone)
    if not np.allclose(beside[known], alone[known], rtol=1e-2, atol=1e-4):
        warnings.warn(
            "predictions depend on the other test images of their batch, which tell the task that "
            "they are of: the scores are too high. Use a network without batch statistics, such as "
            "norm='group', or freeze them (Net.freeze)",
            stacklevel=3,
        )


def of_task(
    learner: LifelongLearner,
    score: Score,
    state: LifelongState,
    test: Batch,
    support: Batch,
    members: Array,
    key: Key,
) -> Scores:
    """Scores of one task.

    Args:
        learner: which.
        score: of a test set.
        state: the learner's.
        test: the test set.
        support: a few training examples of the task, for `predict`.
        members: bool [C], the task's classes.
        key: a typed key.
    """
    key_recall, key_predict = jax.random.split(key)
    recalled = learner.recall(state, test.x, key_recall)
    adapted = learner.predict(state, support, test.x, key_predict)
    every, classes = jnp.ones_like(members), members.shape[0]
    right = shown = jnp.zeros(classes)
    if losses.are_labels(test.y):
        weight = losses.labelled(test)
        y = jnp.where(weight > 0, test.y, classes)
        shown = jnp.zeros(classes).at[y].add(weight, mode="drop")
        hit = (jnp.argmax(recalled, axis=1) == test.y) & ~jnp.isnan(recalled).any(axis=1)
        right = jnp.zeros(classes).at[y].add(weight * hit, mode="drop")
    return Scores(
        score(recalled, test, every),
        score(recalled, test, members),
        score(adapted, test, every),
        right,
        shown,
    )


def online(
    learner: LifelongLearner, state: LifelongState, stream: Stream, i: Array, key: Key
) -> Array:
    """Accuracy of `predict` on one new episode of task i."""
    key_episode, key_predict = jax.random.split(key)
    episode = jax.tree.map(lambda leaf: leaf[0], stream.episodes(i, key_episode))
    outputs = learner.predict(state, episode.support, episode.query.x, key_predict)
    if not losses.are_labels(episode.query.y):
        return negative_squared_error(outputs, episode.query, outputs)
    return accuracy(outputs, episode.query.y, weight=episode.query.weight)
