"""Class labels: their type, their range, and errors that name the labels that are wrong."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import concrete
from lml_jax.types import Task

_LARGEST = np.iinfo(np.int32).max


def are_labels(y: Array) -> bool:
    """Whether y holds class labels, int [n], rather than targets of a regression."""
    return y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer)


def as_labels(y: Any, *, rank: int | None = 1) -> Array:
    """Labels as int32, whatever integer type they come in.

    A type as narrow as uint8 cannot hold the number of a class above 255, so arithmetic and
    comparisons in it would wrap.

    Args:
        y: labels, integers [n].
        rank: the expected number of axes; None for any.

    Returns:
        int32 of the shape of y. Labels above the range of int32 become its largest value.

    Raises:
        ValueError: for booleans, floats and other ranks, as of one-hot labels.

    Example:
        >>> as_labels(np.array([3, 255], np.uint8)).tolist()
        [3, 255]
    """
    y = y if isinstance(y, Array | np.ndarray) else np.asarray(y)
    shape = f"{y.dtype} {list(y.shape)}"
    if rank is not None and y.ndim != rank:
        column = y.ndim == rank + 1 and y.shape[-1] == 1
        hint = "y[:, 0]" if column else "y.argmax(-1) of one-hot labels"
        more = f"; take {hint}" if y.ndim > rank else ""
        raise ValueError(f"labels must be integers of shape [n], got {shape}{more}")
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers, got {shape}; convert them by y.astype(int), or choose a "
            "loss of real targets such as losses.squared_error"
        )
    if y.dtype == jnp.int32:
        return y
    if jnp.iinfo(y.dtype).max > _LARGEST:
        y = y.clip(max=y.dtype.type(_LARGEST))
        if jnp.issubdtype(y.dtype, jnp.signedinteger):
            y = y.clip(min=y.dtype.type(-_LARGEST))
    return y.astype(jnp.int32)


def check_labels(y: Array, classes: int | None, weight: Array | None = None) -> None:
    """Raise unless labels are in -1..C-1, as far as their values are known.

    Args:
        y: labels of any shape and integer type; -1 is unlabelled. Nothing is checked where they
            are traced, as inside jit; see `outside`.
        classes: C; None checks the lower end alone.
        weight: of the examples, of the shape of y; labels of weight 0 are not checked.

    Raises:
        ValueError: with the range found and the labels outside.

    Example:
        >>> check_labels(np.array([0, 37, 41]), 5)
        Traceback (most recent call last):
        ...
        ValueError: labels are in 0..41, expected -1..4; outside are [37, 41]
    """
    found = concrete(y, weight)
    if found is None or found[0].size == 0:
        return
    values = found[0] if found[1] is None else found[0][found[1] != 0]
    # Python integers: the ends of an unsigned type do not compare with -1 in it.
    present = [int(v) for v in np.unique(values)]
    wrong = [v for v in present if v < -1 or (classes is not None and v >= classes)]
    if wrong:
        expected = "-1 or more" if classes is None else f"-1..{classes - 1}"
        more = ", ..." if len(wrong) > 10 else ""
        listed = ", ".join(map(str, wrong[:10])) + more
        raise ValueError(
            f"labels are in {present[0]}..{present[-1]}, expected {expected}; outside are "
            f"[{listed}]"
        )


def outside(y: Array, classes: int | None) -> Array:
    """Which labels are not in -1..C-1, bool of the shape of y; for use inside jit.

    Example:
        >>> outside(jnp.array([-2, -1, 0, 5]), 5).tolist()
        [True, False, False, True]
    """
    low = y < -1
    return low if classes is None else low | (y >= classes)


def nan_where(wrong: Array) -> Array:
    """Factors that are NaN where `wrong` and 1 elsewhere, float32 of its shape.

    A value times such a factor is NaN, and so is its gradient, so that an update with a wrong
    label is refused and not silently different.

    Example:
        >>> nan_where(jnp.array([True, False])).tolist()
        [nan, 1.0]
    """
    # A root, for JAX_DEBUG_NANS stops at a constant NaN even where it is not chosen.
    return jnp.sqrt(jnp.where(wrong, jnp.float32(-1.0), jnp.float32(1.0)))


def label_report(task: Task) -> str:
    """The labels of one task in words, for error messages about it.

    Args:
        task: one episode, without a leading axis, whose values are known.

    Returns:
        The labels of both sets, and those of query examples that no support example has; "" where
        y holds targets of a regression, or where values are traced.

    Example:
        >>> from lml_jax.types import Batch
        >>> x = jnp.zeros((2, 1))
        >>> label_report(Task(Batch(x, jnp.array([0, 1])), Batch(x, jnp.array([1, 2]))))
        'support labels [0, 1], query labels [1, 2]; no support example has [2]'
    """
    sets = []
    for part in (task.support, task.query):
        found = concrete(part.y, part.weight)
        if found is None or not are_labels(part.y):
            return ""
        y, weight = found
        counted = (y != -1) & (True if weight is None else weight != 0)
        sets.append(np.unique(y[counted]).tolist())
    support, query = sets
    missing = sorted(set(query) - set(support))
    more = f"; no support example has {missing}" if missing else ""
    return f"support labels {support}, query labels {query}{more}"


def check_task(task: Task) -> None:
    """Raise where a query example has a class that no support example has, and that is known.

    Such an example has probability 0, and its loss is infinite.

    Args:
        task: one episode whose classes are its own (`id` None); nothing is checked for others, or
            where the support set is empty.

    Raises:
        ValueError: with the labels of both sets.
    """
    if task.id is not None or task.support.y.shape[0] == 0 or task.query.y.shape[0] == 0:
        return
    if isinstance(task.support.y, jax.core.Tracer) or isinstance(task.query.y, jax.core.Tracer):
        return
    report = label_report(task)
    if "no support example" in report:
        raise ValueError(f"the query set has classes that were not learned: {report}")
