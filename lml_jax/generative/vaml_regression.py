"""VAML, a variational amortised meta-learner, for regression: a Gaussian code of each task."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.generative import posterior
from lml_jax.generative.posterior import QUERY_BOUND, Posterior, Weights
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.types import Batch, Generator, Key, Learner, Loss, Metrics, Net, Params, Task

Inputs = Callable[[Key, int], Array]  # (key, n) -> x [n, p]


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
) -> tuple[Learner, Generator]:
    """A code h of the task explains its points; one forward pass infers it from a few of them.

    (m_k, log l_k) = e(x_k, y_k);  q(h|S) = N(mu, 1/L), L = l_0 + sum l_k,
    mu = (l_0 m_0 + sum l_k m_k) / L;  p(y|x, h) = N(f(x, h), s^2), s learned.

    The objective is that of `posterior.Weights`, for each query point. The parameters are
    {"encode", "decode", "prior": m_0 and log l_0, "log_scale": log s}; `fast` and a code are a
    `Posterior`, and going on from one equals adapting on everything at once.

    Args:
        encode: e, [n, p + outputs] -> [n, 2d]; of each point alone.
        decode: f, (x, h) side by side, [n, p + d] -> [n, outputs].
        tx: the update rule.
        outputs: length of y.
        weights: of the terms of the objective.
        draws: `predict` is the mean of f over so many h of q(h|S), the same at each call.
        inputs: where the generator draws x from; None: it cannot sample.
        reduce: as in `train.make_train_step`.

    Returns:
        A `Learner`, whose `predict` gives E f(x, h) [n, outputs], and a `Generator` over the same
        parameters, whose state is a `TrainState`. Metrics: `loss`, `nll` (of a query point at a
        draw of q(h|S,Q)), `kl` (of q(h|S,Q) from q(h|S), in nats) and `scale` (s).

    Raises:
        ValueError: for draws or outputs below 1, or a negative weight; in `sample`, for n < 1 or
            where there are no `inputs`.

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
        Statistician, 2017 (a code of a set); Lee, Jeon, Son, Kim. Learning to Continually Learn
        with the Bayesian Principle, 2024 (the conjugate update).
    """
    if draws < 1 or outputs < 1:
        raise ValueError(f"draws and outputs must be at least 1, got {draws} and {outputs}")
    posterior.check_weights(weights)

    def init(key: Key, x_example: Array) -> Params:
        key_encode, key_decode = jax.random.split(key)
        pairs = jnp.zeros((1, x_example.shape[1] + outputs))
        encoder = encode.init(key_encode, pairs)
        d = jax.eval_shape(encode.apply, encoder, pairs).shape[1] // 2
        return {
            "encode": encoder,
            "decode": decode.init(key_decode, jnp.zeros((1, x_example.shape[1] + d))),
            "prior": posterior.initial(d),
            "log_scale": jnp.zeros(()),
        }

    def adapt(
        params: Params,
        support: Batch,
        key: Key,
        fast: Posterior | None = None,
        keep: Array | None = None,
    ) -> Posterior:
        fast = posterior.prior(params["prior"]) if fast is None else fast
        if support.x.shape[0] == 0:  # a network need not take no point
            return fast
        factors = encode.apply(params["encode"], jnp.concatenate(support[:2], axis=1))
        return posterior.update(fast, factors, losses.labelled(support))

    def predict(params: Params, fast: Posterior, x: Array) -> Array:
        # A constant key: what is predicted is a function of the posterior alone.
        noise = jax.random.normal(jax.random.key(0), (draws, *fast.mean.shape))
        return _at_draws(decode, params, fast, x, noise).mean(0)

    def loss(params: Params, task: Task, key: Key) -> tuple[Array, Metrics]:
        start = adapt(params, task.support, key)
        full = adapt(params, task.query, key, start)
        h = posterior.draw(full, jax.random.normal(key, full.mean.shape))

        def nll(part: Batch) -> Array:
            mean = _decoded(decode, params, h, part.x)
            return losses.gaussian_nll(mean, params["log_scale"], part.y) @ losses.labelled(part)

        first = posterior.prior(params["prior"])
        value = nll(task.query) + posterior.penalty(full, start, first, weights)
        value = value + weights.support * nll(task.support) if weights.support else value
        n = jnp.maximum(losses.labelled(task.query).sum(), 1.0)
        return value / n, {
            "loss": value / n,
            "nll": nll(task.query) / n,
            "kl": posterior.divergence(full, start),
            "scale": jnp.exp(params["log_scale"]),
        }

    def sample(state: train.TrainState, code: Posterior, key: Key, *, n: int) -> Batch:
        """n points of the task: x from `inputs`, y ~ p(y|x, h) for one h of the code."""
        if inputs is None or n < 1:
            raise ValueError(f"expected inputs to draw x from, and n >= 1; got {inputs} and {n}")
        key_x, key_h, key_y = jax.random.split(key, 3)
        x, h = inputs(key_x, n), posterior.draw(code, jax.random.normal(key_h, code.mean.shape))
        mean = _decoded(decode, state.params, h, x)
        noise = jnp.exp(state.params["log_scale"]) * jax.random.normal(key_y, mean.shape)
        return Batch(x, mean + noise)

    return Learner(init, adapt, predict), Generator(
        init=lambda key, x_example: train.init_state(init(key, x_example), tx),
        encode=lambda state, support, key: adapt(state.params, support, key),
        step=train.make_train_step(loss, tx, reduce=reduce),
        sample=sample,
    )


def predictive_nll(
    decode: Net, params: Params, fast: Posterior, query: Batch, key: Key, *, draws: int = 32
) -> Array:
    """-log mean_h p(y|x, h) of each point of `query`, h ~ q(h|S): [n], in nats.

    Raises:
        ValueError: for draws below 1.

    Example:
        >>> from lml_jax import nets
        >>> decode = nets.mlp([8], 1)
        >>> learner, _ = vaml_regression(nets.mlp([8], 4), decode, optax.adam(1e-3))
        >>> batch = Batch(jnp.zeros((3, 1)), jnp.zeros((3, 1)))
        >>> params = learner.init(jax.random.key(0), batch.x)
        >>> fast = learner.adapt(params, batch, jax.random.key(1))
        >>> predictive_nll(decode, params, fast, batch, jax.random.key(2)).shape
        (3,)
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    noise = jax.random.normal(key, (draws, *fast.mean.shape))
    means = _at_draws(decode, params, fast, query.x, noise)
    nll = jax.vmap(losses.gaussian_nll, (0, None, None))(means, params["log_scale"], query.y)
    return jnp.log(draws) - jax.nn.logsumexp(-nll, axis=0)


def _decoded(decode: Net, params: Params, h: Array, x: Array) -> Array:
    wide = jnp.broadcast_to(h, (x.shape[0], *h.shape))
    return decode.apply(params["decode"], jnp.concatenate([x, wide], axis=1))


def _at_draws(decode: Net, params: Params, fast: Posterior, x: Array, noise: Array) -> Array:
    """f(x, h) [draws, n, outputs] at h = mean + noise / sqrt(precision)."""
    return jax.vmap(lambda eps: _decoded(decode, params, posterior.draw(fast, eps), x))(noise)
