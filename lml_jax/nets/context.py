"""Full context embeddings: what an example means within its support set."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from lml_jax.nets._apply import outputs_of
from lml_jax.types import Context, Key, Params


def lstm_context(features: int, *, steps: int = 5) -> Context:
    """Support embeddings by a bidirectional LSTM, query embeddings by an LSTM that attends to them.

    g_i = h_i(forwards) + h_i(backwards) + z_i over the support set in its order; and for a query z,
    `steps` times: r = sum_i softmax_i(h . g_i) g_i, h <- LSTM([z, r], h) + z, starting at h = z.
    An example of weight 0 is passed over by all of them.

    Args:
      features: d, of the embeddings.
      steps: how often a query looks at the support set, >= 1.

    Returns:
      A `Context`.

    Raises:
      ValueError: for features or steps below 1.

    Example:
      >>> of = lstm_context(8)
      >>> z, weight = jnp.ones((3, 8)), jnp.array([1.0, 1.0, 0.0])
      >>> params = of.init(jax.random.key(0), z)
      >>> of.query(params, jnp.ones((2, 8)), of.support(params, z, weight), weight).shape
      (2, 8)

    Reference:
      O. Vinyals, C. Blundell, T. Lillicrap, K. Kavukcuoglu, D. Wierstra, Matching Networks for One
      Shot Learning, https://arxiv.org/abs/1606.04080, appendix A.
    """
    if min(features, steps) < 1:
        raise ValueError(f"features and steps must be at least 1, got {features} and {steps}")
    g, f = _Bidirectional(features), _Attending(features, steps)

    def init(key: Key, z: Array) -> Params:
        key_g, key_f = jax.random.split(key)
        there = jnp.ones(z.shape[0], bool)
        return {
            "g": g.init(key_g, z, there)["params"],
            "f": f.init(key_f, z, z, there)["params"],
        }

    def support(params: Params, z: Array, weight: Array) -> Array:
        return outputs_of(g, params["g"], z, weight > 0)

    def query(params: Params, z: Array, support: Array, weight: Array) -> Array:
        return outputs_of(f, params["f"], z, support, weight > 0)

    return Context(init, support, query)


Carry = tuple[Array, Array]


class _Bidirectional(nn.Module):
    features: int

    @nn.compact
    def __call__(self, z: Array, there: Array) -> Array:
        def move(cell: nn.Module, carry: Carry, example: Carry) -> tuple[Carry, Array]:
            z, there = example
            moved, h = cell(carry, z)
            return jax.tree.map(partial(jnp.where, there), moved, carry), h

        total, start = z, (jnp.zeros_like(z[0]), jnp.zeros_like(z[0]))
        for name, back in (("fwd", False), ("bwd", True)):
            cell = nn.OptimizedLSTMCell(self.features, name=name)
            over = nn.scan(
                move, variable_broadcast="params", split_rngs={"params": False}, reverse=back
            )
            total = total + over(cell, start, (z, there))[1]
        return total


class _Attending(nn.Module):
    features: int
    steps: int

    @nn.compact
    def __call__(self, z: Array, support: Array, there: Array) -> Array:
        cell = nn.OptimizedLSTMCell(self.features, name="lstm")
        c, h = jnp.zeros_like(z), z
        for _ in range(self.steps):
            # Not -inf: of no example at all the softmax would be nan.
            scores = jnp.where(there[None], h @ support.T, jnp.finfo(z.dtype).min)
            read = jax.nn.softmax(scores, axis=1) @ support
            (c, h), _ = cell((c, h), jnp.concatenate([z, read], axis=1))
            h = h + z
        return h
