"""VAML, a variational amortised meta-learner, on images: a Gaussian code of each class."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, nets, train
from lml_jax.concrete import concrete
from lml_jax.generative import class_model, evidence, posterior
from lml_jax.generative.class_model import Model
from lml_jax.generative.evidence import Noise, Parts
from lml_jax.generative.posterior import QUERY_BOUND, Posterior, Weights
from lml_jax.metrics import accuracy
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.types import Batch, Generator, Key, Learner, Loss, Metrics, Net, Params, Task


def vaml(
    parts: Parts,
    tx: optax.GradientTransformation,
    *,
    shape: Sequence[int],
    classes: int,
    weights: Weights = QUERY_BOUND,
    discriminative: float = 0.0,
    draws: int = 4,
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> tuple[Learner, Generator]:
    """A code h_c of each class explains its images; one forward pass infers it from a few of them.

    (m_k, log l_k) = e(x_k);  q(h_c|S_c) = N(mu_c, 1/L_c), L_c = l_0 + sum l_k,
    mu_c = (l_0 m_0 + sum l_k m_k) / L_c over class c;  p(x|z, h_c) Bernoulli, z ~ N(0, 1), and
    log p(x|h) >= b(x, h) = E_q(z|x,h) log p(x|z, h) - KL(q(z|x,h) || N(0, 1)).

    It ascends the objective of `posterior.Weights`, with b in place of log p and a sum over
    classes, for each query image, plus `discriminative` x log p(y|x, S). Two classifiers, p(c|x, S)
    the softmax over c of: the evidence, B_c = E_q(h|S_c,x) b(x, h) - KL(q(h|S_c,x) || q(h|S_c)),
    a bound on log p(x|S_c); or the logits of `parts.head`, weights inferred from each code.

    The parameters are {"encode", "recognise", "decode", "prior", and "head" where there is one};
    `fast` and a code are a `Posterior` of C classes. Going on from one equals adapting on
    everything at once; a class with no example has the prior's code and a finite logit.

    Args:
        parts: the networks, for instance from `mlp_parts`.
        tx: the update rule.
        shape: of an image, (H, W) or (H, W, channels); uint8, or floats in [0, 1].
        classes: C.
        weights: of the terms of the objective.
        discriminative: weight of log p(y|x, S), over the classes that occur in the task.
        draws: `predict` averages over so many draws of h and z (or weights), always the same.
        reduce: as in `train.make_train_step`.

    Returns:
        A `Learner`, whose logits are B [n, C] in nats (or log probabilities of the head), and a
        `Generator` over the same parameters, whose state is a `TrainState` and whose samples are
        means of pixels [n, *shape] in [0, 1], with the labels of the classes the code has seen,
        equally often. Metrics: `loss`, `bound` (b of a query image), `kl_code` and `kl_latent` in
        nats, and with a discriminative weight `cross_entropy` and `accuracy`.

    Raises:
        ValueError: for numbers out of range, a head that nothing trains, or networks of widths
            that do not fit; images outside the declared shape or range; in `sample`, for n < 1 or
            a code that has seen no class. Values are checked outside jit only; inside it, samples
            without a class have y = -1 and weight 0.

    Example:
        >>> parts = mlp_parts(nets.mlp([32], 16), pixels=64, latent=4, hidden=[32])
        >>> learner, generator = vaml(parts, optax.adam(1e-3), shape=(8, 8), classes=3)
        >>> support = Batch(jnp.zeros((2, 8, 8), jnp.uint8), jnp.array([0, 2]))
        >>> state = generator.init(jax.random.key(0), support.x)
        >>> code = generator.encode(state, support, jax.random.key(1))
        >>> generator.sample(state, code, jax.random.key(2), n=4).y.tolist()
        [0, 0, 2, 2]

    Source:
        Ours; "VAML" is no published method. Nearest: Edwards, Storkey. Towards a Neural
        Statistician, 2017 (the code of a set, and images given it); Lee, Jeon, Son, Kim. Learning
        to Continually Learn with the Bayesian Principle, 2024 (the conjugate update); Gordon,
        Bronskill, Bauer, Nowozin, Turner. Meta-Learning Probabilistic Inference for Prediction,
        2019 (the head).
    """
    _check(parts, classes, discriminative, draws)
    posterior.check_weights(weights)
    model = Model(parts, tuple(shape), classes, weights, float(discriminative), draws)
    learner = Learner(
        partial(class_model.init, model), partial(_adapt, model), partial(_predict, model)
    )
    return learner, Generator(
        init=lambda key, x_example: train.init_state(class_model.init(model, key, x_example), tx),
        encode=lambda state, support, key: _adapt(model, state.params, support, key),
        step=train.make_train_step(partial(_loss, model), tx, reduce=reduce),
        sample=partial(_sample, model),
    )


def mlp_parts(
    encode: Net,
    *,
    pixels: int,
    latent: int = 24,
    hidden: Sequence[int] = (400, 400),
    head: Net | None = None,
) -> Parts:
    """`Parts` with perceptrons for q(z|x, h) and p(x|z, h).

    Args:
        encode: x -> (m, log l) [n, 2d], such as `nets.mlp([400, 400], 2 * d)` or
            `nets.conv4(2 * d, norm="group")`.
        pixels: p, numbers in an image.
        latent: length of z.
        hidden: widths of the hidden layers of both.
        head: of the amortised classifier, such as `nets.mlp([128], 2 * (d + 1))`.

    Example:
        >>> mlp_parts(nets.mlp([32], 16), pixels=784).head is None
        True
    """
    return Parts(encode, nets.mlp(hidden, 2 * latent), nets.mlp(hidden, pixels), head)


def _check(parts: Parts, classes: int, discriminative: float, draws: int) -> None:
    if classes < 1 or draws < 1 or discriminative < 0:
        raise ValueError(
            "classes and draws must be at least 1 and discriminative at least 0, got "
            f"{classes}, {draws} and {discriminative}"
        )
    if parts.head is not None and discriminative == 0:
        raise ValueError("nothing would train the head: discriminative must be above 0, got 0")


def _adapt(
    model: Model,
    params: Params,
    support: Batch,
    key: Key,
    fast: Posterior | None = None,
    keep: Array | None = None,
) -> Posterior:
    fast = posterior.prior(params["prior"], model.classes) if fast is None else fast
    x = class_model.images(model, support.x)
    if x.shape[0] == 0:  # a network need not take no image
        return fast
    factors = model.parts.encode.apply(params["encode"], x)
    return posterior.update(fast, factors, class_model.membership(model, support))


def _predict(model: Model, params: Params, fast: Posterior, x: Array) -> Array:
    x = class_model.images(model, x)
    factors = model.parts.encode.apply(params["encode"], x)
    # A constant key: what is predicted is a function of the posterior alone.
    key = jax.random.key(0)
    if model.parts.head is not None:
        return evidence.log_mean_softmax(class_model.head_logits(model, params, fast, factors, key))

    def at(noise: Noise) -> Array:
        return evidence.class_bounds(model.parts, params, fast, class_model.flat(x), factors, noise)

    # One draw after the other: each is n x C images large.
    return jax.lax.map(at, class_model.noise(model, params, key, model.draws)).mean(0)


def _loss(model: Model, params: Params, task: Task, key: Key) -> tuple[Array, Metrics]:
    key_h, key_z, key_class = jax.random.split(key, 3)
    support, query = (
        part._replace(x=class_model.images(model, part.x)) for part in (task.support, task.query)
    )
    both = Batch(*(jnp.concatenate(pair) for pair in zip(support[:2], query[:2], strict=True)))
    n = support.x.shape[0]
    factors = model.parts.encode.apply(params["encode"], both.x)
    first = posterior.prior(params["prior"], model.classes)
    start = posterior.update(first, factors[:n], class_model.membership(model, support))
    full = posterior.update(start, factors[n:], class_model.membership(model, query))
    h = posterior.draw(full, jax.random.normal(key_h, full.mean.shape))
    # The support set is decoded only where it counts.
    at, weight = n, losses.labelled(query)
    if model.weights.support:
        at, weight = 0, jnp.concatenate([model.weights.support * losses.labelled(support), weight])
    noise = class_model.noise(model, params, key_z, both.x.shape[0] - at).z
    own = h[jnp.maximum(both.y[at:], 0)]
    bound, kl = evidence.image_bound(model.parts, params, class_model.flat(both.x[at:]), own, noise)
    mass = jnp.maximum(losses.labelled(query).sum(), 1.0)
    value = (posterior.penalty(full, start, first, model.weights) - bound @ weight) / mass
    shown = {
        "bound": losses.weighted_mean(bound, weight),
        "kl_latent": losses.weighted_mean(kl, weight),
        "kl_code": posterior.divergence(full, start).sum() / mass,
    }
    if model.discriminative:
        logits = class_model.class_logits(model, params, start, query.x, factors[n:], key_class)
        logits = losses.mask_logits(logits, full.seen > 0)
        missed = losses.cross_entropy(logits, query.y)
        missed = losses.weighted_mean(missed, losses.labelled(query))
        value = value + model.discriminative * missed
        shown["cross_entropy"] = missed
        shown["accuracy"] = accuracy(logits, query.y, weight=losses.labelled(query))
    return value, {"loss": value, **shown}


def _sample(model: Model, state: train.TrainState, code: Posterior, key: Key, *, n: int) -> Batch:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    known_now = concrete(code.seen)
    if known_now is not None and not (known_now[0] > 0).any():
        raise ValueError("the code has seen no class: its weights are all 0")
    key_class, key_h, key_z = jax.random.split(key, 3)
    # Classes that were seen come first, and each comes n / their number times, rounded.
    seen = code.seen > 0
    order, number = jnp.argsort(~seen, stable=True), seen.sum()
    level = (jnp.arange(n) + jax.random.uniform(key_class)) / n * number
    y = order[jnp.minimum(level.astype(jnp.int32), jnp.maximum(number - 1, 0))]
    each = jax.tree.map(lambda leaf: leaf[y], code)
    h = posterior.draw(each, jax.random.normal(key_h, each.mean.shape))
    z = class_model.noise(model, state.params, key_z, n).z
    logits = model.parts.decode.apply(state.params["decode"], jnp.concatenate([z, h], axis=1))
    there = jnp.broadcast_to(number > 0, (n,))
    return Batch(
        jax.nn.sigmoid(logits).reshape(n, *model.shape),
        jnp.where(there, y, -1).astype(jnp.int32),
        there.astype(logits.dtype),
    )
