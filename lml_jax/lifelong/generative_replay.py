"""Generation-based lifelong learning: past tasks come back as samples of a generator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.generative.conditioning import as_float, joined, together
from lml_jax.lifelong._base import begin, labels_of
from lml_jax.lifelong.label_space import Head, classes_in
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.types import (
    Batch,
    Generator,
    Key,
    Learner,
    LifelongLearner,
    Loss,
    Metrics,
    Params,
    Task,
    TrainState,
)


class State(NamedTuple):
    """One pytree: classifier and its optimiser, labels seen bool [C], generator, tasks finished.

    `begun` is the step at which the arriving task began; `teacher` and `taught` are the classifier
    and the labels it had seen when the last task was finished.
    """

    train: TrainState
    seen: Array
    generator: Any
    finished: Array
    begun: Array
    teacher: Params
    taught: Array

    @property
    def step(self) -> Array:
        """Updates done."""
        return self.train.step

    @property
    def bad_step(self) -> Array:
        """The first step whose update was refused, or -1."""
        return self.train.bad_step

    @property
    def stored(self) -> Any:
        """What is kept of past tasks beside the generator: what its knowledge transfer needs."""
        return getattr(self.generator, "memory", ())

    @property
    def bad_part(self) -> str:
        """Whose update was refused."""
        halted = int(getattr(self.generator, "bad_step", -1)) >= 0
        return getattr(self.generator, "bad_part", "generator") if halted else "classifier"


def lifelong_generative(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    generator: Generator,
    finish: Callable[[Any, Batch, Key], Any],
    *,
    replay_batch: int = 64,
    augment_batch: int = 0,
    augment_weight: float = 1 / 3,
    augment_from: int = 0,
    test_batch: int = 0,
    temperature: float | None = None,
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> LifelongLearner:
    """Train a generator on each task, and a classifier on the task beside samples of past tasks.

    One step, with i the arriving task and G' the generator as it was when task i - 1 was finished:
    the generator takes its own step on T_i (D, then G, with lambda sum_{j<i} L_j(theta_G)); then
    theta <- theta - beta grad ( 1/i L(T_i u a G(T_i)) + (i-1)/i L(G') ),
    where G(T_i) are samples of the task at hand and a their weight, and G' gives samples of past
    tasks, each as likely. No example is stored, unless the generator does.

    Args:
        learner: whose network and inner rule are used, over the head's C classes.
        tx: update rule of the classifier; its state is carried from task to task.
        head: the label space, from `head_of(stream)`.
        generator: of labelled examples.
        finish: what ends a task for the generator: (state, batch, key) -> state.
        replay_batch: samples of past tasks in each step.
        augment_batch: samples of the arriving task in each step; 0 for none.
        augment_weight: a, their weight together against the real examples, in [0, 1].
        augment_from: steps of each task before they join; a generator that has just begun a class
            only harms.
        test_batch: samples that join the support set in `predict`; 0 for none. They weigh a too,
            and are of the classes of the support set, as far as those were learned.
        temperature: of the labels of past samples, which then are what the classifier of task
            i - 1 says of them, L(G') = `losses.distillation`; None takes the labels that the
            generator was asked for.
        reduce: as in `train.make_train_step`; spreads the examples of the classifier's step, in as
            many groups as there are episodes. Every device holds the whole generator.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `accuracy`, `replay_loss` and the generator's.

    Raises:
        ValueError: for numbers out of range; in `step`, for episodes whose labels are local.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.generative.gan.gan import conditional_gan
        >>> from lml_jax.learners.maml import maml
        >>> head = Head(tasks=5, known=jnp.zeros(10, bool))
        >>> generator, finish = conditional_gan(
        ...     nets.generator([64], (8, 8)), nets.projection_discriminator([64]),
        ...     optax.adam(1e-3), optax.adam(1e-3), tasks=5, classes=10)
        >>> learner = lifelong_generative(maml(nets.mlp([64], 10), optax.sgd(0.1), steps=1),
        ...                               optax.adam(1e-3), head, generator, finish)

    Source:
        Shin, Lee, Kim, Kim. Continual Learning with Deep Generative Replay, 2017, for the
        classifier; what keeps the generator is the generator's own.
    """
    if replay_batch < 1 or min(augment_batch, test_batch, augment_from) < 0:
        raise ValueError(
            "replay_batch must be at least 1, augment_batch, test_batch and augment_from at least "
            f"0; got {replay_batch}, {augment_batch}, {test_batch} and {augment_from}"
        )
    if not 0 <= augment_weight <= 1:
        raise ValueError(f"augment_weight must be in [0, 1], got {augment_weight}")

    def counted(past: Batch) -> Array:
        if temperature is None:
            return losses.labelled(past)
        # What the old classifier says needs no label, only that there is a sample.
        return jnp.ones(past.x.shape[0]) if past.weight is None else past.weight

    of_batch = reduce(_loss_of_group(learner, head, temperature))

    def init(key: Key, example: Batch, params: Params | None = None) -> State:
        key_classifier, key_generator = jax.random.split(key)
        x = example.x[None]
        params = learner.init(key_classifier, as_float(x)) if params is None else params
        state = train.init_state(params, tx)
        made = generator.init(key_generator, x)
        zero = jnp.zeros((), jnp.int32)
        # In buffers of its own: what is donated may not hold one twice.
        return train.copy(State(state, head.known, made, zero, zero, params, head.known))

    def step(state: State, episodes: Task, key: Key) -> tuple[State, Metrics]:
        key_generator, key_replay, key_code, key_own = jax.random.split(key, 4)
        real = together(episodes)
        real = real._replace(x=as_float(real.x))
        seen = state.seen | classes_in(real.y, head.classes)
        keep = labels_of(jax.tree.map(lambda leaf: leaf[0], episodes), head, seen)
        made, shown = generator.step(state.generator, episodes, key_generator)
        past = generator.sample(state.generator, None, key_replay, n=replay_batch)
        if augment_batch:
            code = generator.encode(made, real, key_code)
            own = generator.sample(made, code, key_own, n=augment_batch)
            late = state.train.step - state.begun >= augment_from
            real = joined(real, own, jnp.where(late, augment_weight, 0.0))

        count = episodes.support.y.shape[0]
        groups = _dealt(real, losses.labelled(real), count), _dealt(past, counted(past), count)
        shared = keep, seen, state.teacher, state.taught, (state.finished + 1).astype(float)
        (value, metrics), grads = jax.value_and_grad(of_batch, has_aux=True)(
            state.train.params, groups, key, *shared
        )
        del metrics["bad_task"]  # a group is no task
        # A generator that stands still because of a bad update stops the classifier as well.
        bad = getattr(made, "bad_step", state.train.bad_step)
        halted = jnp.where(state.train.bad_step < 0, bad, state.train.bad_step)
        trained = train.update(state.train._replace(bad_step=halted), value, grads, tx)
        # And a classifier that stands still stops the generator.
        alone = (trained.bad_step >= 0) & (bad < 0)
        made = jax.lax.cond(alone, lambda: state.generator, lambda: made)
        moved = state._replace(train=trained, seen=seen, generator=made)
        return moved, {"loss": value, **metrics, **shown}

    def end_task(state: State, batch: Batch, key: Key) -> State:
        begun, teacher, taught = train.copy((state.train.step, state.train.params, state.seen))
        return state._replace(
            generator=finish(state.generator, batch, key),
            finished=state.finished + 1,
            begun=begun,
            teacher=teacher,
            taught=taught,
        )

    def predict(state: State, support: Batch, x: Array, key: Key) -> Array:
        key_code, key_sample, key_adapt = jax.random.split(key, 3)
        params, keep = state.train.params, classes_in(support.y, head.classes)
        support = support._replace(x=as_float(support.x))
        if test_batch:
            code = generator.encode(state.generator, support, key_code)
            own = generator.sample(state.generator, code, key_sample, n=test_batch)
            support = joined(support, own, augment_weight)
        fast = learner.adapt(params, support, key_adapt, labels=keep)
        return losses.mask_logits(learner.predict(params, fast, as_float(x)), keep)

    def recall(state: State, x: Array, key: Key) -> Array:
        params = state.train.params
        logits = learner.predict(params, begin(learner, params, as_float(x)), as_float(x))
        return losses.mask_logits(logits, state.seen) if head.members is None else logits

    return LifelongLearner(init, step, end_task, predict, recall)


def _dealt(batch: Batch, weight: Array, groups: int) -> Batch:
    """`batch` [n, ...] in groups [groups, ...], with weights that sum to 1 in the mean of groups.

    So the mean over groups of weighted sums is the weighted mean over all, however many of them
    have a weight; what is missing of the last group weighs 0.
    """
    mass = jnp.sum(weight)
    weight = weight * groups / jnp.where(mass > 0, mass, 1.0)

    def split(leaf: Array) -> Array:
        short = -leaf.shape[0] % groups
        leaf = jnp.pad(leaf, [(0, short)] + [(0, 0)] * (leaf.ndim - 1))
        return leaf.reshape(groups, -1, *leaf.shape[1:])

    return jax.tree.map(split, batch._replace(weight=weight))


def _loss_of_group(learner: Learner, head: Head, temperature: float | None) -> Loss:
    """1/i L(T_i) + (i-1)/i L(G') of some examples of both, as weighted sums."""

    def total(values: Array, weight: Any) -> Array:
        # A value of weight 0 may be inf.
        return jnp.sum(jnp.where(weight > 0, weight * values, 0.0))

    def loss(
        params: Params,
        group: tuple[Batch, Batch],
        key: Key,
        keep: Array,
        seen: Array,
        teacher: Params,
        taught: Array,
        i: Array,
    ) -> tuple[Array, Metrics]:
        real, past = group
        start = begin(learner, params, real.x)
        logits = losses.mask_logits(learner.predict(params, start, real.x), keep)
        now = total(losses.cross_entropy(logits, real.y), real.weight)
        right = total((jnp.argmax(logits, 1) == real.y).astype(float), real.weight)
        beside = _labels_beside(head, seen, past.y)
        logits = losses.mask_logits(learner.predict(params, start, past.x), beside)
        if temperature is None:
            each = losses.cross_entropy(logits, past.y)
        else:
            said = learner.predict(teacher, begin(learner, teacher, past.x), past.x)
            said = losses.mask_logits(said, beside & taught)
            each = losses.distillation(logits, said, temperature=temperature)
        before = total(each, past.weight)
        value = now / i + before * (i - 1) / i
        return value, {"accuracy": right, "replay_loss": before}

    return loss


def _labels_beside(head: Head, seen: Array, y: Array) -> Array:
    """The labels a past example is told from: all that were seen, or those of its own tasks."""
    if head.members is None:
        return seen
    members = head.members.astype(float)
    own = (members.T @ members > 0)[y]
    return jnp.where((y >= 0)[:, None], own, seen[None])  # without a label: all that were seen
