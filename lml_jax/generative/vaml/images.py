"""VAML, a variational amortised meta-learner, on images: a Gaussian code of each class."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import optax
from jax import Array

from lml_jax import nets, train
from lml_jax.checks import concrete, possible
from lml_jax.generative.conditioning import check_count
from lml_jax.generative.vaml import class_model, elbo, posterior
from lml_jax.generative.vaml.class_model import Model
from lml_jax.generative.vaml.elbo import Noise, Parts
from lml_jax.generative.vaml.posterior import QUERY_BOUND, Posterior, Weights
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.types import (
    Batch,
    Key,
    Learner,
    Loss,
    Metrics,
    Net,
    Params,
    Task,
    TaskGenerator,
    TrainState,
)


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
) -> tuple[Learner, TaskGenerator]:
    """A latent code h_c of each class, inferred from a few of its images by one forward pass.

    Each image gives a Gaussian factor (m_k, log l_k) = e(x_k); q(h_c|S_c) = N(mu_c, 1/L_c) with
    L_c = l_0 + sum_k l_k, mu_c = (l_0 m_0 + sum_k l_k m_k) / L_c over the images of class c.
    p(x|z, h_c) is Bernoulli, z ~ N(0, I), and
    log p(x|h) >= b(x, h) = E_q(z|x,h) log p(x|z, h) - KL(q(z|x,h) || N(0, I)).

    What is maximised is the objective of `posterior.Weights` with b in place of log p, summed over
    classes, per query image, plus `discriminative` x log p(y|x, S). There are two classifiers,
    p(c|x, S) the softmax over c of: the evidence lower bound
    B_c = E_q(h|S_c,x) b(x, h) - KL(q(h|S_c,x) || q(h|S_c)) <= log p(x|S_c); or the logits of
    `parts.head`, whose weights are inferred from each code.

    Args:
        parts: the networks, for instance from `mlp_parts`.
        tx: the optimiser.
        shape: of an image, (H, W) or (H, W, channels); uint8, or floats in 0..1.
        classes: C >= 1.
        weights: of the terms of the objective.
        discriminative: weight >= 0 of log p(y|x, S), over the classes that occur in the task.
        draws: `predict` averages over this many draws of h and z (or of the head's weights), the
            same at each call; >= 1.
        reduce: as in `train.make_train_step`.

    Returns:
        A `Learner`, whose logits are B [n, C] in nats (or log probabilities of the head), and a
        `TaskGenerator` over the same parameters, {"code_encoder", "latent_encoder", "decoder",
        "prior", and "head" where there is one}. `fast` and a code are a `Posterior` of C classes;
        continuing from one equals adapting on all examples at once; a class without examples has
        the prior's code and a finite logit. The generator's state is a `TrainState`; its samples
        are pixel means [n, *shape] in 0..1, with the labels of the classes that the code has seen,
        equally often. Metrics: `loss`, `bound` (b per query image), `kl_code` and `kl_latent` in
        nats, with a discriminative weight `cross_entropy` and `accuracy`, and `bad_step`.

    Raises:
        ValueError: for numbers out of range, a head that nothing trains, or networks whose widths
            do not fit; for images outside the declared shape or range, labels outside -1..C-1; in
            `sample`, for n < 1 or a code that has seen no class. Values are known outside jit
            only; inside it, samples without a class have y = -1 and weight 0.

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
        Statistician, 2017, https://arxiv.org/abs/1606.02185 (the code of a set, and images given
        it); Lee, Jeon, Son, Kim. Learning to Continually Learn with the Bayesian Principle, 2024,
        https://arxiv.org/abs/2405.18758 (the conjugate update); Gordon, Bronskill, Bauer, Nowozin,
        Turner. Meta-Learning Probabilistic Inference for Prediction, 2019,
        https://arxiv.org/abs/1805.09921 (the head).
    """
    _check(parts, classes, discriminative, draws)
    posterior.check_weights(weights)
    model = Model(parts, tuple(shape), classes, weights, float(discriminative), draws)
    step = train.make_train_step(partial(class_model.objective, model), tx, reduce=reduce)
    learner = Learner(
        partial(class_model.init, model),
        partial(class_model.adapt, model),
        partial(_predict, model),
    )
    return learner, TaskGenerator(
        init=lambda key, x: train.init_state(class_model.init(model, key, x), tx),
        step=partial(_step, model, step),
        encode=lambda state, support, key: class_model.adapt(model, state.params, support, key),
        sample=partial(_sample, model),
    )


def mlp_parts(
    code_encoder: Net,
    *,
    pixels: int,
    latent: int = 24,
    hidden: Sequence[int] = (400, 400),
    head: Net | None = None,
    reconstruction_weight: float = 1.0,
) -> Parts:
    """`Parts` with multi-layer perceptrons for q(z|x, h) and p(x|z, h).

    Args:
        code_encoder: x -> (m, log l) [n, 2d], such as `nets.mlp([400, 400], 2 * d)` or
            `nets.conv4(2 * d, norm="group")`.
        pixels: p, numbers in an image.
        latent: length of z.
        hidden: widths of the hidden layers of both.
        head: of the amortised classifier, such as `nets.mlp([128], 2 * (d + 1))`.
        reconstruction_weight: s > 0, the weight of log p(x|z, h); see `Parts`.

    Raises:
        ValueError: for a reconstruction weight that is not above 0.

    Example:
        >>> mlp_parts(nets.mlp([32], 16), pixels=784).head is None
        True
    """
    if not possible(lambda w: w > 0, reconstruction_weight):
        raise ValueError(f"reconstruction_weight must be above 0, got {reconstruction_weight}")
    latent_encoder, decoder = nets.mlp(hidden, 2 * latent), nets.mlp(hidden, pixels)
    return Parts(code_encoder, latent_encoder, decoder, head, reconstruction_weight)


def _check(parts: Parts, classes: int, discriminative: float, draws: int) -> None:
    if classes < 1 or draws < 1 or not discriminative >= 0:
        raise ValueError(
            "classes and draws must be at least 1 and discriminative at least 0, got "
            f"{classes}, {draws} and {discriminative}"
        )
    if parts.head is not None and discriminative == 0:
        raise ValueError("nothing would train the head: discriminative must be above 0, got 0")


def _step(
    model: Model, train_step: train.Step, state: TrainState, tasks: Task, key: Key
) -> tuple[TrainState, Metrics]:
    class_model.check_tasks(model, tasks)
    state, shown = train_step(state, tasks, key)
    return state, {**shown, "bad_step": state.bad_step}


def _predict(model: Model, params: Params, fast: Posterior, x: Array) -> Array:
    x = class_model.images(model, x)
    factors = model.parts.code_encoder.apply(params["code_encoder"], x)
    # A constant key: a prediction is a function of the posterior alone.
    key = jax.random.key(0)
    if model.parts.head is not None:
        # The same noise for every image: a prediction must not depend on the others of its batch.
        eps = jax.random.normal(key, (model.draws, 1, model.classes))
        return elbo.log_mean_softmax(class_model.head_logits(model, params, fast, factors, eps))

    def at(noise: Noise) -> Array:
        return elbo.class_bounds(model.parts, params, fast, class_model.flat(x), factors, noise)

    # One draw after the other: each is n x C images large.
    return jax.lax.map(at, class_model.noise(model, params, key, model.draws)).mean(0)


def _sample(model: Model, state: TrainState, code: Posterior, key: Key, *, n: int) -> Batch:
    check_count(n)
    known_now = concrete(code.seen)
    if known_now is not None and not (known_now[0] > 0).any():
        raise ValueError("the code has seen no class: its weights are all 0")
    seen = code.seen > 0
    return class_model.sample(model, state.params, class_model.stored(code, seen), key, n=n)
