"""Reptile: move the initialisation towards the adapted weights."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import inner, losses, updates
from lml_jax.checks import concrete, warn_of_statistics
from lml_jax.pixels import on_floats
from lml_jax.types import (
    Adapt,
    Batch,
    ExampleLoss,
    Key,
    Learner,
    Loss,
    Metrics,
    Net,
    Params,
    PyTree,
    Task,
)


def reptile(
    net: Net,
    tx: optax.GradientTransformation | optax.MultiSteps,
    *,
    steps: int,
    batch_size: int | None = None,
    loss: ExampleLoss = losses.cross_entropy,
    unroll: bool = False,
) -> Learner:
    """A learner adapted by `steps` updates of `tx`, each on a random batch of the support set.

    theta~ = U^k(theta), k = `steps`.

    Args:
        net: the network; the parameters are its own.
        tx: the inner update rule; the paper uses `optax.adam(1e-3, b1=0)`.
        steps: inner steps k, >= 0.
        batch_size: examples a step, drawn without replacement; None takes all of them.
        loss: of one example.
        unroll: a Python loop over inner steps; right for convolutions on CPU.

    Returns:
        A `Learner`. Train it with `make_train_step(surrogate(learner), optax.sgd(1.0))`.

    Raises:
        ValueError: for a negative number of steps, or a batch below 1 or above the support set; in
            `adapt`, where labels are known, for labels that the network has no output for. Inside
            jit the loss and its gradient are NaN then.

    Example:
        >>> from lml_jax import nets
        >>> learner = reptile(nets.mlp([40], 5), optax.adam(1e-3, b1=0.0), steps=5, batch_size=10)

    Source:
        A. Nichol, J. Achiam, J. Schulman, On First-Order Meta-Learning Algorithms, 2018,
        https://arxiv.org/abs/1803.02999, algorithm 2.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    tx, net = updates.transformation(tx), on_floats(net)

    def init(key: Key, x_example: PyTree) -> Params:
        params = net.init(key, x_example)
        warn_of_statistics(params)
        return params

    def adapt_by(steps: int) -> Adapt:
        def adapt(
            params: Params,
            support: Batch,
            key: Key,
            fast: inner.Fast | None = None,
            labels: Array | None = None,
        ) -> inner.Fast:
            fast = inner.start(params, tx) if fast is None else fast
            n = support.y.shape[0]
            if n == 0:
                return fast
            if batch_size is not None and batch_size > n:
                raise ValueError(f"batch_size {batch_size} is more than the {n} support examples")
            support = losses.fill_padding(support)
            weight = losses.labelled(support, labels)
            if concrete(support.y) is not None:  # for the loss to check all labels, not a few rows
                jax.eval_shape(lambda p: loss(net.apply(p, support.x), support.y), params)

            def batch_loss(weights: Params, key: Key) -> Array:
                rows = jax.random.permutation(key, n)[:batch_size]
                x = jax.tree.map(lambda leaf: leaf[rows], support.x)
                outputs = net.apply(weights, x)
                outputs = outputs if labels is None else losses.mask_logits(outputs, labels)
                return losses.weighted_mean(loss(outputs, support.y[rows]), weight[rows])

            return inner.adapt(
                batch_loss, fast, tx, key, steps=steps, first_order=True, unroll=unroll, remat=False
            )

        return adapt

    def predict(params: Params, fast: inner.Fast, x: PyTree) -> Array:
        return net.apply(fast.params, x)

    return Learner(init, adapt_by(steps), predict, inner_step=adapt_by(1))


def surrogate(learner: Learner, *, loss: ExampleLoss = losses.cross_entropy) -> Loss:
    """A loss whose gradient is Reptile's direction, for the same train step as every learner.

    S(theta) = <theta, stop(theta - theta~)>, so grad S = theta - theta~: an outer step of SGD with
    rate epsilon gives theta + epsilon (theta~ - theta). All labelled examples of the task, support
    and query, are adapted on, as in the paper.

    Args:
        learner: whose `fast.params` has the structure of its parameters, as `reptile` makes it.
        loss: of one example, for the metrics.

    Returns:
        A `Loss`; the scalar is S, the true loss of the adapted weights is in the metrics.

    Example:
        >>> from lml_jax import nets
        >>> of_task = surrogate(reptile(nets.mlp([8], 5), optax.sgd(0.1), steps=3))

    Source:
        A. Nichol, J. Achiam, J. Schulman, On First-Order Meta-Learning Algorithms, 2018,
        https://arxiv.org/abs/1803.02999, algorithm 2.
    """

    def of_task(params: Params, task: Task, key: Key) -> tuple[Array, Metrics]:
        both = losses.fill_padding(losses.concatenated(task.support, task.query))
        fast = jax.lax.stop_gradient(learner.adapt(params, both, key))
        dots = jax.tree.map(
            lambda w, f: jnp.sum(w * jax.lax.stop_gradient(w - f)), params, fast.params
        )
        outputs = learner.predict(params, fast, both.x)
        true = losses.weighted_mean(loss(outputs, both.y), losses.labelled(both))
        metrics = {"true_loss": jax.lax.stop_gradient(true)}
        # A factor of 1, or of NaN: a wrong label refuses the update even where no step drew it.
        return jax.tree.reduce(jnp.add, dots) * (1 + 0 * metrics["true_loss"]), metrics

    return of_task
