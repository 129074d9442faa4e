"""The model behind VAML on images: its networks, its parameters, and what goes in and out."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.generative.conditioning import Codes, as_float, as_table, check_range, draw
from lml_jax.generative.vaml import elbo as evidence
from lml_jax.generative.vaml import posterior
from lml_jax.generative.vaml.elbo import Noise, Parts
from lml_jax.generative.vaml.posterior import Posterior, Weights
from lml_jax.metrics import accuracy
from lml_jax.types import Batch, Key, Metrics, Params, Task


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


def adapt(
    model: Model,
    params: Params,
    support: Batch,
    key: Key,
    fast: Posterior | None = None,
    labels: Array | None = None,
) -> Posterior:
    """The class codes once `support` is seen, going on from `fast`; see `vaml`."""
    fast = posterior.prior(params["prior"], model.classes) if fast is None else fast
    x = images(model, support.x)
    if x.shape[0] == 0:  # a network need not take no image
        return fast
    factors = model.parts.encode.apply(params["encode"], x)
    return posterior.update(fast, factors, membership(model, support))


def objective(model: Model, params: Params, task: Task, key: Key) -> tuple[Array, Metrics]:
    """What one task makes the parameters descend, for each query image; see `vaml`."""
    key_h, key_z, key_class = jax.random.split(key, 3)
    support, query = (part._replace(x=images(model, part.x)) for part in (task.support, task.query))
    both = Batch(*(jnp.concatenate(pair) for pair in zip(support[:2], query[:2], strict=True)))
    n = support.x.shape[0]
    factors = model.parts.encode.apply(params["encode"], both.x)
    first = posterior.prior(params["prior"], model.classes)
    start = posterior.update(first, factors[:n], membership(model, support))
    full = posterior.update(start, factors[n:], membership(model, query))
    h = posterior.draw(full, jax.random.normal(key_h, full.mean.shape))
    # The support set is decoded only where it counts.
    at, weight = n, losses.labelled(query)
    if model.weights.support:
        at, weight = 0, jnp.concatenate([model.weights.support * losses.labelled(support), weight])
    eps = noise(model, params, key_z, both.x.shape[0] - at).z
    own = h[jnp.maximum(both.y[at:], 0)]
    bound, kl = evidence.image_bound(model.parts, params, flat(both.x[at:]), own, eps)
    mass = jnp.maximum(losses.labelled(query).sum(), 1.0)
    value = (posterior.penalty(full, start, first, model.weights) - bound @ weight) / mass
    shown = {
        "bound": losses.weighted_mean(bound[n - at :], losses.labelled(query)),
        "kl_latent": losses.weighted_mean(kl[n - at :], losses.labelled(query)),
        "kl_code": posterior.divergence(full, start).sum() / mass,
    }
    if model.discriminative:
        logits = class_logits(model, params, start, query.x, factors[n:], key_class)
        logits = losses.mask_logits(logits, full.seen > 0)
        missed = losses.cross_entropy(logits, query.y)
        missed = losses.weighted_mean(missed, losses.labelled(query))
        value = value + model.discriminative * missed
        shown["cross_entropy"] = missed
        shown["accuracy"] = accuracy(logits, query.y, weight=losses.labelled(query))
    return value, {"loss": value, **shown}


def stored(code: Posterior, there: Array) -> Codes:
    """What is kept of codes: mean and log precision side by side [C, 2d], of those `there` [C]."""
    return Codes(jnp.concatenate([code.mean, jnp.log(code.precision)], axis=1), there)


def drawn_code(kept: Array, key: Key) -> Array:
    """h ~ N(mean, 1/precision) of each kept code [n, 2d], as `stored` lays them out: [n, d]."""
    mean, log_precision = jnp.split(kept, 2, axis=1)
    return mean + jax.random.normal(key, mean.shape) * jnp.exp(-log_precision / 2)


def decode(model: Model, params: Params, z: Array, h: Array) -> Array:
    """Logits of the pixels, [n, p]."""
    return model.parts.decode.apply(params["decode"], jnp.concatenate([z, h], axis=1))


def sample(model: Model, params: Params, codes: Codes, key: Key, *, n: int) -> Batch:
    """n images: every task there as likely, every class within it, and its label; see `codes.draw`.

    Of a table [T, C], or the codes [C] of one task. Where nothing is there y = -1, and weight 0.
    """
    table = codes if codes.mask.ndim == 2 else as_table(codes)
    key_draw, key_h, key_z = jax.random.split(key, 3)
    drawn = draw(table, key_draw, n=n)
    z = noise(model, params, key_z, n).z
    logits = decode(model, params, z, drawn_code(drawn.h, key_h))
    return Batch(
        jax.nn.sigmoid(logits).reshape(n, *model.shape),
        jnp.where(drawn.valid, drawn.y, -1),
        drawn.valid.astype(logits.dtype),
    )


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
    pair = jnp.zeros((1, math.prod(model.shape) + d))
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
    x = jnp.asarray(x)
    if x.shape[1:] != model.shape:
        raise ValueError(f"images have shape {x.shape[1:]}, declared was {model.shape}")
    check_range(x, (0.0, 1.0))
    return as_float(x)
