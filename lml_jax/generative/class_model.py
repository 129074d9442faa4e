"""The model behind VAML on images: its networks, its parameters, and what goes in and out."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.concrete import concrete
from lml_jax.generative import evidence, posterior
from lml_jax.generative.evidence import Noise, Parts
from lml_jax.generative.posterior import Posterior, Weights
from lml_jax.types import Batch, Key, Params


class Model(NamedTuple):
    """What `vaml` was called with."""

    parts: Parts
    shape: tuple[int, ...]
    classes: int
    weights: Weights
    discriminative: float
    draws: int


def init(model: Model, key: Key, x_example: Array) -> Params:
    """New parameters, once the widths of the networks are seen to fit; see `vaml`."""
    keys = jax.random.split(key, 4)
    parts, p = model.parts, math.prod(model.shape)
    x = images(model, x_example[:1])
    params = {"encode": parts.encode.init(keys[0], x)}
    d = jax.eval_shape(parts.encode.apply, params["encode"], x).shape[1] // 2
    pair = jnp.zeros((1, p + d))
    params["recognise"] = parts.recognise.init(keys[1], pair)
    z = jax.eval_shape(parts.recognise.apply, params["recognise"], pair).shape[1] // 2
    params["decode"] = parts.decode.init(keys[2], jnp.zeros((1, z + d)))
    made = jax.eval_shape(parts.decode.apply, params["decode"], jnp.zeros((1, z + d))).shape[1]
    if made != p:
        raise ValueError(f"decode makes {made} pixels, expected {p} for images of {model.shape}")
    params["prior"] = posterior.initial(d)
    if parts.head is not None:
        params["head"] = parts.head.init(keys[3], jnp.zeros((1, d)))
        wide = jax.eval_shape(parts.head.apply, params["head"], jnp.zeros((1, d))).shape[1]
        if wide != 2 * (d + 1):
            raise ValueError(f"the head makes {wide} numbers, expected 2 (d + 1) = {2 * (d + 1)}")
    return params


def class_logits(
    model: Model, params: Params, fast: Posterior, x: Array, factors: Array, key: Key
) -> Array:
    """What the loss of a classification is of: the bounds at one draw, or the head's."""
    if model.parts.head is not None:
        return evidence.log_mean_softmax(head_logits(model, params, fast, factors, key))
    drawn = noise(model, params, key, x.shape[0])
    return evidence.class_bounds(model.parts, params, fast, flat(x), factors, drawn)


def head_logits(model: Model, params: Params, fast: Posterior, factors: Array, key: Key) -> Array:
    """The head's logits at each draw of its weights, [draws, n, C]."""
    m = jnp.split(factors, 2, axis=1)[0]
    drawn = jax.random.normal(key, (model.draws, m.shape[0], model.classes))
    return jax.vmap(lambda eps: evidence.head_logits(model.parts, params, fast, m, eps))(drawn)


def noise(model: Model, params: Params, key: Key, n: int) -> Noise:
    """n draws of standard normal numbers, h [n, d] and z [n, z]."""
    d = params["prior"]["mean"].shape[0]
    pair = jax.ShapeDtypeStruct((1, math.prod(model.shape) + d), float)
    z = jax.eval_shape(model.parts.recognise.apply, params["recognise"], pair).shape[1] // 2
    key_h, key_z = jax.random.split(key)
    return Noise(jax.random.normal(key_h, (n, d)), jax.random.normal(key_z, (n, z)))


def membership(model: Model, batch: Batch) -> Array:
    """Weight [n, C] of each image in each class; none of an unlabelled one."""
    return jax.nn.one_hot(batch.y, model.classes) * losses.labelled(batch)[:, None]


def flat(x: Array) -> Array:
    """Images as rows, [n, p]."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def images(model: Model, x: Array) -> Array:
    """`x` as floats in [0, 1], or a ValueError that names what is not as declared."""
    known_now = concrete(x)
    x = jnp.asarray(x)
    if x.shape[1:] != model.shape:
        raise ValueError(f"images have shape {x.shape[1:]}, declared was {model.shape}")
    if x.dtype == jnp.uint8:
        return x.astype(float) / 255
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"expected images of uint8 or floats in [0, 1], got {x.dtype.name}")
    if x.size and known_now is not None:
        low, high = float(known_now[0].min()), float(known_now[0].max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images are in {low:g}..{high:g}, expected 0..1, or uint8")
    return x
