"""Encoders of kept learners: registered architectures, features as they are, the user's own."""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from lml_jax import heads, nets
from lml_jax.checks import known
from lml_jax.losses import at_least_float32
from lml_jax.pixels import Span, as_float
from lml_jax.types import Apply, Net, Params

OWN = "own"  # the name of an encoder that is not registered
ANY = (-math.inf, math.inf)
_PROBES = 8
_TOLERANCE = 1e-2  # of the norm of the features: devices round differently

# name -> (**options) -> a network without a head
ENCODERS: dict[str, Callable[..., Net]] = {
    "identity": lambda: heads.identity,
    "flat": lambda: Net(lambda key, x: {}, flat),
    "conv4": partial(nets.conv4, None),
    "convnet": partial(nets.convnet, None),
    "efficientnet-lite0": nets.efficientnet_lite0,
    "mlp": lambda hidden, features: nets.mlp(list(hidden), features),
}


def flat(params: Params, x: Array) -> Array:
    """Pixels as they are, [n, H * W * channels]; of uint8 in 0..1."""
    return as_float(x).reshape(x.shape[0], -1)


class Encoder(NamedTuple):
    """A frozen encoder z = (f(x) - mean) / scale, clipped to a range.

    Attributes:
        name: in `ENCODERS`, or "own".
        options: of the architecture, sorted pairs.
        apply: f, (params, x [n, ...]) -> [n, d].
        params: {"net", "mean" [1, d], "scale" [], "range" [2]}.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    apply: Apply
    params: Params


def encoder(
    name: str,
    params: Params,
    *,
    mean: ArrayLike | None = None,
    scale: float = 1.0,
    clip: Span = ANY,
    **options: Any,
) -> Encoder:
    """An encoder of a registered architecture with given parameters.

    Args:
        name: in `ENCODERS`: "identity" for features, "conv4", "convnet", "mlp" or
            "efficientnet-lite0", whose trained weights `keep.efficientnet_lite0` reads.
        params: of the network; batch statistics are frozen in them, see `Net.freeze`.
        mean: [d], subtracted from the features; None for 0.
        scale: > 0, that they are divided by then.
        clip: the range that they are clipped to.
        **options: of the architecture, as JSON can hold them: `filters`, `pool`, `norm` for conv4,
            `hidden`, `features` for mlp.

    Raises:
        ValueError: for an unknown name, or options that the architecture does not have.

    Example:
        >>> encoder("identity", {}).name
        'identity'
    """
    fixed = tuple(sorted((key, _hashable(value)) for key, value in options.items()))
    apply = network(name, fixed).apply
    return Encoder(name, fixed, apply, _standardised(params, mean, scale, clip))


def own_encoder(
    apply: Apply,
    params: Params,
    *,
    mean: ArrayLike | None = None,
    scale: float = 1.0,
    clip: Span = ANY,
) -> Encoder:
    """An encoder of any function; `load` is given the function again.

    Args:
        apply: f, (params, x [n, ...]) -> [n, d], each row by itself.
        params: any pytree of arrays; it is saved.
        mean: as in `encoder`.
        scale: as in `encoder`.
        clip: as in `encoder`.

    Example:
        >>> own_encoder(lambda params, x: x @ params, jnp.ones((3, 2))).name
        'own'
    """
    return Encoder(OWN, (), apply, _standardised(params, mean, scale, clip))


@cache  # one network per architecture, so that what is compiled for it serves every learner
def network(name: str, options: tuple[tuple[str, Any], ...]) -> Net:
    """The network of a registered architecture.

    Raises:
        ValueError: for an unknown name, or options that it does not have.
    """
    make = ENCODERS[known(name, ENCODERS, what="encoder")]
    try:
        return make(**dict(options))
    except TypeError as error:
        raise ValueError(f"the encoder {name!r} was given {dict(options)}: {error}") from error


def encode(apply: Apply, params: Params, x: Array) -> Array:
    """z [n, d] of examples x [n, ...]."""
    z = at_least_float32(apply(params["net"], x))
    z = (z - params["mean"]) / params["scale"]
    return jnp.clip(z, params["range"][0], params["range"][1])


def width_of(of: Encoder, shape: tuple[int, ...], dtype: str) -> int:
    """d, by tracing alone.

    Raises:
        ValueError: for an encoder that does not give [n, d] for examples of this shape.
    """
    one = jax.ShapeDtypeStruct((_PROBES, *shape), jnp.dtype(dtype))
    try:
        found = jax.eval_shape(of.apply, of.params["net"], one)
    except Exception as error:  # of any library
        raise ValueError(
            f"the encoder {of.name!r} does not take examples {list(shape)} of {dtype}: {error}"
        ) from error
    if len(found.shape) != 2 or found.shape[0] != _PROBES:
        raise ValueError(
            f"the encoder must return features [n, d], got {list(found.shape)} for n = {_PROBES}"
        )
    return found.shape[1]


def probe_batch(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Fixed random examples, whose features tell two encoders apart."""
    rng = np.random.default_rng(0)
    full = (_PROBES, *shape)
    if dtype == "uint8":
        return rng.integers(0, 256, full, dtype=np.uint8)
    return rng.standard_normal(full, dtype=np.float32)


def check_probe(found: np.ndarray, expected: np.ndarray, *, where: str) -> None:
    """Raise ValueError where an encoder gives other features than when its learner was taught."""
    far = float(np.linalg.norm(found - expected))
    norm = float(np.linalg.norm(expected))
    if not far <= _TOLERANCE * max(norm, 1e-30):
        raise ValueError(
            f"{where}: the encoder gives other features than when the learner was taught (a "
            f"difference of {far:.3g} on features of norm {norm:.3g}): give the same functions and "
            "parameters, or teach anew"
        )


def options_of(given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Options as JSON holds them, hashable."""
    return tuple(sorted((str(key), _hashable(value)) for key, value in given.items()))


def _standardised(params: Params, mean: ArrayLike | None, scale: float, clip: Span) -> Params:
    if not scale > 0:
        raise ValueError(f"scale must be above 0, got {scale}")
    zero = jnp.zeros(()) if mean is None else jnp.asarray(mean, jnp.float32)
    return {
        "net": params,
        "mean": zero[None] if zero.ndim == 1 else zero[None, None],
        "scale": jnp.full((), scale, jnp.float32),
        "range": jnp.array(clip, jnp.float32),
    }


def _hashable(value: Any) -> Any:
    return tuple(_hashable(part) for part in value) if isinstance(value, list | tuple) else value
