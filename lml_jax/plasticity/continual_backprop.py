"""Continual backpropagation: units of little use are replaced, a few at a time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax.checks import check_positive
from lml_jax.plasticity.units import (
    Activations,
    HiddenLayer,
    at,
    examples,
    reset_units,
    rule_of,
    updates_to,
)
from lml_jax.types import Key, Params, PyTree
from lml_jax.updates import Transformation, transformation


class ContinualBackpropState(NamedTuple):
    """What is kept of the units of each layer.

    Attributes:
        utility: [units] of each layer, a running mean.
        age: int32 [units] of each layer, updates since the unit started.
        due: [] of each layer, units to replace, a fraction that adds up.
        key: of the next new weights.
        inner: the state of the rule inside.
    """

    utility: tuple[Array, ...]
    age: tuple[Array, ...]
    due: tuple[Array, ...]
    key: Key
    inner: PyTree


def continual_backprop(
    tx: optax.GradientTransformation,
    key: Key,
    *,
    layers: Sequence[HiddenLayer],
    activations: Activations,
    rate: float = 1e-4,
    maturity: int = 100,
    decay: float = 0.99,
    probe: Array | None = None,
) -> Transformation:
    """A rule after each of whose updates a fraction of the least useful units start anew.

    The utility of unit i of a layer is u_i <- eta u_i + (1 - eta) mean|h_i| sum_k |w_ik|, w its
    outgoing weights. Of the n units that are older than the maturity threshold, rho n are replaced
    at each update; what is less than one unit adds up until it is one. A new unit has fresh
    incoming weights, outgoing weights, utility and age of 0, and the rule forgets what it kept of
    the old one.

    Args:
        tx: any optax rule.
        key: of the new weights.
        layers: the hidden layers, as `layers_of_mlp` lists them.
        activations: (params, x) -> the activations [n, units] of each of these layers.
        rate: rho in [0, 1]; 1e-6 to 1e-4 in the source.
        maturity: updates for which a unit is left alone, >= 1.
        decay: eta in [0, 1).
        probe: examples whose activations count, where the training loop does not pass `x`.

    Returns:
        An optax rule; call `update(..., x=batch)`, or give a probe.

    Raises:
        ValueError: for numbers out of range.
        TypeError: in `update`, for neither `x` nor a probe.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.plasticity.units import activations_of_mlp, layers_of_mlp
        >>> net, x = nets.mlp([16], 2), jnp.ones((4, 3))
        >>> tx = continual_backprop(optax.adam(1e-3), jax.random.key(0), layers=layers_of_mlp(1),
        ...                         activations=activations_of_mlp(1), rate=0.1, maturity=1)
        >>> params = net.init(jax.random.key(1), x)
        >>> state, zero = tx.init(params), jax.tree.map(jnp.zeros_like, params)
        >>> for _ in range(2):
        ...     _, state = tx.update(zero, state, params, x=x)
        >>> int((state.age[0] == 0).sum())  # one of 16 units was replaced, and 0.6 are due
        1

    Source:
        Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood, Sutton. Loss of plasticity in deep continual
        learning, 2024, algorithm 1; https://doi.org/10.1038/s41586-024-07711-7
    """
    check_positive(maturity=maturity)
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    rule = transformation(tx)

    def init(params: Params) -> ContinualBackpropState:
        sizes = [at(params, layer.bias).shape for layer in layers]
        return ContinualBackpropState(
            tuple(jnp.zeros(size) for size in sizes),
            tuple(jnp.zeros(size, jnp.int32) for size in sizes),
            tuple(jnp.zeros(()) for _ in sizes),
            key,
            rule.init(params),
        )

    def chosen(utility: Array, age: Array, due: Array) -> tuple[Array, Array]:
        """Which units are replaced now, bool [units], and what stays due."""
        eligible = age > maturity
        due = due + rate * eligible.sum()
        count = jnp.minimum(jnp.floor(due), eligible.sum())
        # The place of each unit, by utility; those that are left alone come last.
        place = jnp.argsort(jnp.argsort(jnp.where(eligible, utility, jnp.inf)))
        return eligible & (place < count), due - count

    def update(
        grads: Params, state: ContinualBackpropState, params: Params = None, **given: Any
    ) -> tuple[Params, ContinualBackpropState]:
        x = examples(given, probe)
        updates, inner = rule.update(grads, state.inner, params, **given)
        moved = optax.apply_updates(params, updates)
        key_next, key_fresh = jax.random.split(state.key)
        utilities, ages, dues, masks = [], [], [], []
        for i, (layer, h) in enumerate(zip(layers, activations(params, x), strict=True)):
            outgoing = jnp.abs(at(params, layer.outgoing))
            contribution = jnp.abs(h).mean(0) * outgoing.reshape(outgoing.shape[0], -1).sum(1)
            utility = decay * state.utility[i] + (1 - decay) * contribution
            age = state.age[i] + 1
            mask, due = chosen(utility, age, state.due[i])
            utilities.append(jnp.where(mask, 0.0, utility))
            ages.append(jnp.where(mask, 0, age))
            dues.append(due)
            masks.append(mask)
        after, inner = jax.lax.cond(
            jnp.stack([mask.any() for mask in masks]).any(),
            lambda: reset_units(rule, layers, masks, moved, inner, key_fresh),
            lambda: (moved, inner),
        )
        updates = updates_to(after, moved, updates, params)
        own = tuple(utilities), tuple(ages), tuple(dues)
        return updates, ContinualBackpropState(*own, key_next, inner)

    return rule_of(init, update)
