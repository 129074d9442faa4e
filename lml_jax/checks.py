"""Checks of arguments, and errors that name what was found and what was expected."""

import difflib
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax import Array


def known(name: str, names: Iterable[str], *, what: str) -> str:
    """`name`, if it is one of `names`.

    Raises:
        ValueError: otherwise, with the nearest known name and all of them.

    Example:
        >>> known("mam", ["maml", "reptile"], what="learner")
        Traceback (most recent call last):
        ...
        ValueError: unknown learner 'mam'; did you mean 'maml'? Known: maml, reptile
    """
    every = list(names)
    if name in every:
        return name
    near = difflib.get_close_matches(str(name), every, n=1, cutoff=0.0)[0]
    raise ValueError(f"unknown {what} {name!r}; did you mean {near!r}? Known: {', '.join(every)}")


def check_positive(**sizes: int) -> None:
    """Raise ValueError, naming it, for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_images(x: Any, *, what: str, channels: int | None = None) -> None:
    """Raise ValueError unless x holds images [n, H, W] or [n, H, W, channels].

    Images whose axis 1 has the size of colour channels (at most 4) and whose last axes are larger
    are taken for [n, channels, H, W], and refused.

    Args:
        x: the images.
        what: takes them, in the message.
        channels: the expected number; with it nothing is guessed from the shape.

    Example:
        >>> check_images(np.zeros((2, 84, 84, 3)), what="conv4")
        >>> check_images(np.zeros((2, 84)), what="conv4")
        Traceback (most recent call last):
        ...
        ValueError: conv4 takes images [n, H, W] or [n, H, W, channels], got shape (2, 84)
    """
    shape = tuple(x.shape)
    if len(shape) not in (3, 4):
        raise ValueError(f"{what} takes images [n, H, W] or [n, H, W, channels], got shape {shape}")
    if channels is not None:
        found = shape[3] if len(shape) == 4 else 1
        if found != channels:
            raise ValueError(
                f"{what} takes {channels} channels on the last axis, got shape {shape}"
            )
    elif len(shape) == 4 and shape[1] <= 4 < min(shape[2:]):
        raise ValueError(
            f"{what} takes images [n, H, W, channels], and shape {shape} looks like "
            "[n, channels, H, W]: move the axis by x.transpose(0, 2, 3, 1)"
        )


def possible(condition: Callable[..., bool], *numbers: float | Array) -> bool:
    """Whether numbers meet a condition; a traced number is not known yet, and may meet any.

    Settings that are numbers can so be mapped over: `vmap` traces them.

    Example:
        >>> possible(lambda rate: rate > 0, -1.0)
        False
        >>> bool(jax.jit(lambda rate: possible(lambda r: r > 0, rate))(-1.0))
        True
    """
    found = concrete(*numbers)
    return found is None or bool(condition(*found))


def concrete(*values: Any) -> list[Any] | None:
    """`values` as NumPy arrays (None stays None); or None, if any of them is traced.

    Inside jit, scan or checkpoint an operation of `jnp` gives a traced array even where all that
    goes in is known, and a check of it would crash; so what is checked is computed with NumPy.

    Example:
        >>> concrete(jax.numpy.arange(3), None)
        [array([0, 1, 2], dtype=int32), None]
        >>> jax.jit(lambda x: x + (concrete(x) is None))(1).item()
        2
    """
    if any(isinstance(value, jax.core.Tracer) for value in values):
        return None
    return [None if value is None else np.asarray(value) for value in values]


# How networks of flax, haiku, equinox and PyTorch name what they count of their batches.
_STATISTICS = (
    "batch_stats", "running_mean", "running_var", "moving_mean", "moving_var",
    "moving_average", "num_batches_tracked",
)  # fmt: skip


def statistics_among(params: Any) -> list[str]:
    """Paths of the arrays that are running statistics, by their names.

    Example:
        >>> statistics_among({"params": {"w": 1.0}, "batch_stats": {"mean": 0.0}})
        ['batch_stats/mean']
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return [path for path in paths if any(name in path for name in _STATISTICS)]


def warn_of_statistics(params: Any) -> None:
    """Warn where running statistics are among the parameters, which an optimiser would train."""
    found = statistics_among(params)
    if found:
        warnings.warn(
            f"the network returns running statistics as parameters ({', '.join(found[:3])}), and "
            "they will be trained: keep them apart by nets.bind, or hold them by updates.freeze",
            UserWarning,
            stacklevel=3,
        )
