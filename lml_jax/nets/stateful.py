"""Networks with dropout or running statistics, for learners that know of neither."""

from typing import Any, NamedTuple, Protocol

import jax
from jax import Array

from lml_jax.types import Key, Net, Params, PyTree


class StatefulInit(Protocol):
    """How a network with state begins."""

    def __call__(self, key: Key, x: PyTree, /) -> tuple[Params, PyTree]:
        """Parameters, which are trained, and state, which is not, for examples like x [n, ...]."""


class StatefulApply(Protocol):
    """What a network with state computes."""

    def __call__(
        self, params: Params, state: PyTree, x: PyTree, key: Key | None, /
    ) -> tuple[Array, PyTree]:
        """Outputs of x [n, ...] and the new state.

        `key` is None where nothing is random, as for predictions: dropout is off, and batch
        normalisation uses its running statistics.
        """


class StatefulNet(NamedTuple):
    """A network with randomness and state, as pure functions; a model of any library fits."""

    init: StatefulInit
    apply: StatefulApply


def bind(net: StatefulNet, state: PyTree = None, key: Key | None = None) -> Net:
    """A `Net` that uses one state and one key, to build any learner with.

    A learner is a record of functions, and costs nothing to build, so a loss builds its own: with
    a key for training, so that every task and every step drops other units; with the state that
    follows the key among the arguments of the step. For prediction, bind the state alone. One
    bound net draws the same mask at every call on a batch of one shape.

    Args:
        net: the network.
        state: its running statistics; they get no gradient. None for a network without any.
        key: for what is random in training; None for predictions.

    Returns:
        A `Net`; its `init` gives the parameters without the state, its `apply` drops the new state.
        To update the state, call `net.apply` once per step, as here:

    Example:
        >>> import jax.numpy as jnp
        >>> def apply(params, state, x, key):
        ...     mean = x.mean(0) if key is not None else state
        ...     return (x - mean[None]) @ params, 0.9 * state + 0.1 * mean
        >>> net = StatefulNet(lambda key, x: (jnp.ones((1, 2)), jnp.zeros(1)), apply)
        >>> def loss(params, task, key, state):
        ...     own = bind(net, state, key)  # and a learner of it
        ...     new_state = net.apply(params, state, task, key)[1]
        ...     return own.apply(params, task).sum(), {"state": new_state}
        >>> x, key = jnp.array([[1.0], [3.0]]), jax.random.key(0)
        >>> params, state = net.init(key, x)
        >>> f"{loss(params, x, key, state)[1]['state'].item():.2f}"
        '0.20'
        >>> bind(net, state).apply(params, x).tolist()
        [[1.0, 1.0], [3.0, 3.0]]
    """

    def init(key: Key, x: PyTree) -> Params:
        return net.init(key, x)[0]

    def apply(params: Params, x: PyTree) -> Array:
        fixed: Any = jax.lax.stop_gradient(state)
        return net.apply(params, fixed, x, key)[0]

    return Net(init, apply)
