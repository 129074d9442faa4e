"""How able a network still is to learn: dormant units, the rank of its features, its weights."""

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.types import Params


def activity(h: Array) -> Array:
    """The activity of each unit, E|h_i| / mean_k E|h_k|, [units].

    0 for all units where all are 0.

    Args:
        h: activations of a layer, [n, units].

    Example:
        >>> activity(jnp.array([[1.0, 0.0], [3.0, 0.0]])).tolist()
        [2.0, 0.0]
    """
    each = jnp.abs(h).mean(0)
    return each / jnp.maximum(each.mean(), jnp.finfo(each.dtype).tiny)


def dormant_units(h: Array, *, threshold: float = 0.0) -> Array:
    """The share of the units whose activity is at most `threshold`, in [0, 1].

    Args:
        h: activations of a layer, [n, units].
        threshold: tau >= 0; 0 counts units that are 0 for all examples.

    Example:
        >>> dormant_units(jnp.array([[1.0, 0.0], [3.0, 0.0]])).item()
        0.5

    Source:
        Sokar, Agarwal, Castro, Evci. The Dormant Neuron Phenomenon in Deep Reinforcement Learning,
        2023, definition 3.1; https://arxiv.org/abs/2302.12902
    """
    return (activity(h) <= threshold).mean()


def effective_rank(h: Array) -> Array:
    """exp of the entropy of the singular values of h, scaled to sum to 1; in [1, min(n, units)].

    0 for h of zeros.

    Args:
        h: activations of a layer, [n, units].

    Example:
        >>> effective_rank(jnp.eye(3)).round(2).item()
        3.0

    Source:
        Roy, Vetterli. The Effective Rank: a Measure of Effective Dimensionality, 2007;
        https://ieeexplore.ieee.org/document/7098875
    """
    s = jnp.linalg.svd(h, compute_uv=False)
    p = s / jnp.maximum(s.sum(), jnp.finfo(s.dtype).tiny)
    rank = jnp.exp(-jax.scipy.special.xlogy(p, p).sum())
    return jnp.where(s.sum() > 0, rank, 0.0)


def weight_norm(params: Params) -> Array:
    """The mean of |w| over all parameters.

    Example:
        >>> weight_norm({"a": jnp.array([1.0, -3.0]), "b": jnp.array(2.0)}).item()
        2.0
    """
    leaves = jax.tree.leaves(params)
    total = sum(jnp.abs(leaf).sum() for leaf in leaves)
    return jnp.asarray(total / sum(leaf.size for leaf in leaves))
