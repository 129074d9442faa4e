"""Scores of a few-shot learner over test episodes."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import losses, metrics
from lml_jax.types import Batch, Key, Learner, Params, Task

QueryScore = Callable[[Array, Batch], Array]  # (outputs, query) -> scalar


def query_accuracy(outputs: Array, query: Batch) -> Array:
    """Accuracy in [0, 1] on the labelled examples of a query set; NaN where there are none.

    Example:
        >>> query = Batch(jnp.zeros((2, 1)), jnp.array([0, 1]))
        >>> float(query_accuracy(jnp.array([[2.0, 1.0], [2.0, 1.0]]), query))
        0.5
    """
    return metrics.accuracy(outputs, query.y, weight=query.weight)


def query_squared_error(outputs: Array, query: Batch) -> Array:
    """Mean squared error on a query set, under its weights; NaN where no example counts.

    sum_n w_n |f_n - y_n|^2 / (d sum_n w_n).

    Args:
        outputs: f, float [n, d].
        query: targets y [n, d] and weights w [n].

    Example:
        >>> query = Batch(jnp.zeros((2, 1)), jnp.array([[1.0], [100.0]]), jnp.array([1.0, 0.0]))
        >>> float(query_squared_error(jnp.zeros((2, 1)), query))
        1.0
    """
    each = losses.squared_error(outputs, query.y)
    mean = losses.weighted_mean(each, query.weight)
    if query.weight is None:
        return mean
    return mean * losses.nan_where(~(query.weight > 0).any()).astype(mean.dtype)


@lru_cache(maxsize=64)  # the same arguments give the same function, so nothing compiles twice
def per_inner_step(learner: Learner, *, steps: int, score: QueryScore) -> Callable[..., Array]:
    """Scores of one task before the first and after every inner step.

    Args:
        learner: one with inner steps, as `maml` and `reptile`; how many it takes in `adapt` does
            not matter, for they are taken one by one here.
        steps: S >= 0, inner steps at test time.
        score: of the outputs on the query set.

    Returns:
        (params, task, key) -> scores [S + 1].

    Raises:
        ValueError: for a negative number of steps, or a learner without inner steps.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.data.synthetic import sinusoids
        >>> from lml_jax.learners.maml import maml
        >>> learner = maml(nets.mlp([8], 1), optax.sgd(0.01), steps=5, loss=losses.squared_error)
        >>> params = learner.init(jax.random.key(0), jnp.zeros((1, 1)))
        >>> task = jax.tree.map(lambda leaf: leaf[0],
        ...                     sinusoids(tasks=1, shots=5, queries=5)((), jax.random.key(1)))
        >>> per_inner_step(learner, steps=10, score=query_squared_error)(
        ...     params, task, jax.random.key(2)).shape
        (11,)
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    step = learner.inner_step
    if step is None:
        raise ValueError(
            "the learner has no inner steps to score one by one (its `inner_step` is None): use "
            "evaluate.once_adapted"
        )

    def of_task(params: Params, task: Task, key: Key) -> Array:
        empty = jax.tree.map(lambda leaf: leaf[:0], task.support)
        fast = learner.adapt(params, empty, key)
        scores = [score(learner.predict(params, fast, task.query.x), task.query)]
        # A Python loop: convolutions inside a scan are very slow on CPU.
        for s in range(steps):
            fast = step(params, task.support, jax.random.fold_in(key, s), fast)
            scores.append(score(learner.predict(params, fast, task.query.x), task.query))
        return jnp.stack(scores)

    return of_task


@lru_cache(maxsize=64)
def once_adapted(learner: Learner, *, score: QueryScore) -> Callable[..., Array]:
    """The score of one task after adapting to its support set, for learners without inner steps.

    Args:
        learner: any `Learner`.
        score: of the outputs on the query set.

    Returns:
        (params, task, key) -> scores [1].

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.protonet import protonet
        >>> of_task = once_adapted(protonet(nets.mlp([8], 4), classes=5), score=query_accuracy)
    """

    def of_task(params: Params, task: Task, key: Key) -> Array:
        fast = learner.adapt(params, task.support, key)
        return score(learner.predict(params, fast, task.query.x), task.query)[None]

    return of_task


def over_episodes(
    of_task: Callable[..., Array],
    params: Params,
    sample: Callable[[Any, Key], Task],
    data: Any,
    key: Key,
    *,
    episodes: int,
) -> Iterator[np.ndarray]:
    """Scores of `episodes` test episodes, a meta-batch at a time, each [tasks, S + 1].

    A second call with the same `of_task` and `sample` compiles nothing.

    Args:
        of_task: from `per_inner_step`.
        params: of the learner.
        sample: (data, key) -> tasks.
        data: where `sample` draws from.
        key: a typed key.
        episodes: how many in all; the last meta-batch is cut.

    Raises:
        ValueError: for fewer than one episode.

    Example:
        >>> sample = lambda data, key: jnp.arange(4.0)
        >>> of_task = lambda params, task, key: params * task[None]
        >>> scores = over_episodes(of_task, 2.0, sample, (), jax.random.key(0), episodes=6)
        >>> np.concatenate(list(scores))[:, 0].tolist()
        [0.0, 2.0, 4.0, 6.0, 0.0, 2.0]
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    compiled = _compiled(of_task, sample)
    done = 0
    while done < episodes:
        scores = np.asarray(compiled(params, data, jax.random.fold_in(key, done)))
        yield scores[: episodes - done]
        done += len(scores)


@lru_cache(maxsize=64)
def _compiled(
    of_task: Callable[..., Array], sample: Callable[[Any, Key], Task]
) -> Callable[[Params, Any, Key], Array]:
    """Scores of one meta-batch; one program for all calls with the same two functions."""

    @jax.jit
    def batch(params: Params, data: Any, key: Key) -> Array:
        key_sample, key_task = jax.random.split(key)
        tasks = sample(data, key_sample)
        count = jax.tree.leaves(tasks)[0].shape[0]
        keys = jax.random.split(key_task, count)
        return jax.vmap(of_task, in_axes=(None, 0, 0))(params, tasks, keys)

    return batch
