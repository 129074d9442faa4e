"""Encoders to put under a head: features as they are, any function, random features."""

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.heads._sums import matmul
from lml_jax.losses import at_least_float32
from lml_jax.types import Apply, Key, Net, Params, PyTree

identity = Net(init=lambda key, x: {}, apply=lambda params, x: x)


def encoder(apply: Apply, params: Params) -> Net:
    """A network with given parameters, from any library.

    Args:
        apply: (params, x [n, ...]) -> features [n, d].
        params: any pytree of arrays, such as pretrained weights.

    Returns:
        A `Net` whose `init` returns `params`, whatever the key.

    Example:
        >>> net = encoder(lambda params, x: x @ params, jnp.ones((3, 2)))
        >>> net.apply(net.init(jax.random.key(0), jnp.ones((1, 3))), jnp.ones((1, 3))).tolist()
        [[3.0, 3.0]]
    """
    return Net(init=lambda key, x: params, apply=apply)


def random_features(net: Net, width: int) -> Net:
    """Random projections of a network's features, with a ReLU.

    h(x) = max(0, W^T f(x)), with W [d, M] of independent N(0, 2/d), drawn once: the mean of h^2 is
    then that of f^2. A linear classifier of h separates classes that none of f does.

    Args:
        net: f, from x [n, ...] to features [n, d].
        width: M >= 1; 10,000 in RanPAC, 2,000 is a fifth of the memory and 1/25 of the statistics.

    Returns:
        A `Net` with the parameters {"net", "projection"}. No gradient reaches the projection, so an
        optimiser without weight decay leaves it as it is.

    Raises:
        ValueError: for a width below 1.

    Example:
        >>> net = random_features(identity, 100)
        >>> x = jnp.ones((2, 5))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (2, 100)

    Source:
        McDonnell, Gong, Parvaneh, Abbasnejad, van den Hengel. RanPAC: Random Projections and
        Pre-trained Models for Continual Learning, 2023, section 4; https://arxiv.org/abs/2307.02251
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")

    def init(key: Key, x: PyTree) -> Params:
        key_net, key_projection = jax.random.split(key)
        params = net.init(key_net, x)
        d = jax.eval_shape(net.apply, params, x).shape[1]
        projection = jnp.sqrt(2.0 / d) * jax.random.normal(key_projection, (d, width))
        return {"net": params, "projection": projection}

    def apply(params: Params, x: PyTree) -> Array:
        z = at_least_float32(net.apply(params["net"], x))
        projection = jax.lax.stop_gradient(params["projection"])
        return jax.nn.relu(matmul(z, projection))

    def freeze(params: Params, x: PyTree) -> Params:
        assert net.freeze is not None
        return {**params, "net": net.freeze(params["net"], x)}

    return Net(init, apply, None if net.freeze is None else freeze)
