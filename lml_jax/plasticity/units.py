"""Hidden units as data: which parameters lead to them and from them, and how they start anew.

A rule that resets units needs two things that no gradient carries: the activations of the units,
and which parameters belong to one. The first is a function, the second a list of `HiddenLayer`.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax.pixels import as_float
from lml_jax.types import Key, Params, PyTree
from lml_jax.updates import Transformation

Path: TypeAlias = tuple[str, ...]  # of keys, from the parameters to an array
Activations: TypeAlias = Callable[
    [Params, Array], Sequence[Array]
]  # (params, x) -> [n, units] each


class HiddenLayer(NamedTuple):
    """The parameters of a layer of units.

    Attributes:
        kernel: path of the array into the units, which are its last axis.
        bias: path of their biases [units].
        outgoing: path of the array out of the units, which are its first axis.
    """

    kernel: Path
    bias: Path
    outgoing: Path


def layers_of_mlp(hidden: int, where: Path = ()) -> tuple[HiddenLayer, ...]:
    """The hidden layers of `nets.mlp`.

    Args:
        hidden: their number.
        where: path of the network's parameters among those that are trained; ("theta",) for MAML.

    Example:
        >>> [layer.outgoing for layer in layers_of_mlp(2)]
        [('layer2', 'kernel'), ('head', 'kernel')]
    """
    names = [f"layer{i + 1}" for i in range(hidden)] + ["head"]
    return tuple(
        HiddenLayer((*where, own, "kernel"), (*where, own, "bias"), (*where, following, "kernel"))
        for own, following in pairwise(names)
    )


def activations_of_mlp(hidden: int, where: Path = ()) -> Activations:
    """(params, x [n, ...]) -> the outputs of each hidden layer of `nets.mlp` with ReLU.

    `hidden` and `where` are those of `layers_of_mlp`.
    """

    def of(params: Params, x: Array) -> Sequence[Array]:
        h, found = as_float(x).reshape(x.shape[0], -1), []
        for i in range(hidden):
            layer = at(params, (*where, f"layer{i + 1}"))
            h = jax.nn.relu(h @ layer["kernel"] + layer["bias"][None])
            found.append(h)
        return found

    return of


def at(tree: PyTree, path: Path) -> Array:
    """The array at a path."""
    for name in path:
        tree = tree[name]
    return tree


def with_units(
    tree: PyTree, layer: HiddenLayer, mask: Array, *, incoming: Array | float, bias: float = 0.0
) -> PyTree:
    """`tree` where the units of mask [units] have new incoming weights, and 0 going out.

    `incoming`, of the shape of the kernel or a number, is taken in the columns of these units.
    """
    kernel, outgoing = at(tree, layer.kernel), at(tree, layer.outgoing)
    columns = mask.reshape((1,) * (kernel.ndim - 1) + (-1,))
    rows = mask.reshape((-1,) + (1,) * (outgoing.ndim - 1))
    tree = _put(tree, layer.kernel, jnp.where(columns, incoming, kernel))
    tree = _put(tree, layer.bias, jnp.where(mask, bias, at(tree, layer.bias)))
    return _put(tree, layer.outgoing, jnp.where(rows, 0.0, outgoing))


def reset_units(
    rule: Transformation,
    layers: Sequence[HiddenLayer],
    masks: Sequence[Array],
    params: Params,
    inner: PyTree,
    key: Key,
) -> tuple[Params, PyTree]:
    """Parameters and state of a rule, where the units of the masks start anew.

    A unit starts with incoming weights uniform within sqrt(6 / (fan-in + fan-out)) of 0 (Glorot's,
    as `nets.mlp`), a bias of 0 and outgoing weights of 0, so that nothing changes what the network
    says but the loss of the old unit. Whatever the rule keeps of these weights (Adam's moments)
    becomes 0: what it knew of the old unit would stop the new one from learning.
    """
    for layer, mask, k in zip(layers, masks, jax.random.split(key, len(layers)), strict=True):
        kernel = at(params, layer.kernel)
        fresh = jax.nn.initializers.glorot_uniform()(k, kernel.shape, kernel.dtype)
        params = with_units(params, layer, mask, incoming=fresh)

    # Each slot of the rule is a tree like the parameters: 0 or 1 where a unit is reset or not.
    stays = jax.tree.map(jnp.ones_like, params)
    for layer, mask in zip(layers, masks, strict=True):
        stays = with_units(stays, layer, mask, incoming=0.0)
    slots = optax.tree_utils.tree_map_params(rule, lambda slot, one: slot * one, inner, stays)
    return params, slots


def updates_to(after: Params, moved: Params, updates: Params, params: Params) -> Params:
    """The updates that lead from `params` to `after`; those of the rule itself where they do.

    `moved` is `params` after the rule's own updates. p + (q - p) is not q in floating point, so a
    difference everywhere would change weights that no reset touches.
    """
    return jax.tree.map(
        lambda a, m, u, p: jnp.where(a == m, u, a - p), after, moved, updates, params
    )


def examples(given: dict[str, Any], probe: Array | None) -> Array:
    """The examples whose activations count: `x` of the update, or the probe batch.

    Raises:
        TypeError: for neither.
    """
    x = given.get("x", probe)
    if x is None:
        raise TypeError(
            "this rule looks at activations: expected tx.update(..., x=batch), or a probe batch "
            "where the training loop does not pass one"
        )
    return x


def rule_of(init: Callable[..., Any], update: Callable[..., Any]) -> Transformation:
    """An optax rule of these functions; optax's types know nothing of further arguments."""
    return optax.GradientTransformationExtraArgs(init, update)


def _put(tree: PyTree, path: Path, value: Array) -> PyTree:
    """`tree` with another array at a path."""
    if not path:
        return value
    return {**tree, path[0]: _put(tree[path[0]], path[1:], value)}
