"""Regularisation towards the initial parameters."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lml_jax.plasticity.units import rule_of
from lml_jax.types import Params, PyTree
from lml_jax.updates import Transformation, transformation


class L2InitState(NamedTuple):
    """The parameters at the start, and the state of the rule inside."""

    initial: Params
    inner: PyTree


def l2_init(tx: optax.GradientTransformation, strength: float) -> Transformation:
    """A rule on the loss plus lambda ||theta - theta_0||^2, theta_0 the initial parameters.

    The rule gets the gradient g + 2 lambda (theta - theta_0). Weights that nothing needs any more
    drift back to where learning was easy.

    Args:
        tx: any optax rule.
        strength: lambda >= 0; 1e-5 to 1e-2 in the source.

    Returns:
        An optax rule. `init` stores theta_0: start it at the parameters of a new network.

    Raises:
        ValueError: for a negative strength.

    Example:
        >>> tx = l2_init(optax.sgd(0.5), strength=0.1)
        >>> state = tx.init(jnp.array(1.0))
        >>> updates, _ = tx.update(jnp.array(0.0), state, jnp.array(3.0))
        >>> round(updates.item(), 3)  # - 0.5 * 2 * 0.1 * (3 - 1)
        -0.2

    Source:
        Kumar, Marklund, Van Roy. Maintaining Plasticity in Continual Learning via Regenerative
        Regularization, 2023; https://arxiv.org/abs/2308.11958
    """
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must be at least 0, got {strength}")
    rule = transformation(tx)

    def init(params: Params) -> L2InitState:
        return L2InitState(jax.tree.map(jnp.array, params), rule.init(params))

    def update(
        grads: Params, state: L2InitState, params: Params = None, **given: Any
    ) -> tuple[Params, L2InitState]:
        back = jax.tree.map(lambda p, p0: 2 * strength * (p - p0), params, state.initial)
        grads = jax.tree.map(jnp.add, grads, back)
        updates, inner = rule.update(grads, state.inner, params, **given)
        return updates, state._replace(inner=inner)

    return rule_of(init, update)
