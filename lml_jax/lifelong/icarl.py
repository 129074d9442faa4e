"""iCaRL: exemplars chosen by herding, distillation, and the nearest mean of exemplars."""

from operator import itemgetter

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import check_positive
from lml_jax.heads import head_learner, nearest_mean
from lml_jax.lifelong import _support
from lml_jax.lifelong._base import least_likely, start
from lml_jax.lifelong._batches import (
    Given,
    Method,
    batch_learner,
    by_loss,
    check_classes,
    drawn,
)
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.lifelong.lwf import Teacher
from lml_jax.memory import herding
from lml_jax.pixels import on_floats
from lml_jax.types import (
    Key,
    Learner,
    LifelongLearner,
    LifelongState,
    MemoryBank,
    Metrics,
    Net,
    Params,
)


def icarl(
    net: Net,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    bank: MemoryBank | None = None,
    past_batch: int = 50,
) -> LifelongLearner:
    """Exemplars chosen by herding train the embedding and are the classifier.

    With phi(x) the embedding of length 1 and z_c(x) the outputs of a linear layer on the embedding,
    L = 1/n sum_x sum_c BCE(z_c(x), t_c(x)) over the batch and over examples drawn from M. For
    classes of past tasks t_c = sigmoid(z*_c(x)), z* those of the network after the last task; for
    new ones t_c = 1[y = c]. `recall` answers argmin_c ||phi(x) - mu_c||, mu_c the mean of phi of
    the exemplars of c, scaled to length 1; `predict` takes the mean over the support set.

    Args:
        net: the embedding, [n, ...] -> [n, d].
        tx: the update rule.
        space: the label space.
        bank: M, of items (x, y, phi, task); None for `memory.herding` of 20 per class, by phi.
        past_batch: examples drawn from M for each update, >= 1.

    Returns:
        A `LifelongLearner` that needs task boundaries. Its parameters are {"net", "head", "out"};
        it starts from those of a `head_learner` too. Its metrics: `loss`, `accuracy` of z.

    Raises:
        ValueError: for a past_batch below 1, or a regression; in `observe`.

    Example:
        >>> from lml_jax import nets
        >>> learner = icarl(nets.mlp([64], 32), optax.adam(1e-3),
        ...                 LabelSpace(10, jnp.zeros(50, bool)))

    Source:
        Rebuffi, Kolesnikov, Sperl, Lampert. iCaRL: Incremental Classifier and Representation
        Learning, 2017, algorithms 1 to 4, https://arxiv.org/abs/1611.07725. There the number of
        exemplars per class shrinks as classes come, to 20 of each of 100; here it is constant.
    """
    check_positive(past_batch=past_batch)
    check_classes(space, what="iCaRL")
    if bank is None:
        bank = herding(20, classes=space.classes, feature_of=itemgetter(2))
    net = on_floats(net)
    few_shot = head_learner(
        _unit_length(net), nearest_mean(distance="cosine"), classes=space.classes
    )

    def with_outputs(params: Params, x: Array) -> Params:
        width = jax.eval_shape(net.apply, params["net"], x).shape[1]
        out = {"kernel": jnp.zeros((width, space.classes)), "bias": jnp.zeros(space.classes)}
        return {"out": out, **params}

    learner = Learner(
        lambda key, x: with_outputs(few_shot.init(key, x), x), few_shot.adapt, few_shot.predict
    )

    def outputs(params: Params, x: Array) -> Array:
        return net.apply(params["net"], x) @ params["out"]["kernel"] + params["out"]["bias"][None]

    def of_batch(params: Params, given: Given, key: Key) -> tuple[Array, Metrics]:
        past = drawn(bank, given, key, n=past_batch)
        batch = losses.concatenated(given.batch, past.batch)
        weight, own = losses.labelled(batch), given.own
        z, old = outputs(params, batch.x), outputs(own.params, batch.x)
        truth = jax.nn.one_hot(batch.y, space.classes, dtype=z.dtype)
        target = jnp.where(own.taught[None], jax.nn.sigmoid(old), truth)
        each = jnp.where(given.seen[None], optax.sigmoid_binary_cross_entropy(z, target), 0.0)
        right = jnp.argmax(losses.mask_logits(z, given.seen), 1) == batch.y
        accuracy = losses.weighted_mean(right.astype(z.dtype), weight)
        # A label outside the label space has no one-hot row: its loss is not finite, and says so.
        wrong = losses.outside(batch.y, space.classes) & (losses.weights_of(batch) > 0)
        refused = losses.nan_where(wrong.any())
        value = losses.weighted_mean(jnp.sum(each, 1), weight) * refused
        return value, {"accuracy": accuracy}

    def own(params: Params) -> Teacher:
        return Teacher(params, jnp.zeros(space.classes, bool))

    def finish(params: Params, given: Given, key: Key) -> Teacher:
        return Teacher(params, given.seen)

    def extra(params: Params, x: Array) -> tuple[Array, ...]:
        return (_unit_length(net).apply(params["net"], x),)

    reason = "iCaRL chooses its exemplars at the end of a task"
    method = Method(by_loss(of_batch), own, finish=finish, extra=extra, needs_boundaries=reason)
    base = batch_learner(learner, tx, space, method, bank=bank)

    def init(key: Key, x: Array, params: Params | None = None) -> LifelongState:
        return base.init(key, x, None if params is None else with_outputs(params, x))

    def recall(state: LifelongState, x: Array, key: Key) -> Array:
        params, (every, _) = state.train.params, _support.stored(bank, state.memory)
        # From a start, so that classes still to come are not taken for missing ones.
        fast = few_shot.adapt(params, every, key, start(few_shot, params, x))
        logits = losses.mask_logits(few_shot.predict(params, fast, x), state.seen)
        return least_likely(logits, state.seen[None])

    return base._replace(init=init, recall=recall)


def _unit_length(net: Net) -> Net:
    """The embedding scaled to length 1."""

    def apply(params: Params, x: Array) -> Array:
        z = losses.at_least_float32(net.apply(params, x))
        return z * jax.lax.rsqrt(jnp.sum(jnp.square(z), 1, keepdims=True) + 1e-12)

    return Net(net.init, apply)
