"""Generation-based lifelong learning: past tasks come back as samples of a generator."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.checks import possible
from lml_jax.generative.examples import joined, together
from lml_jax.lifelong._base import (
    among_seen,
    check_finished,
    finished_after,
    labels_of,
    refused_id,
    seen_after,
    start,
)
from lml_jax.lifelong.label_space import LabelSpace, classes_in
from lml_jax.losses import weights_of
from lml_jax.parallel import Reduce, vmap_mean
from lml_jax.pixels import as_float
from lml_jax.types import (
    Batch,
    ExampleLoss,
    Key,
    Learner,
    LifelongLearner,
    LifelongState,
    Loss,
    Metrics,
    Params,
    PyTree,
    StreamGenerator,
    Task,
)


class Replay(NamedTuple):
    """What generative replay carries besides the classifier.

    Attributes:
        generator: its state.
        begun: int32, the update at which the arriving task began.
        teacher: the classifier's parameters when the last task was finished.
        taught: bool [C], the classes seen by then.
    """

    generator: PyTree
    begun: Array
    teacher: Params
    taught: Array


def lifelong_generative(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    generator: StreamGenerator,
    *,
    past_batch: int = 64,
    generated: int = 0,
    generated_weight: float = 1 / 3,
    generated_from: int = 0,
    test_generated: int = 0,
    temperature: float | None = None,
    loss: ExampleLoss = losses.cross_entropy,
    reduce: Reduce = vmap_mean,
) -> LifelongLearner:
    """Train a generator on each task, and a classifier on the task and samples of past tasks.

    One step, with i the arriving task and G' the generator as it was when task i - 1 was finished:
    the generator makes its own update on T_i (with its retention loss); then
    theta <- theta - beta grad ( 1/i L(T_i u a G(T_i)) + (i-1)/i L(G') ),
    where G(T_i) are samples of the task at hand and a their weight, and G' gives samples of past
    tasks, each as likely. No example is stored, unless the generator does.

    Args:
        learner: whose network and inner rule are used, over the C classes.
        tx: update rule of the classifier; its state is carried from task to task.
        space: the label space, from `label_space_of(stream)`.
        generator: of the classes of a stream: `conditional_gan` or `vaml_stream`.
        past_batch: samples of past tasks in each step.
        generated: samples of the arriving task in each step; 0 for none.
        generated_weight: a, their weight together relative to the real examples, in [0, 1].
        generated_from: updates of each task before they join; samples of a generator that has just
            begun a class only harm.
        test_generated: samples that join the support set in `predict`; 0 for none. They weigh a
            too, and are of the classes of the support set, as far as those were learned.
        temperature: of the labels of past samples, which then are what the classifier of task
            i - 1 predicts for them, L(G') = `losses.distillation`; None takes the labels that the
            generator was conditioned on.
        loss: of one example of the classifier, of logits and its label.
        reduce: as in `train.make_train_step`; distributes the examples of the classifier's step,
            in as many groups as there are episodes. Every device holds the whole generator.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `accuracy`, `retention` (the classifier's loss on
        past samples) and the generator's, named `generator_...` where both have one. It needs task
        boundaries: `observe` raises ValueError.

    Raises:
        ValueError: for numbers out of range; in `step`, for episodes whose labels are local; for a
            regression.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.generative.gan.gan import conditional_gan
        >>> from lml_jax.learners.maml import maml
        >>> space = LabelSpace(tasks=5, initial=jnp.zeros(10, bool))
        >>> generator = conditional_gan(
        ...     nets.generator([64], (8, 8)), nets.projection_discriminator([64]),
        ...     optax.adam(1e-3), optax.adam(1e-3), tasks=5, classes=10)
        >>> learner = lifelong_generative(maml(nets.mlp([64], 10), optax.sgd(0.1), steps=1),
        ...                               optax.adam(1e-3), space, generator)

    Source:
        Shin, Lee, Kim, Kim. Continual Learning with Deep Generative Replay, 2017,
        https://arxiv.org/abs/1705.08690, for the classifier; what keeps the generator is the
        generator's own.
    """
    _check(space, past_batch, generated, generated_weight, generated_from, test_generated)

    def counted(past: Batch) -> Array:
        if temperature is None:
            return losses.labelled(past)
        # What the old classifier predicts needs no label, only that there is a sample.
        return weights_of(past)

    of_batch = reduce(_loss_of_group(learner, space, temperature, loss))

    def init(key: Key, x: Array, params: Params | None = None) -> LifelongState:
        key_classifier, key_generator = jax.random.split(key)
        params = learner.init(key_classifier, as_float(x)) if params is None else params
        state, made = train.init_state(params, tx), generator.init(key_generator, x)
        zero = jnp.zeros((), jnp.int32)
        own = Replay(made, zero, params, space.initial)
        # In buffers of its own: what is donated may not hold one twice.
        return train.copy(LifelongState(state, space.initial, zero, (), own))

    def step(state: LifelongState, episodes: Task, key: Key) -> tuple[LifelongState, Metrics]:
        key_generator, key_replay, key_code, key_own = jax.random.split(key, 4)
        first = jax.tree.map(lambda leaf: leaf[0], episodes)
        own = state.own
        seen = seen_after(state, space.classes, episodes.support, episodes.query)
        labels = labels_of(first, space, seen)
        real = together(episodes)
        real = losses.fill_padding(real._replace(x=as_float(real.x)))
        made, shown = generator.step(own.generator, episodes, key_generator)
        past = generator.sample(own.generator, None, key_replay, n=past_batch)
        if generated:
            code = generator.encode(made, real, key_code)
            more = generator.sample(made, code, key_own, n=generated)
            late = state.train.step - own.begun >= generated_from
            real = joined(real, more, jnp.where(late, generated_weight, 0.0))

        count = episodes.support.y.shape[0]
        groups = _dealt(real, losses.labelled(real), count), _dealt(past, counted(past), count)
        shared = labels, seen, own.teacher, own.taught, (state.finished + 1).astype(float)
        (value, metrics), grads = jax.value_and_grad(of_batch, has_aux=True)(
            state.train.params, groups, key, *shared
        )
        del metrics["bad_task"]  # a group is no task
        value = value * refused_id(first, space)
        # A generator that stands still because of a bad update stops the classifier as well.
        halted = jnp.where(state.train.bad_step < 0, made.bad_step, state.train.bad_step)
        trained = train.update(state.train._replace(bad_step=halted), value, grads, tx)
        # And a classifier that stands still stops the generator.
        alone = (trained.bad_step >= 0) & (made.bad_step < 0)
        kept = jax.lax.cond(alone, lambda: own.generator, lambda: made)
        moved = state._replace(train=trained, seen=seen, own=own._replace(generator=kept))
        own_fault = jnp.where(made.bad_step < 0, trained.bad_step, -1)
        metrics = {"loss": value, **metrics, "bad_step": trained.bad_step}
        metrics["bad_step_classifier"] = own_fault
        return moved, {**_beside(shown, metrics), **metrics}

    def observe(state: LifelongState, batch: Batch, key: Key) -> tuple[LifelongState, Metrics]:
        raise ValueError(
            "generative replay needs task boundaries: at the end of a task the generator is "
            "frozen and becomes the source of replay; use step and end_task"
        )

    def end_task(state: LifelongState, batch: Batch, key: Key) -> LifelongState:
        check_finished(state, space)
        state = state._replace(seen=seen_after(state, space.classes, batch))
        begun, teacher, taught = train.copy((state.train.step, state.train.params, state.seen))
        made = generator.end_task(state.own.generator, batch, key)
        return finished_after(
            state._replace(own=Replay(made, begun, teacher, taught)), space, batch
        )

    def predict(state: LifelongState, support: Batch, x: Array, key: Key) -> Array:
        key_code, key_sample, key_adapt = jax.random.split(key, 3)
        labels = classes_in(support, space.classes)
        support = support._replace(x=as_float(support.x))
        if test_generated:
            made = state.own.generator
            code = generator.encode(made, support, key_code)
            more = generator.sample(made, code, key_sample, n=test_generated)
            support = joined(support, more, generated_weight)
        fast = learner.adapt(state.train.params, support, key_adapt, labels=labels)
        return losses.mask_logits(learner.predict(state.train.params, fast, as_float(x)), labels)

    def recall(state: LifelongState, x: Array, key: Key) -> Array:
        params, x = state.train.params, as_float(x)
        return learner.predict(params, start(learner, params, x), x)

    return LifelongLearner(init, step, observe, end_task, predict, among_seen(space, recall))


def _check(
    space: LabelSpace, past_batch: int, generated: int, weight: float, late: int, test: int
) -> None:
    if space.target is not None:
        raise ValueError("generative replay classifies: expected a label space of classes")
    if past_batch < 1 or min(generated, test, late) < 0:
        raise ValueError(
            "past_batch must be at least 1, generated, test_generated and generated_from at least "
            f"0; got {past_batch}, {generated}, {test} and {late}"
        )
    if not possible(lambda w: 0 <= w <= 1, weight):
        raise ValueError(f"generated_weight must be in [0, 1], got {weight}")


def _beside(shown: Metrics, own: Metrics) -> Metrics:
    """The generator's metrics, under names that are not the classifier's."""
    return {f"generator_{k}" if k in own else k: value for k, value in shown.items()}


def _dealt(batch: Batch, weight: Array, groups: int) -> Batch:
    """`batch` [n, ...] in groups [groups, ...], with weights that sum to 1 in the mean of groups.

    So the mean over groups of weighted sums is the weighted mean over all, however many of them
    have a weight; what is missing of the last group weighs 0.
    """
    mass = jnp.sum(weight)
    weight = weight * groups / jnp.where(mass > 0, mass, 1.0)

    short = -weight.shape[0] % groups

    def split(leaf: Array) -> Array:
        # Padding repeats the last example, at which a network is known to be differentiable.
        leaf = jnp.pad(leaf, [(0, short)] + [(0, 0)] * (leaf.ndim - 1), mode="edge")
        return leaf.reshape(groups, -1, *leaf.shape[1:])

    weight = jnp.pad(weight, (0, short)).reshape(groups, -1)
    return Batch(split(batch.x), split(batch.y), weight)


def _loss_of_group(
    learner: Learner, space: LabelSpace, temperature: float | None, example_loss: ExampleLoss
) -> Loss:
    """1/i L(T_i) + (i-1)/i L(G') of some examples of both, as weighted sums."""

    def total(values: Array, weight: Array) -> Array:
        # A value of weight 0 may be inf.
        return jnp.sum(jnp.where(weight > 0, values, 0.0) * weight)

    def loss(
        params: Params, group: tuple[Batch, Batch], key: Key, *shared: PyTree
    ) -> tuple[Array, Metrics]:
        (real, past), (labels, seen, teacher, taught, i) = group, shared
        first = start(learner, params, real.x)
        logits = losses.mask_logits(learner.predict(params, first, real.x), labels)
        now = total(example_loss(logits, real.y), weights_of(real))
        right = total((jnp.argmax(logits, 1) == real.y).astype(float), weights_of(real))
        active = _active(space, seen, past.y)
        logits = losses.mask_logits(learner.predict(params, first, past.x), active)
        if temperature is None:
            each = example_loss(logits, past.y)
        else:
            told = learner.predict(teacher, start(learner, teacher, past.x), past.x)
            told = losses.mask_logits(told, active & taught)
            each = losses.distillation(logits, told, temperature=temperature)
        before = total(each, weights_of(past))
        value = now / i + before * (i - 1) / i
        return value, {"accuracy": right, "retention": before}

    return loss  # type: ignore[return-value]  # a group of examples stands for a task


def _active(space: LabelSpace, seen: Array, y: Array) -> Array:
    """The active classes of a past example: all that were seen, or those of its own tasks."""
    if space.members is None:
        return seen
    members = space.members.astype(float)
    own = (members.T @ members > 0)[y]
    return jnp.where((y >= 0)[:, None], own, seen[None])  # without a label: all that were seen
