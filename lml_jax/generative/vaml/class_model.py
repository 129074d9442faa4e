"""VAML's model of images: its parameters, its objective, its samples and its logits."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.generative.conditioning import Codes, as_table, code_of_label, draw
from lml_jax.generative.examples import check, prepared
from lml_jax.generative.vaml import elbo, posterior
from lml_jax.generative.vaml.elbo import Noise, Parts
from lml_jax.generative.vaml.posterior import Posterior, Weights
from lml_jax.metrics import accuracy
from lml_jax.pixels import as_float, check_range
from lml_jax.types import Batch, Key, Metrics, Params, Task

SPAN = (0.0, 1.0)  # the range of images


class Model(NamedTuple):
    """The arguments of `images.vaml`, which documents them."""

    parts: Parts
    shape: tuple[int, ...]
    classes: int
    weights: Weights
    discriminative: float
    draws: int


def init(model: Model, key: Key, x: Array) -> Params:
    """New parameters for images like x [n, ...]; raises where the networks' widths do not fit."""
    keys = jax.random.split(key, 4)
    parts, p = model.parts, math.prod(model.shape)
    x = images(model, x[:1])
    params = {"code_encoder": parts.code_encoder.init(keys[0], x)}
    d = jax.eval_shape(parts.code_encoder.apply, params["code_encoder"], x).shape[1] // 2
    pair = jnp.zeros((1, p + d))
    params["latent_encoder"] = parts.latent_encoder.init(keys[1], pair)
    z = _latent_width(parts, params, p + d)
    params["decoder"] = parts.decoder.init(keys[2], jnp.zeros((1, z + d)))
    made = jax.eval_shape(parts.decoder.apply, params["decoder"], jnp.zeros((1, z + d))).shape[1]
    if made != p:
        raise ValueError(
            f"the decoder makes {made} pixels, expected {p} for images of {model.shape}"
        )
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
    """The class codes once `support` is seen, continuing from `fast`; see `images.vaml`."""
    fast = posterior.prior(params["prior"], model.classes) if fast is None else fast
    support = prepare(model, support)
    if support.x.shape[0] == 0:  # a network need not accept an empty batch
        return fast
    factors = model.parts.code_encoder.apply(params["code_encoder"], support.x)
    return posterior.update(fast, factors, membership(model, support))


def objective(model: Model, params: Params, task: Task, key: Key) -> tuple[Array, Metrics]:
    """The loss of one task, per query image; see `images.vaml`."""
    key_h, key_z, key_class = jax.random.split(key, 3)
    support, query = (prepare(model, part) for part in (task.support, task.query))
    both = Batch(*(jnp.concatenate(pair) for pair in zip(support[:2], query[:2], strict=True)))
    n = support.x.shape[0]
    factors = model.parts.code_encoder.apply(params["code_encoder"], both.x)
    first = posterior.prior(params["prior"], model.classes)
    start = posterior.update(first, factors[:n], membership(model, support))
    full = posterior.update(start, factors[n:], membership(model, query))
    h = posterior.draw(full, jax.random.normal(key_h, full.mean.shape))
    # The support set is decoded only where it has a weight.
    counted = losses.labelled(query)
    at, weight = n, counted
    if model.weights.support:
        at, weight = 0, jnp.concatenate([model.weights.support * losses.labelled(support), weight])
    eps = noise(model, params, key_z, both.x.shape[0] - at).z
    own = code_of_label(h, both.y[at:])
    bound, kl = elbo.image_bound(model.parts, params, flat(both.x[at:]), own, eps)
    mass = jnp.maximum(counted.sum(), 1.0)
    bounds = jnp.where(weight > 0, bound, 0.0) @ weight
    value = (posterior.penalty(full, start, first, model.weights) - bounds) / mass
    shown = {
        "bound": losses.weighted_mean(bound[n - at :], counted),
        "kl_latent": losses.weighted_mean(kl[n - at :], counted),
        "kl_code": posterior.divergence(full, start).sum() / mass,
    }
    if model.discriminative:
        logits = class_logits(model, params, start, query.x, factors[n:], key_class)
        logits = losses.mask_logits(logits, full.seen > 0)
        missed = losses.cross_entropy(logits, query.y)
        missed = losses.weighted_mean(missed, counted)
        value = value + model.discriminative * missed
        shown["cross_entropy"] = missed
        shown["accuracy"] = accuracy(logits, query.y, weight=counted)
    return value, {"loss": value, **shown}


def stored(code: Posterior, present: Array) -> Codes:
    """Codes as they are stored: mean and log precision [C, 2d], of the classes `present` [C]."""
    return Codes(jnp.concatenate([code.mean, jnp.log(code.precision)], axis=1), present)


def drawn_code(rows: Array, key: Key) -> Array:
    """h [n, d] ~ N(mean, 1/precision) of stored codes [n, 2d], see `stored`."""
    mean, log_precision = jnp.split(rows, 2, axis=1)
    return mean + jax.random.normal(key, mean.shape) * jnp.exp(-log_precision / 2)


def decode(model: Model, params: Params, z: Array, h: Array) -> Array:
    """Logits of the pixels, [n, p]."""
    return model.parts.decoder.apply(params["decoder"], jnp.concatenate([z, h], axis=1))


def sample(model: Model, params: Params, codes: Codes, key: Key, *, n: int) -> Batch:
    """n images of the classes of a table [T, C], or of one task's codes [C], with their labels.

    Each task has the same probability, then each of its classes; see `conditioning.draw`. Where
    there is no class, y = -1 and the weight is 0.
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
    """The logits that are trained: bounds on log p(x|S_c) at one draw, or those of the head."""
    if model.parts.head is not None:
        eps = jax.random.normal(key, (model.draws, x.shape[0], model.classes))
        return elbo.log_mean_softmax(head_logits(model, params, fast, factors, eps))
    drawn = noise(model, params, key, x.shape[0])
    return elbo.class_bounds(model.parts, params, fast, flat(x), factors, drawn)


def head_logits(
    model: Model, params: Params, fast: Posterior, factors: Array, noise: Array
) -> Array:
    """The head's logits [draws, n, C] for standard normal noise [draws, n or 1, C]."""
    m = jnp.split(factors, 2, axis=1)[0]
    return jax.vmap(lambda eps: elbo.head_logits(model.parts, params, fast, m, eps))(noise)


def noise(model: Model, params: Params, key: Key, n: int) -> Noise:
    """n draws of standard normal numbers, h [n, d] and z [n, z]."""
    d = params["prior"]["mean"].shape[0]
    z = _latent_width(model.parts, params, math.prod(model.shape) + d)
    key_h, key_z = jax.random.split(key)
    return Noise(jax.random.normal(key_h, (n, d)), jax.random.normal(key_z, (n, z)))


def membership(model: Model, batch: Batch) -> Array:
    """Weight [n, C] of each image in each class; 0 for an unlabelled one."""
    return jax.nn.one_hot(batch.y, model.classes) * losses.labelled(batch)[:, None]


def flat(x: Array) -> Array:
    """Images as rows, [n, p]."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def images(model: Model, x: Array) -> Array:
    """`x` as floats in 0..1; raises ValueError for other shapes, types or ranges."""
    x = jnp.asarray(x)
    _check_shape(model, x)
    check_range(x, SPAN)
    return as_float(x)


def prepare(model: Model, batch: Batch) -> Batch:
    """Labelled images with int32 labels and without values in padding; see `prepared`."""
    _check_shape(model, jnp.asarray(batch.x))
    return prepared(batch, classes=model.classes, span=SPAN)


def check_tasks(model: Model, tasks: Task) -> None:
    """Raise as `prepare` does for a meta-batch; inside the vmap over tasks no value is known."""
    for part in (tasks.support, tasks.query):
        check(part, classes=model.classes, span=SPAN, axes=2)


def _check_shape(model: Model, x: Array) -> None:
    if x.shape[1:] != model.shape:
        raise ValueError(f"images have shape {x.shape[1:]}, declared was {model.shape}")


def _latent_width(parts: Parts, params: Params, inputs: int) -> int:
    pair = jnp.zeros((1, inputs))
    made = jax.eval_shape(parts.latent_encoder.apply, params["latent_encoder"], pair)
    return made.shape[1] // 2
