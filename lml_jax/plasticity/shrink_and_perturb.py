"""Parameters that shrink a little, and are perturbed, at each update."""

import math
from typing import Any, NamedTuple

import jax
import optax

from lml_jax.plasticity.units import rule_of
from lml_jax.types import Key, Params, PyTree
from lml_jax.updates import Transformation, transformation


class ShrinkAndPerturbState(NamedTuple):
    """The key of the next noise, and the state of the rule inside."""

    key: Key
    inner: PyTree


def shrink_and_perturb(
    tx: optax.GradientTransformation, key: Key, *, shrink: float, noise: float
) -> Transformation:
    """A rule after each of whose updates theta <- (1 - rho) theta + sigma epsilon.

    epsilon is standard normal, new at each update and for each parameter.

    Args:
        tx: any optax rule.
        key: of the noise.
        shrink: rho in [0, 1]; small, for it applies at each update.
        noise: sigma >= 0.

    Returns:
        An optax rule.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> tx = shrink_and_perturb(optax.sgd(0.5), jax.random.key(0), shrink=0.1, noise=0.0)
        >>> updates, _ = tx.update(jnp.array(2.0), tx.init(jnp.array(3.0)), jnp.array(3.0))
        >>> round(updates.item(), 3)  # 0.9 * (3 - 0.5 * 2) - 3
        -1.2

    Source:
        Ash, Adams. On Warm-Starting Neural Network Training, 2020, section 4;
        https://arxiv.org/abs/1910.08475. At each update: Dohare et al. Loss of plasticity in deep
        continual learning, 2024; https://doi.org/10.1038/s41586-024-07711-7
    """
    if not 0 <= shrink <= 1:
        raise ValueError(f"shrink must be in [0, 1], got {shrink}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be at least 0, got {noise}")
    rule = transformation(tx)

    def init(params: Params) -> ShrinkAndPerturbState:
        return ShrinkAndPerturbState(key, rule.init(params))

    def update(
        grads: Params, state: ShrinkAndPerturbState, params: Params = None, **given: Any
    ) -> tuple[Params, ShrinkAndPerturbState]:
        updates, inner = rule.update(grads, state.inner, params, **given)
        leaves, structure = jax.tree.flatten(params)
        key_next, *keys = jax.random.split(state.key, len(leaves) + 1)
        drawn = jax.tree.unflatten(structure, keys)

        def moved(u: jax.Array, p: jax.Array, k: Key) -> jax.Array:
            epsilon = jax.random.normal(k, p.shape, p.dtype)
            return (1 - shrink) * (p + u) + noise * epsilon - p

        return jax.tree.map(moved, updates, params, drawn), ShrinkAndPerturbState(key_next, inner)

    return rule_of(init, update)
