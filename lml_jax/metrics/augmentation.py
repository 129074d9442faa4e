"""What more examples are worth: a few-shot classifier trained from nothing, with and without."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax.data.augment import Jitter, affine
from lml_jax.generative.examples import joined
from lml_jax.losses import labelled
from lml_jax.metrics.fewshot import accuracy
from lml_jax.metrics.trained import classifier
from lml_jax.pixels import as_float
from lml_jax.types import Batch, Key, Net, Task, TaskGenerator


class Strength(NamedTuple):
    """How strongly to augment and regularise; each may be traced."""

    weight: float | Array = 1.0  # of what is added, together against the support set, >= 0
    decay: float | Array = 0.0  # of the classifier's parameters (AdamW), >= 0
    jitter: float | Array = 1.0  # a factor on the limits of `Jitter`


# (state of a generator, support, strength, key) -> more examples
Augment = Callable[[Any, Batch, Strength, Key], Batch]


def generated(generator: TaskGenerator, *, n: int) -> Augment:
    """n samples under the code of the support set.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.generative.vaml.images import mlp_parts, vaml
        >>> parts = mlp_parts(nets.mlp([8], 8), pixels=16, latent=2, hidden=[8])
        >>> generator = vaml(parts, optax.adam(1e-3), shape=(4, 4), classes=2)[1]
        >>> support = Batch(jnp.zeros((2, 4, 4)), jnp.array([0, 1]))
        >>> state = generator.init(jax.random.key(0), support.x)
        >>> generated(generator, n=4)(state, support, Strength(), jax.random.key(1)).y.tolist()
        [0, 0, 1, 1]
    """

    def augment(state: Any, support: Batch, strength: Strength, key: Key) -> Batch:
        key_code, key_sample = jax.random.split(key)
        return generator.sample(state, generator.encode(state, support, key_code), key_sample, n=n)

    return augment


def jittered(*, n: int, jitter: Jitter | None = None) -> Augment:
    """n images of the support set, dealt out in turn, each moved by an affine map of its own.

    Example:
        >>> support = Batch(jnp.zeros((2, 4, 4)), jnp.array([0, 1]))
        >>> jittered(n=4)((), support, Strength(), jax.random.key(1)).y.tolist()
        [0, 1, 0, 1]
    """
    limits = Jitter() if jitter is None else jitter

    def augment(state: Any, support: Batch, strength: Strength, key: Key) -> Batch:
        own = Jitter(*(limit * strength.jitter for limit in limits))
        turns = jnp.arange(n) % support.y.shape[0]
        rows = jax.tree.map(lambda leaf: leaf[turns], support)
        return rows._replace(x=affine(rows.x, key, own))

    return augment


def trained_from_nothing(
    net: Net, augments: tuple[Augment, ...], *, steps: int, rate: float, batch_size: int = 64
) -> Callable[..., Array]:
    """Accuracy on a query set of a new classifier of the support set and what is added to it.

    acc( argmax_c f_c(x; fit(S u A(S))) ), with `fit` that of `classifier` by AdamW, and
    A(S) all that `augments` make. With the same key for the episodes, scores with and without
    them are paired.

    Args:
        net: f, of logits [n, C], begun anew in each episode.
        augments: what is added; none for the support set alone.
        steps: updates.
        rate: of AdamW, falling to 0 along a cosine.
        batch_size: examples in each update.

    Returns:
        ((state of a generator, `Strength`), task, key) -> accuracy [1], for
        `evaluate.over_episodes`.

    Example:
        >>> from lml_jax import nets
        >>> of_task = trained_from_nothing(
        ...     nets.mlp([], 2), (jittered(n=8),), steps=30, rate=0.1)
        >>> part = Batch(jnp.stack([jnp.eye(4), 1 - jnp.eye(4)]), jnp.array([0, 1]))
        >>> of_task(((), Strength()), Task(part, part), jax.random.key(0)).tolist()
        [1.0]
    """

    def of_task(params: tuple[Any, Strength], task: Task, key: Key) -> Array:
        (state, strength), (key_fit, *keys) = params, jax.random.split(key, 1 + len(augments))
        support, query = (part._replace(x=as_float(part.x)) for part in (task.support, task.query))
        examples = support
        if augments:
            made = [a(state, support, strength, k) for a, k in zip(augments, keys, strict=True)]
            made = [part._replace(weight=labelled(part)) for part in made]
            added = jax.tree.map(lambda *parts: jnp.concatenate(parts), *made)
            examples = joined(support, added, strength.weight)
        falling = optax.cosine_decay_schedule(rate, steps)
        tx = optax.adamw(falling, weight_decay=strength.decay)
        fit = classifier(net, tx, steps=steps, batch_size=batch_size)
        outputs = net.apply(fit(examples, key_fit), query.x)
        return accuracy(outputs, query.y, weight=query.weight)[None]

    return of_task
