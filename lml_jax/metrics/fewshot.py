"""Accuracy of predictions, and means with their confidence intervals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from lml_jax.losses.labels import as_labels
from lml_jax.losses.weights import at_least_float32


def accuracy(
    logits: jax.typing.ArrayLike,
    y: jax.typing.ArrayLike,
    *,
    weight: jax.typing.ArrayLike | None = None,
) -> Array:
    """Weighted share of right predictions, over the last axis of `y`.

    sum_n w_n 1[argmax_c logits_{n,c} = y_n] / sum_n w_n, with w_n = 0 where y_n = -1.

    Args:
        logits: float [..., n, C]. A row that has a NaN, or only -inf, predicts no class and counts
            as wrong; +inf at the label is right.
        y: labels, integers [..., n]; -1 is unlabelled.
        weight: w, [..., n], >= 0; None for 1 each.

    Returns:
        Shares [...] in [0, 1]; NaN where nothing counts.

    Raises:
        ValueError: if the shapes disagree, or y is not of integers.

    Example:
        >>> logits = jnp.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
        >>> float(accuracy(logits, jnp.array([0, 0, -1])))
        0.5
    """
    logits, y = jnp.asarray(logits), jnp.asarray(y)
    if y.ndim < 1 or logits.shape[:-1] != y.shape:
        hint = "; take y.argmax(-1) of one-hot labels" if logits.shape == y.shape else ""
        raise ValueError(
            f"expected logits [..., n, C], y [..., n]; got {logits.shape}, {y.shape}{hint}"
        )
    y = as_labels(y, rank=None)
    weight = jnp.ones(y.shape, jnp.float32) if weight is None else at_least_float32(weight)
    if weight.shape != y.shape:
        raise ValueError(f"weight {weight.shape} must have the shape of y, {y.shape}")
    counted = jnp.where(y >= 0, weight, 0.0)
    # argmax of NaNs or of equal -inf is class 0, which would score as a guess.
    predicts = jnp.max(logits, axis=-1) > -jnp.inf
    correct = predicts & (jnp.argmax(logits, axis=-1).astype(jnp.int32) == y)
    total = jnp.sum(counted, axis=-1)
    share = jnp.sum(jnp.where(correct, counted, 0.0), axis=-1) / jnp.where(total > 0, total, 1.0)
    return undefined_where(~(total > 0), share)


def undefined_where(undefined: Array, values: Array) -> Array:
    """`values`, and NaN where they are undefined.

    This NaN is meant: outside jit it does not stop a program under JAX_DEBUG_NANS. A program that
    is compiled as a whole runs inside `jax.debug_nans(False)` for that.

    Example:
        >>> undefined_where(jnp.array([True, False]), jnp.zeros(2)).tolist()
        [nan, 0.0]
    """
    with jax.debug_nans(False):
        return jnp.where(undefined, jnp.nan, values)


def mean_ci(values: ArrayLike) -> tuple[float, float]:
    """Mean over episodes, and half the width of its 95 % confidence interval.

    m = 1/n sum_k v_k, and 1.96 sqrt(1/(n-1) sum_k (v_k - m)^2) / sqrt(n).

    `values` [n], one score per episode, independent of each other; n = 1 gives (m, nan).
    Raises: ValueError if `values` is not of rank 1.
    Source: the normal approximation, as few-shot papers report it: C. Finn, P. Abbeel, S. Levine,
    "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
    https://arxiv.org/abs/1703.03400.

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
