"""Model-agnostic meta-learning, second and first order, with fixed or learned step sizes."""

from collections.abc import Callable

import optax
from jax import Array

from lml_jax import inner, losses
from lml_jax.checks import warn_of_statistics
from lml_jax.pixels import on_floats
from lml_jax.types import Adapt, Batch, ExampleLoss, Key, Learner, Net, Params, PyTree


def maml(
    net: Net,
    rule: inner.Rule | optax.GradientTransformation | optax.MultiSteps,
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
        net: the network. Parameters that are running statistics are trained like all others, and
            named in a warning; `nets.bind` keeps them apart, `updates.freeze` holds them.
        rule: an optax transformation, or `inner.per_parameter` (Meta-SGD),
            `inner.per_layer_and_step` (MAML++).
        steps: inner steps, >= 0; it may differ between training and test.
        loss: of one example, inside the inner loop.
        first_order: FOMAML, inner gradients are constants in the outer gradient.
        adapt_only: which arrays the inner loop adapts, by path ("head/kernel"); None for all. The
            outer loop trains all of them, whatever is chosen here; to hold some fixed there, wrap
            its optimiser: `updates.freeze(optax.adam(1e-3), lambda path: "body" in path)`.
        unroll: a Python loop over inner steps; right for convolutions on CPU.
        remat: recompute inner steps in the backward pass; see `inner.adapt`.

    Returns:
        A `Learner`.

    Raises:
        ValueError: for a negative number of steps, or where `adapt_only` chooses nothing; in
            `adapt`, where labels are known, for labels that the network has no output for. Inside
            jit the loss and its gradient are NaN then.

    Example:
        >>> from lml_jax import nets
        >>> learner = maml(nets.mlp([40, 40], 1), optax.sgd(0.01), steps=1,
        ...                loss=losses.squared_error)

    Source:
        C. Finn, P. Abbeel, S. Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep
        Networks, 2017, https://arxiv.org/abs/1703.03400, algorithm 2.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if not isinstance(rule, inner.Rule):
        rule = inner.fixed(rule)
    net = on_floats(net)

    def init(key: Key, x_example: PyTree) -> Params:
        theta = net.init(key, x_example)
        warn_of_statistics(theta)
        return {"theta": theta, "alpha": rule.init(inner.split(theta, adapt_only)[0])}

    def adapt_by(steps: int) -> Adapt:
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
            if support.y.shape[0] == 0:
                return fast
            support = losses.fill_padding(support)
            weight = losses.labelled(support, labels)

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

        return adapt

    def predict(params: Params, fast: inner.Fast, x: PyTree) -> Array:
        shared = inner.split(params["theta"], adapt_only)[1]
        return net.apply(inner.merge(fast.params, shared), x)

    return Learner(init, adapt_by(steps), predict, inner_step=adapt_by(1))
