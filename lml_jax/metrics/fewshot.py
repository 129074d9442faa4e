"""Accuracy of predictions, and means with their confidence intervals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike


def accuracy(logits: jax.typing.ArrayLike, y: jax.typing.ArrayLike, *, weight: Any = None) -> Array:
    """Weighted share of right predictions, over the last axis of `y`; fit for jit and vmap.

    sum_n w_n 1[argmax_c logits_{n,c} = y_n] / sum_n w_n, with w_n = 0 where y_n = -1.

    `logits` [..., n, C], `y` [..., n] integers, `weight` [..., n] >= 0 -> [...] in [0, 1]; NaN
    where nothing counts. A row of logits that has a NaN, or only -inf, predicts no class.
    Raises: ValueError if the shapes disagree or `y` is not of integers. Source: definition.

    Example:
        >>> logits = jnp.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
        >>> float(accuracy(logits, jnp.array([0, 0, -1])))
        0.5
    """
    logits, y = jnp.asarray(logits), jnp.asarray(y)
    if y.ndim < 1 or logits.shape[:-1] != y.shape:
        raise ValueError(f"expected logits [..., n, C], y [..., n]; got {logits.shape}, {y.shape}")
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(f"y must hold integer labels; got dtype {y.dtype}")
    weight = jnp.ones(y.shape) if weight is None else jnp.asarray(weight, jnp.float32)
    if weight.shape != y.shape:
        raise ValueError(f"weight {weight.shape} must have the shape of y, {y.shape}")
    counted = jnp.where(y >= 0, weight, 0.0)
    # argmax of NaNs or of equal -inf is class 0, which would score as a guess.
    predicts = jnp.max(logits, axis=-1) > -jnp.inf
    correct = predicts & (jnp.argmax(logits, axis=-1).astype(y.dtype) == y)
    total = jnp.sum(counted, axis=-1)
    share = jnp.sum(jnp.where(correct, counted, 0.0), axis=-1) / jnp.where(total > 0, total, 1.0)
    return jnp.where(total > 0, share, jnp.nan)


def mean_ci(values: ArrayLike) -> tuple[float, float]:
    """Mean over episodes, and half the width of its 95 % confidence interval.

    m = 1/n sum_k v_k, and 1.96 sqrt(1/(n-1) sum_k (v_k - m)^2) / sqrt(n).

    `values` [n], one score an episode, independent of each other; n = 1 gives (m, nan).
    Raises: ValueError if `values` is not of rank 1.
    Source: the normal approximation, as few-shot papers report it: Finn, Abbeel and Levine,
    "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017.

    Example:
        >>> mean, half = mean_ci([0.5, 0.7, 0.9, 0.7])
        >>> round(mean, 4), round(half, 4)
        (0.7, 0.16)
    """
    v = np.asarray(values, np.float64)
    if v.ndim != 1:
        raise ValueError(f"values must have shape [n]; got {v.shape}")
    half = 1.96 * float(np.std(v, ddof=1)) / v.size**0.5 if v.size > 1 else float("nan")
    return float(np.mean(v)) if v.size else float("nan"), half


def to_json(value: Any) -> Any:
    """Plain Python for `json.dumps(..., allow_nan=False)`: NaN and infinities become None.

    Goes through dicts (keys become strings), lists, tuples, and numpy and jax arrays of any
    shape; anything else is returned as it is.

    Example:
        >>> to_json({"acc": float("nan"), "R": np.array([[1.0, np.inf]]), "seed": np.int32(3)})
        {'acc': None, 'R': [[1.0, None]], 'seed': 3}
    """
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, np.ndarray | np.generic | Array):
        host = np.asarray(value)
        if jnp.issubdtype(host.dtype, jnp.floating):
            host = host.astype(np.float64)  # bfloat16 would not become Python floats
        return to_json(host.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
