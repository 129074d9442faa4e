"""Dormant units, reset now and then."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax.checks import check_positive
from lml_jax.metrics.plasticity import activity
from lml_jax.plasticity.units import (
    Activations,
    HiddenLayer,
    examples,
    reset_units,
    rule_of,
    updates_to,
)
from lml_jax.types import Key, Params, PyTree
from lml_jax.updates import Transformation, transformation


class RedoState(NamedTuple):
    """Updates done, the key of the next reset, units reset so far, the state of the rule inside."""

    step: Array
    key: Key
    resets: Array
    inner: PyTree


def redo(
    tx: optax.GradientTransformation,
    key: Key,
    *,
    layers: Sequence[HiddenLayer],
    activations: Activations,
    threshold: float = 0.025,
    every: int = 1000,
    probe: Array | None = None,
) -> Transformation:
    """A rule after which units that are dormant start anew, every so many updates.

    A unit i of a layer is dormant if E|h_i| <= tau mean_k E|h_k|, over a batch of examples. It gets
    new incoming weights, outgoing weights of 0, and the rule forgets what it kept of them.

    Args:
        tx: any optax rule.
        key: of the new weights.
        layers: the hidden layers, as `layers_of_mlp` lists them.
        activations: (params, x) -> the activations [n, units] of each of these layers.
        threshold: tau >= 0.
        every: updates between two resets, >= 1.
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
        >>> tx = redo(optax.adam(1e-3), jax.random.key(0), layers=layers_of_mlp(1),
        ...           activations=activations_of_mlp(1), every=1)
        >>> params = net.init(jax.random.key(1), x)
        >>> grads = jax.grad(lambda p: net.apply(p, x).sum())(params)
        >>> _, state = tx.update(grads, tx.init(params), params, x=x)
        >>> int(state.resets) > 0  # of units that are 0 for these examples
        True

    Source:
        Sokar, Agarwal, Castro, Evci. The Dormant Neuron Phenomenon in Deep Reinforcement Learning,
        2023, algorithm 1; https://arxiv.org/abs/2302.12902
    """
    check_positive(every=every)
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    rule = transformation(tx)

    def init(params: Params) -> RedoState:
        return RedoState(jnp.int32(0), key, jnp.int32(0), rule.init(params))

    def update(
        grads: Params, state: RedoState, params: Params = None, **given: Any
    ) -> tuple[Params, RedoState]:
        x = examples(given, probe)
        updates, inner = rule.update(grads, state.inner, params, **given)
        moved = optax.apply_updates(params, updates)
        step = state.step + 1
        key_next, key_fresh = jax.random.split(state.key)

        def now(_: None) -> tuple[Params, PyTree, Array]:
            masks = [activity(h) <= threshold for h in activations(moved, x)]
            after, slots = reset_units(rule, layers, masks, moved, inner, key_fresh)
            return after, slots, sum((mask.sum() for mask in masks), jnp.int32(0))

        after, inner, resets = jax.lax.cond(
            step % every == 0, now, lambda _: (moved, inner, jnp.int32(0)), None
        )
        updates = updates_to(after, moved, updates, params)
        return updates, RedoState(step, key_next, state.resets + resets, inner)

    return rule_of(init, update)
