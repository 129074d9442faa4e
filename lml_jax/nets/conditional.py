"""Networks of two inputs: a generator from noise and a code, a discriminator given a code."""

import math
from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from lml_jax.checks import check_positive
from lml_jax.nets._apply import outputs_of
from lml_jax.nets.feedforward import Linear, Mlp
from lml_jax.types import ConditionalNet, Params

_leaky = partial(nn.leaky_relu, negative_slope=0.2)


def generator(hidden: Sequence[int], shape: Sequence[int]) -> ConditionalNet:
    """A perceptron from noise z [n, dz] and a code h [n, k] to examples [n, *shape] in (-1, 1).

    x = tanh(MLP([z; h])), with leaky ReLUs.

    Example:
        >>> net = generator([32], (8, 8))
        >>> z, h = jnp.zeros((4, 16)), jnp.eye(4)
        >>> net.apply(net.init(jax.random.key(0), z, h), z, h).shape
        (4, 8, 8)
    """
    check_positive(**{f"hidden[{i}]": width for i, width in enumerate(hidden)})
    module = Mlp(tuple(hidden), math.prod(shape), _leaky, nn.initializers.glorot_uniform())

    join = partial(jnp.concatenate, axis=1)

    def apply(params: Params, z: Array, h: Array) -> Array:
        return jnp.tanh(outputs_of(module, params, join([z, h]))).reshape(-1, *shape)

    return ConditionalNet(lambda key, z, h: module.init(key, join([z, h]))["params"], apply)


def projection_discriminator(hidden: Sequence[int]) -> ConditionalNet:
    """A perceptron that scores examples x [n, ...] under codes h [n, k]: logits [n].

    D(x, h) = psi(phi(x)) + <V h, phi(x)> / sqrt(d), phi of leaky ReLUs and width d, psi and V
    linear. There is no batch-norm: each score depends on its own example alone.

    Example:
        >>> net = projection_discriminator([32])
        >>> x, h = jnp.zeros((4, 8, 8)), jnp.eye(4)
        >>> net.apply(net.init(jax.random.key(0), x, h), x, h).shape
        (4,)

    Source: Miyato, Koyama. cGANs with Projection Discriminator, 2018.
    """
    check_positive(layers=len(hidden), **{f"hidden[{i}]": w for i, w in enumerate(hidden)})
    module = _Projection(tuple(hidden))
    return ConditionalNet(
        lambda key, x, h: module.init(key, x, h)["params"],
        lambda params, x, h: outputs_of(module, params, x, h),
    )


class _Projection(nn.Module):
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, h: Array) -> Array:
        glorot, width = nn.initializers.glorot_uniform(), self.hidden[-1]
        phi = x.reshape(x.shape[0], -1)
        for i, units in enumerate(self.hidden):
            phi = _leaky(Linear(units, glorot, name=f"layer{i + 1}")(phi))
        matched = jnp.sum(phi * Linear(width, glorot, name="projection")(h), axis=1)
        return Linear(1, glorot, name="head")(phi)[:, 0] + matched / width**0.5
