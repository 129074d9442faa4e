"""Model-agnostic meta-learning, second and first order, with fixed or learned step sizes."""

from collections.abc import Callable

import optax
from jax import Array

from lml_jax import inner, losses
from lml_jax.types import Batch, ExampleLoss, Key, Learner, Net, Params


def maml(
    net: Net,
    rule: inner.Rule | optax.GradientTransformation,
    *,
    steps: int,
    loss: ExampleLoss = losses.cross_entropy,
    first_order: bool = False,
    adapt_only: Callable[[str], bool] | None = None,
    unroll: bool = False,
    remat: bool = True,
) -> Learner:
    """A learner whose initialisation is trained so that a few gradient steps learn a task.

    theta' = theta - alpha grad L_support(theta), `steps` times; the outer loop minimises
    L_query(theta') over theta (and over alpha, where the rule learns it).

    The parameters are {"theta": of the network, "alpha": of the rule}; `fast` is an `inner.Fast`
    of the adapted weights only.

    Args:
        net: the network.
        rule: an optax transformation, or `inner.per_parameter` (Meta-SGD),
            `inner.per_layer_and_step` (MAML++).
        steps: inner steps, >= 0; it may differ between training and test.
        loss: of one example, inside the inner loop.
        first_order: FOMAML, inner gradients are constants in the outer gradient.
        adapt_only: which arrays are adapted, by path ("head/kernel"); None for all.
        unroll: a Python loop over inner steps; right for convolutions on CPU.
        remat: recompute inner steps in the backward pass; see `inner.adapt`.

    Returns:
        A `Learner`.

    Raises:
        ValueError: for a negative number of steps, or where `adapt_only` chooses nothing.

    Example:
        >>> from lml_jax import nets
        >>> learner = maml(nets.mlp([40, 40], 1), optax.sgd(0.01), steps=1,
        ...                loss=losses.squared_error)

    Source:
        Finn, Abbeel, Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks,
        2017, algorithm 2.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if isinstance(rule, optax.GradientTransformation):
        rule = inner.fixed(rule)

    def init(key: Key, x_example: Array) -> Params:
        theta = net.init(key, x_example)
        return {"theta": theta, "alpha": rule.init(inner.split(theta, adapt_only)[0])}

    def adapt(
        params: Params,
        support: Batch,
        key: Key,
        fast: inner.Fast | None = None,
        labels: Array | None = None,
    ) -> inner.Fast:
        weights, shared = inner.split(params["theta"], adapt_only)
        tx = rule.tx(params["alpha"])
        fast = inner.start(weights, tx) if fast is None else fast
        if support.x.shape[0] == 0:
            return fast
        weight = losses.labelled(support)

        def support_loss(weights: Params, key: Key) -> Array:
            outputs = net.apply(inner.merge(weights, shared), support.x)
            outputs = outputs if labels is None else losses.mask_logits(outputs, labels)
            return losses.weighted_mean(loss(outputs, support.y), weight)

        return inner.adapt(
            support_loss,
            fast,
            tx,
            key,
            steps=steps,
            first_order=first_order,
            unroll=unroll,
            remat=remat,
        )

    def predict(params: Params, fast: inner.Fast, x: Array) -> Array:
        shared = inner.split(params["theta"], adapt_only)[1]
        return net.apply(inner.merge(fast.params, shared), x)

    return Learner(init, adapt, predict)
