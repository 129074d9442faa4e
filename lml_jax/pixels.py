"""Examples as floats: images of uint8, declared ranges, and the range that networks work in."""

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.checks import concrete
from lml_jax.types import Key, Net, Params, PyTree

Span = tuple[float, float]  # the declared range of examples, (low, high)


def as_float(x: Array) -> Array:
    """Images of uint8 as floats in 0..1; floats as they are.

    Example:
        >>> as_float(jnp.array([0, 255], jnp.uint8)).tolist()
        [0.0, 1.0]
    """
    return x.astype(float) / 255 if x.dtype == jnp.uint8 else x


def on_floats(net: Net) -> Net:
    """`net`, given images of uint8 as floats in 0..1; all other inputs, as token ids, as they are.

    Every learner takes its network through this, so that a network of the user's own sees what the
    networks of `nets` see.

    Example:
        >>> net = on_floats(Net(lambda key, x: {}, lambda params, x: x))
        >>> net.apply({}, jnp.array([[0, 255]], jnp.uint8)).tolist()
        [[0.0, 1.0]]
    """

    def scaled(x: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: as_float(jnp.asarray(leaf)), x)

    def init(key: Key, x: PyTree) -> Params:
        return net.init(key, scaled(x))

    def apply(params: Params, x: PyTree) -> Array:
        return net.apply(params, scaled(x))

    def freeze(params: Params, x: PyTree) -> Params:
        assert net.freeze is not None
        return net.freeze(params, scaled(x))

    return Net(init, apply, None if net.freeze is None else freeze)


def to_network(x: Array, span: Span) -> Array:
    """Examples in `span`, or of uint8, scaled to -1..1, the range of a generator's tanh.

    Example:
        >>> to_network(jnp.array([0, 255], jnp.uint8), (0.0, 1.0)).tolist()
        [-1.0, 1.0]
    """
    return (as_float(x) - span[0]) * (2 / (span[1] - span[0])) - 1


def from_network(x: Array, span: Span) -> Array:
    """Outputs of a generator in -1..1, scaled to `span`.

    Example:
        >>> from_network(jnp.array([-1.0, 1.0]), (0.0, 5.0)).tolist()
        [0.0, 5.0]
    """
    return (x + 1) * ((span[1] - span[0]) / 2) + span[0]


def check_range(x: Array, span: Span, weight: Array | None = None) -> None:
    """Raise unless `x` is of uint8, or holds floats in `span`; inside jit only the type is known.

    Args:
        x: examples [..., *features].
        span: the declared range.
        weight: [...], the leading axes of x; an example of weight 0 is padding and not checked.

    Raises:
        ValueError: naming the range found, or a type whose range is not known.

    Example:
        >>> check_range(jnp.array([[0.5], [9.0]]), (0.0, 1.0), jnp.array([1.0, 0.0]))
        >>> check_range(jnp.array([[0.5], [9.0]]), (0.0, 1.0))
        Traceback (most recent call last):
        ...
        ValueError: examples are in 0.5..9, expected the declared range 0.0..1.0
    """
    if x.dtype == jnp.uint8:
        return
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"expected images of uint8, or floats in {span[0]}..{span[1]}; got {x.dtype.name}"
        )
    known_now = concrete(x, weight)
    if known_now is None:
        return
    values, counts = known_now
    values = values if counts is None else values[counts > 0]
    if values.size == 0:
        return
    low, high = float(values.min()), float(values.max())
    if not (span[0] <= low and high <= span[1]):
        raise ValueError(
            f"examples are in {low:g}..{high:g}, expected the declared range {span[0]}..{span[1]}"
        )
