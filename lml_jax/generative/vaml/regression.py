"""VAML, a variational amortised meta-learner, for regression: a Gaussian code of each task."""

# ruff: noqa: D102 - the docstring of a function type is that of its Protocol

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.generative.vaml import posterior
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


class Inputs(Protocol):
    """Inputs x [n, p] at which the generator draws points."""

    def __call__(self, key: Key, n: int, /) -> Array: ...


class _Model(NamedTuple):
    """The arguments of `vaml_regression`, which documents them."""

    encode: Net
    decode: Net
    outputs: int
    weights: Weights
    draws: int
    inputs: Inputs | None


def vaml_regression(
    encode: Net,
    decode: Net,
    tx: optax.GradientTransformation,
    *,
    outputs: int = 1,
    weights: Weights = QUERY_BOUND,
    draws: int = 16,
    inputs: Inputs | None = None,
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> tuple[Learner, TaskGenerator]:
    """A latent code h of a task, inferred from a few of its points by one forward pass.

    Each point gives a Gaussian factor (m_k, log l_k) = e(x_k, y_k); q(h|S) = N(mu, 1/L) with
    L = l_0 + sum_k l_k, mu = (l_0 m_0 + sum_k l_k m_k) / L; p(y|x, h) = N(f(x, h), s^2), s learned.

    The objective is that of `posterior.Weights`, per query point.

    Args:
        encode: e, x and y side by side, [n, p + outputs] -> [n, 2d]; of each point alone.
        decode: f, x and h side by side, [n, p + d] -> [n, outputs].
        tx: the optimiser.
        outputs: length of y, >= 1.
        weights: of the terms of the objective.
        draws: `predict` averages f over this many draws of h from q(h|S), the same at each call;
            >= 1.
        inputs: where the generator draws x from; None: it cannot sample.
        reduce: as in `train.make_train_step`.

    Returns:
        A `Learner`, whose `predict` gives E f(x, h) [n, outputs], and a `TaskGenerator` over the
        same parameters, {"encode", "decode", "prior": m_0 and log l_0, "log_scale": log s}. `fast`
        and a code are a `Posterior`; continuing from one equals adapting on all points at once.
        The generator's state is a `TrainState`. Metrics: `loss`, `nll` (per query point, at a draw
        of q(h|S,Q)), `kl` (of q(h|S,Q) from q(h|S), in nats), `scale` (s) and `bad_step`.

    Raises:
        ValueError: for draws or outputs below 1, or a negative weight; for points of another
            shape than x [n, p] and y [n, outputs]; in `sample`, for n < 1 or where there are no
            `inputs`.

    Example:
        >>> from lml_jax import nets
        >>> learner, generator = vaml_regression(
        ...     nets.mlp([32], 16), nets.mlp([32], 1), optax.adam(1e-3))
        >>> x = jnp.zeros((5, 1))
        >>> params = learner.init(jax.random.key(0), x)
        >>> fast = learner.adapt(params, Batch(x, x), jax.random.key(1))
        >>> fast.mean.shape, learner.predict(params, fast, x).shape
        ((8,), (5, 1))

    Source:
        Ours; "VAML" is no published method. Nearest: Edwards, Storkey. Towards a Neural
        Statistician, 2017, https://arxiv.org/abs/1606.02185 (a code of a set); Lee, Jeon, Son,
        Kim. Learning to Continually Learn with the Bayesian Principle, 2024,
        https://arxiv.org/abs/2405.18758 (the conjugate update).
    """
    if draws < 1 or outputs < 1:
        raise ValueError(f"draws and outputs must be at least 1, got {draws} and {outputs}")
    posterior.check_weights(weights)

    model = _Model(encode, decode, outputs, weights, draws, inputs)
    step = train.make_train_step(partial(_loss, model), tx, reduce=reduce)
    learner = Learner(partial(_init, model), partial(_adapt, model), partial(_predict, model))
    return learner, TaskGenerator(
        init=lambda key, x: train.init_state(_init(model, key, x), tx),
        step=partial(_step, step),
        encode=lambda state, support, key: _adapt(model, state.params, support, key),
        sample=partial(_sample, model),
    )


def _step(
    train_step: train.Step, state: TrainState, tasks: Task, key: Key
) -> tuple[TrainState, Metrics]:
    state, shown = train_step(state, tasks, key)
    return state, {**shown, "bad_step": state.bad_step}


def _points(model: _Model, batch: Batch) -> Batch:
    """The batch, whose padding becomes copies of a real point; see `losses.fill_padding`."""
    x, y = jnp.asarray(batch.x), jnp.asarray(batch.y)
    if x.ndim != 2 or y.shape != (x.shape[0], model.outputs):
        raise ValueError(
            f"expected points x [n, p] and y [n, {model.outputs}], got {x.shape} and {y.shape}"
        )
    return losses.fill_padding(Batch(x, y, batch.weight))


def _init(model: _Model, key: Key, x: Array) -> Params:
    key_encode, key_decode = jax.random.split(key)
    pairs = jnp.zeros((1, x.shape[1] + model.outputs))
    encoder = model.encode.init(key_encode, pairs)
    d = jax.eval_shape(model.encode.apply, encoder, pairs).shape[1] // 2
    return {
        "encode": encoder,
        "decode": model.decode.init(key_decode, jnp.zeros((1, x.shape[1] + d))),
        "prior": posterior.initial(d),
        "log_scale": jnp.zeros(()),
    }


def _adapt(
    model: _Model,
    params: Params,
    support: Batch,
    key: Key,
    fast: Posterior | None = None,
    labels: Array | None = None,
) -> Posterior:
    fast = posterior.prior(params["prior"]) if fast is None else fast
    support = _points(model, support)
    if support.x.shape[0] == 0:  # a network need not accept an empty batch
        return fast
    factors = model.encode.apply(params["encode"], jnp.concatenate(support[:2], axis=1))
    return posterior.update(fast, factors, losses.labelled(support))


def _predict(model: _Model, params: Params, fast: Posterior, x: Array) -> Array:
    # A constant key: a prediction is a function of the posterior alone.
    noise = jax.random.normal(jax.random.key(0), (model.draws, *fast.mean.shape))
    return _at_draws(model.decode, params, fast, x, noise).mean(0)


def _loss(model: _Model, params: Params, task: Task, key: Key) -> tuple[Array, Metrics]:
    start = _adapt(model, params, task.support, key)
    full = _adapt(model, params, task.query, key, start)
    h = posterior.draw(full, jax.random.normal(key, full.mean.shape))

    def nll(part: Batch) -> Array:
        part = _points(model, part)
        mean = _decoded(model.decode, params, h, part.x)
        each = losses.gaussian_nll(mean, params["log_scale"], part.y)
        return jnp.sum(each * losses.labelled(part))

    first, of_query = posterior.prior(params["prior"]), nll(task.query)
    value = of_query + posterior.penalty(full, start, first, model.weights)
    if model.weights.support:
        value = value + model.weights.support * nll(task.support)
    n = jnp.maximum(losses.labelled(task.query).sum(), 1.0)
    return value / n, {
        "loss": value / n,
        "nll": of_query / n,
        "kl": posterior.divergence(full, start),
        "scale": jnp.exp(params["log_scale"]),
    }


def _sample(model: _Model, state: TrainState, code: Posterior, key: Key, *, n: int) -> Batch:
    """n points of the task: x from `inputs`, y ~ p(y|x, h) for one h of the code."""
    if model.inputs is None or n < 1:
        raise ValueError(f"expected inputs to draw x from, and n >= 1; got {model.inputs} and {n}")
    key_x, key_h, key_y = jax.random.split(key, 3)
    x, h = model.inputs(key_x, n), posterior.draw(code, jax.random.normal(key_h, code.mean.shape))
    mean = _decoded(model.decode, state.params, h, x)
    noise = jnp.exp(state.params["log_scale"]) * jax.random.normal(key_y, mean.shape)
    return Batch(x, mean + noise)


def _decoded(decode: Net, params: Params, h: Array, x: Array) -> Array:
    wide = jnp.broadcast_to(h, (x.shape[0], *h.shape))
    return decode.apply(params["decode"], jnp.concatenate([x, wide], axis=1))


def _at_draws(decode: Net, params: Params, fast: Posterior, x: Array, noise: Array) -> Array:
    """f(x, h) [draws, n, outputs] at h = mean + noise / sqrt(precision)."""
    return jax.vmap(lambda eps: _decoded(decode, params, posterior.draw(fast, eps), x))(noise)
