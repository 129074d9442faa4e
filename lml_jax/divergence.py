"""Non-finite updates: how they are found, named, skipped, and how a run goes on after one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.losses import label_report
from lml_jax.types import LifelongState, Metrics, Params, Task, TrainState
from lml_jax.updates import paths_of

_NAMED = 4  # arrays in a message, at most
_CAUSE = (
    "the loss itself was finite; the usual cause is the derivative of a root or a norm at 0 in "
    "the inner rule, as of optax.clip_by_global_norm where a task has one class, or of optax.adam "
    "without eps_root"
)


class DivergedError(FloatingPointError):
    """A loss or gradient stopped being finite. `state` is the last good one.

    `allow_skips(error.state, k)` goes on from there.
    """

    def __init__(self, message: str, state: Any) -> None:
        super().__init__(message)
        self.state = state

    def __reduce__(self) -> tuple[type["DivergedError"], tuple[str, Any]]:
        """Rebuilt by its two arguments, for a pool of processes that pickles it."""
        return type(self), (str(self), self.state)


def all_finite(value: Array, *trees: Any) -> Array:
    """Whether a scalar, and every number of some trees of one structure, is finite: a bool.

    Example:
        >>> all_finite(jnp.array(0.0), [jnp.ones((2, 2))], [jnp.full((2, 2), jnp.inf)]).item()
        False
    """

    def of_leaves(*leaves: Array) -> Array:
        both = jnp.isfinite(leaves[0])
        for leaf in leaves[1:]:
            both &= jnp.isfinite(leaf)
        # The last axis apart: XLA's CPU backend is slow at reductions to a scalar, and one of
        # floats, a norm say, can cost as much as the network.
        return both.all(axis=tuple(range(both.ndim - 1))).all()

    each = jax.tree.leaves(jax.tree.map(of_leaves, *trees))
    return jnp.stack([jnp.isfinite(value), *each]).all()


def nothing_bad(params: Params) -> Array:
    """`TrainState.bad_parts` before any update was refused: bool [1 + 2 L], L the arrays."""
    return jnp.zeros(1 + 2 * len(jax.tree.leaves(params)), bool)


def bad_parts(value: Array, grads: Params, updates: Params) -> Array:
    """What is not finite: the loss, the gradient of each of L arrays, the update of each.

    Returns:
        bool [1 + 2 L].

    Example:
        >>> w = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
        >>> bad_parts(jnp.array(0.0), w, {**w, "b": jnp.full(1, jnp.nan)}).tolist()
        [False, False, False, False, True]
    """
    leaves = [value, *jax.tree.leaves(grads), *jax.tree.leaves(updates)]
    return jnp.stack([~jnp.isfinite(leaf).all() for leaf in leaves])


def allow_skips(state: Any, skips: int = 0) -> Any:
    """`state`, which may skip so many more non-finite updates before it stops.

    An update that is skipped counts as a step, and leaves parameters and optimiser as they are. A
    state that has stopped, as that of a `DivergedError`, goes on after the step that was refused.
    What was observed of a stream or stored in a bank stays.

    Args:
        state: a `TrainState` or a `LifelongState`.
        skips: k >= 0.

    Raises:
        ValueError: for a negative number.
        TypeError: for other states; a generator does not skip.

    Example:
        >>> import optax
        >>> from lml_jax import train
        >>> state = allow_skips(train.init_state(jnp.ones(1), optax.sgd(0.1)), 2)
        >>> int(state.skips)
        2
    """
    if skips < 0:
        raise ValueError(f"skips must be at least 0, got {skips}")
    if isinstance(state, LifelongState):
        return state._replace(train=allow_skips(state.train, skips))
    if not isinstance(state, TrainState):
        raise TypeError(f"expected a TrainState or a LifelongState, got {type(state).__name__}")
    return state._replace(
        step=jnp.where(state.bad_step < 0, state.step, state.bad_step + 1),
        bad_step=jnp.full_like(state.bad_step, -1),
        bad_parts=jnp.zeros_like(state.bad_parts),
        skips=jnp.full_like(state.skips, skips),
    )


def check_finite(
    state: Any,
    metrics: Metrics,
    *,
    where: str = "",
    tasks_of: Callable[[int], object] | None = None,
) -> None:
    """Raise `DivergedError` if an update was refused: at which step, of what, in which task.

    Metrics named `bad_step_PART` say in which part of the learner, as a GAN's generator.

    Args:
        state: it has `bad_step`.
        metrics: of the steps since the last check.
        where: more for the message.
        tasks_of: the meta-batch of a step, whose labels the message names.
    """
    bad = int(state.bad_step)
    if bad < 0:
        return
    prefix = "bad_step_"
    parts = [name.removeprefix(prefix) for name, values in metrics.items()
             if name.startswith(prefix) and int(jnp.max(values)) >= 0]  # fmt: skip
    at = f", in the {' and the '.join(parts)}" if parts else ""
    found = np.asarray(metrics.get("bad_task", -1)).reshape(-1)
    found = found[found >= 0]
    if found.size:
        at = f", task {int(found[0])} of its meta-batch{at}"
    what, cause = _described(state)
    tasks = tasks_of(bad) if found.size and tasks_of is not None else None
    if isinstance(tasks, Task):
        labels = label_report(jax.tree.map(lambda leaf: leaf[int(found[0])], tasks))
        cause += f"; {labels}" if labels else ""
    raise DivergedError(
        f"{what} was not finite at step {bad}{at}{where}{cause}; "
        "the state is kept as it was before that step",
        state,
    )


def _described(state: Any) -> tuple[str, str]:
    """What was not finite, and its usual cause, from the flags of a train state."""
    own = getattr(state, "train", state)
    flags = getattr(own, "bad_parts", None)
    if flags is None or not np.asarray(flags).any():
        return "the loss or its gradient", ""
    loss, rest = bool(flags[0]), np.asarray(flags[1:])
    paths = jax.tree.leaves(paths_of(own.params))
    gradient, update = (
        [path or "the array" for path, bad in zip(paths, half, strict=True) if bad]
        for half in np.split(rest, 2)
    )
    if loss:
        return "the loss", ""
    kind, names = ("gradient", gradient) if gradient else ("update", update)
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    what = f"the {kind} of {len(names)} of {len(paths)} arrays ({listed})"
    return what, f" ({_CAUSE})" if gradient else " (loss and gradient were finite)"
