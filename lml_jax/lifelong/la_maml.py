"""La-MAML: look-ahead meta-learning with a learned step size of each parameter; C-MAML."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import inner, losses
from lml_jax.checks import check_positive, possible
from lml_jax.learners.maml import maml
from lml_jax.lifelong._base import share
from lml_jax.lifelong._batches import (
    Given,
    Method,
    batch_learner,
    by_loss,
    check_classes,
    drawn,
    past_labels,
)
from lml_jax.lifelong.agem import dot
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.memory import reservoir
from lml_jax.pixels import on_floats
from lml_jax.types import (
    Batch,
    Key,
    LifelongLearner,
    LifelongState,
    MemoryBank,
    Metrics,
    Net,
    Params,
    PyTree,
)


def la_maml(
    net: Net,
    space: LabelSpace,
    *,
    bank: MemoryBank | None = None,
    past_batch: int = 10,
    alpha: float = 0.15,
    alpha_rate: float | None = 0.3,
    rate: float | None = None,
    glances: int = 5,
    clip: float = 2.0,
    first_order: bool = True,
) -> LifelongLearner:
    """Online meta-learning along a stream: an outer loss after each inner step on one example.

    From theta_0 = theta, theta_{k+1} = theta_k - max(0, alpha) * grad l(theta_k; x_k) over the
    examples x_1..x_n of a batch in random order;
    L = 1/n sum_k L(theta_k; batch and examples drawn from M). Then alpha <- alpha - eta dL/dalpha
    and theta <- theta - max(0, alpha) dL/dtheta with the new alpha, each gradient clipped to the
    norm `clip`; alpha has one step size per parameter. With `rate` theta <- theta - rate
    dL/dtheta (Sync La-MAML), and with `alpha_rate` None as well alpha stays as it is (C-MAML).

    `observe` draws from M as it is before the batch; with task boundaries M holds the finished
    tasks alone.

    Args:
        net: the network, with C outputs.
        space: the label space.
        bank: M, of items (x, y, task); None for `reservoir(200)`.
        past_batch: examples drawn from M for each outer loss, >= 1.
        alpha: initial step size of every parameter, > 0.
        alpha_rate: eta > 0; None: alpha is not learned.
        rate: step size of theta, > 0; None: alpha.
        glances: updates on each batch, >= 1.
        clip: largest norm of the gradients of theta and of alpha, > 0.
        first_order: inner gradients are constants in dL/dtheta, as on MNIST in the source; alpha
            gets its exact gradient under that.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `accuracy` of the batch and the stored examples
        after the last inner step.

    Raises:
        ValueError: for numbers out of range, neither `alpha_rate` nor `rate`, or a regression.

    Example:
        >>> from lml_jax import nets
        >>> space = LabelSpace(20, jnp.ones(10, bool))
        >>> net = nets.mlp([100, 100], 10)
        >>> learner = la_maml(net, space)
        >>> c_maml = la_maml(net, space, alpha=0.1, alpha_rate=None, rate=0.1)

    Source:
        Gupta, Yadav, Paull. La-MAML: Look-ahead Meta Learning for Continual Learning, 2020,
        algorithms 1 and 2, https://arxiv.org/abs/2007.13904. The defaults are the authors' for
        MNIST rotations and permutations.
    """
    check_positive(past_batch=past_batch, glances=glances)
    check_classes(space, what="La-MAML")
    numbers = {"alpha": alpha, "alpha_rate": alpha_rate, "rate": rate, "clip": clip}
    for name, value in numbers.items():
        if value is not None and not possible(lambda v: v > 0, value):
            raise ValueError(f"{name} must be above 0, got {value}")
    if alpha_rate is None and rate is None:
        raise ValueError("expected a rate of theta where alpha is not learned (alpha_rate=None)")
    bank = reservoir(200) if bank is None else bank
    net, rule = on_floats(net), _positive_part(alpha)
    learner = maml(net, rule, steps=1, first_order=first_order, unroll=True, remat=False)

    def of_batch(params: Params, given: Given, key: Key) -> tuple[Array, Metrics]:
        key_draw, key_order = jax.random.split(key)
        past = drawn(bank, given, key_draw, n=past_batch)
        weight = losses.labelled(given.batch)
        batch = given.batch._replace(weight=weight)
        both = losses.concatenated(batch, past.batch)
        labels = jnp.concatenate([given.labels, past_labels(space, given, past)])
        steps = jax.tree.map(jax.nn.relu, params["alpha"])

        def inner_step(theta: Params, row: Array) -> tuple[Params, Params]:
            one = jax.tree.map(lambda leaf: leaf[row][None], batch)
            grads = jax.grad(mean_loss)(theta, one, given.labels[row][None])
            # An example of weight 0 makes no step.
            grads = jax.lax.stop_gradient(grads) if first_order else grads
            theta = jax.tree.map(lambda w, s, g: w - s * g, theta, steps, grads)
            return theta, theta

        order = jax.random.permutation(key_order, batch.y.shape[0])
        last, every = jax.lax.scan(inner_step, params["theta"], order)
        each = jax.vmap(lambda theta: mean_loss(theta, both, labels))(every)
        logits = losses.mask_logits(net.apply(last, both.x), labels)
        shown = {"accuracy": share(logits, both.y, losses.weights_of(both))}
        return losses.weighted_mean(each, weight[order]), shown

    def mean_loss(theta: Params, batch: Batch, labels: Array) -> Array:
        logits = losses.mask_logits(net.apply(theta, batch.x), labels)
        return losses.weighted_mean(losses.cross_entropy(logits, batch.y), batch.weight)

    method = Method(by_loss(of_batch), updates=glances)
    base = batch_learner(learner, _look_ahead(alpha_rate, rate, clip), space, method, bank=bank)

    def init(key: Key, x: Array, params: Params | None = None) -> LifelongState:
        if params is not None:  # of MAML, whose rule may have learned nothing
            fresh = rule.init(params["theta"])
            own = params.get("alpha", ())
            same = jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, fresh)
            params = {**params, "alpha": own if same else fresh}
        return base.init(key, x, params)

    return base._replace(init=init)


def _positive_part(alpha: float) -> inner.Rule:
    """One step size per parameter, of which the positive part counts."""

    def tx(alpha: Params) -> optax.GradientTransformation:
        def update(
            updates: Params, state: PyTree, params: Params | None = None
        ) -> tuple[Params, PyTree]:
            return jax.tree.map(lambda a, g: -jax.nn.relu(a) * g, alpha, updates), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    return inner.Rule(lambda params: jax.tree.map(lambda w: jnp.full_like(w, alpha), params), tx)


def _look_ahead(
    alpha_rate: float | None, rate: float | None, clip: float
) -> optax.GradientTransformation:
    """The outer update of {"theta", "alpha"}: alpha first, then theta by the new alpha."""

    def update(
        updates: Params, state: PyTree, params: Params | None = None
    ) -> tuple[Params, PyTree]:
        assert params is not None
        theta, alpha = _clipped(updates["theta"], clip), _clipped(updates["alpha"], clip)
        eta = 0.0 if alpha_rate is None else alpha_rate
        of_alpha = jax.tree.map(lambda g: -eta * g, alpha)
        if rate is not None:
            return {"theta": jax.tree.map(lambda g: -rate * g, theta), "alpha": of_alpha}, state
        of_theta = jax.tree.map(
            lambda g, a, step: -jax.nn.relu(a + step) * g, theta, params["alpha"], of_alpha
        )
        return {"theta": of_theta, "alpha": of_alpha}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _clipped(grads: Params, norm: float) -> Params:
    """Gradients scaled to at most this norm."""
    size = jnp.sqrt(dot(grads, grads))
    share = jnp.minimum(1.0, norm / jnp.maximum(size, 1e-12))
    return jax.tree.map(lambda g: share * g, grads)
