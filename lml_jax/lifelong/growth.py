"""Growing label spaces: more classes and tasks than a learner was built for."""

import jax
from jax import Array

from lml_jax.types import Key, LifelongLearner, LifelongState


def capacity_for(classes: int, *, least: int = 16) -> int:
    """The capacity for so many classes: the smallest `least` * 2^k that holds them.

    A learner rebuilt only when this changes compiles once per doubling.

    Example:
        >>> [capacity_for(n) for n in (3, 16, 17, 600)]
        [16, 16, 32, 1024]
    """
    capacity = least
    while capacity < classes:
        capacity *= 2
    return capacity


def grow(learner: LifelongLearner, state: LifelongState, x: Array, key: Key) -> LifelongState:
    """The state of a smaller learner as the state of `learner`, which has room for more.

    Every array of the old state becomes the leading corner of the new one: rows of a head, slots
    of a bank, entries of statistics, the optimiser's moments of both. Predictions of old classes
    do not change, since classes never seen are masked.

    Args:
        learner: built like the old one, with more classes or tasks.
        state: of the old learner.
        x: examples [n, ...], as for `init`.
        key: for what is new: the added rows of a head, say.

    Returns:
        A state of `learner`.

    Raises:
        ValueError: if the two differ in more than sizes, or the new one is smaller somewhere.

    Example:
        >>> import optax
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> from lml_jax.lifelong.finetune import finetune
        >>> from lml_jax.lifelong.label_space import LabelSpace
        >>> def of(classes):
        ...     few_shot = maml(nets.mlp([8], classes), optax.sgd(0.1), steps=1)
        ...     return finetune(few_shot, optax.adam(1e-3), LabelSpace(9, jnp.zeros(classes, bool)))
        >>> state = of(4).init(jax.random.key(0), jnp.zeros((1, 3)))
        >>> grow(of(8), state, jnp.zeros((1, 3)), jax.random.key(1)).seen.shape
        (8,)
    """
    larger = learner.init(key, x)
    old, new = str(jax.tree.structure(state)), str(jax.tree.structure(larger))
    if old != new:
        raise ValueError(f"the learner's state has structure {new}, expected that of {old}")

    def corner(path: tuple, big: Array, small: Array) -> Array:
        name = jax.tree_util.keystr(path)
        fits = big.ndim == small.ndim and all(
            b >= s for b, s in zip(big.shape, small.shape, strict=True)
        )
        if not fits or big.dtype != small.dtype:
            raise ValueError(
                f"state{name} is {small.dtype} {list(small.shape)}, which does not fit into "
                f"{big.dtype} {list(big.shape)} of the larger learner"
            )
        return big.at[tuple(slice(0, size) for size in small.shape)].set(small)

    return jax.tree_util.tree_map_with_path(corner, larger, state)
