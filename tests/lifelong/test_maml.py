"""The update of lifelong MAML and of joint training against the equations, written by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import losses, memory, nets
from lml_jax.learners.maml import maml
from lml_jax.lifelong import history
from lml_jax.lifelong.joint import joint
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.types import Batch, Task

KEY = jax.random.key(0)
ALPHA, STEPS, CLASSES = 0.3, 2, 4
NET = nets.mlp([], CLASSES)
FEW_SHOT = maml(NET, optax.sgd(ALPHA), steps=STEPS)
CLASS = LabelSpace(3, jnp.zeros(CLASSES, bool))
TASK = LabelSpace(
    3, jnp.zeros(CLASSES, bool), jnp.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]], bool)
)


def batch(seed, label, n=4):
    return Batch(jax.random.normal(jax.random.key(seed), (n, 3)), jnp.full(n, label, jnp.int32))


# All rows of a past task are the same, so that every draw from its bank is exact.
PAST = [Batch(jnp.tile(b.x[:1], (4, 1)), b.y) for b in (batch(1, 0), batch(2, 1))]
EPISODE = Task(batch(7, 2), batch(8, 2), jnp.array(2))


def update(learner):
    """(parameters before, gradient taken) of one SGD step on task 2, after tasks 0 and 1."""
    state = learner.init(KEY, jnp.zeros((1, 3)))
    for past in PAST:
        state = learner.end_task(state, past, KEY)
    assert state.seen.tolist() == [True, True, False, False]
    new, _ = learner.step(state, jax.tree.map(lambda leaf: leaf[None], EPISODE), KEY)
    before, after = state.train.params, new.train.params
    return before, jax.tree.map(lambda a, b: a - b, before, after)


def cross_entropy(theta, batch, labels):
    logits = jnp.where(labels[None], NET.apply(theta, batch.x), -jnp.inf)
    return losses.cross_entropy(logits, batch.y).mean()


def active(space, task):
    return jnp.array([True, True, True, False]) if space.members is None else space.members[task]


def outer_loss(space, w):
    """L_2(theta') + sum_j w_j L_j(theta'), theta' from STEPS steps on the support set."""

    def outer(params):
        theta = params["theta"]
        for _ in range(STEPS):
            grads = jax.grad(cross_entropy)(theta, EPISODE.support, active(space, 2))
            theta = jax.tree.map(lambda p, g: p - ALPHA * g, theta, grads)
        past = sum(w[j] * cross_entropy(theta, PAST[j], active(space, j)) for j in range(2))
        return cross_entropy(theta, EPISODE.query, active(space, 2)) + past

    return outer


@pytest.mark.parametrize("space", [CLASS, TASK], ids=["class", "task"])
@pytest.mark.parametrize("reduction", history.REDUCTIONS)
def test_the_history_is_judged_at_the_adapted_parameters(space, reduction):
    learner = lifelong_maml(
        FEW_SHOT, optax.sgd(1.0), space, decay=0.5, reduction=reduction, every_task=True,
        bank=memory.task_indexed(4, tasks=3), past_batch=3,
    )  # fmt: skip
    before, got = update(learner)
    raw = np.array([0.25, 0.5])
    w = {"sum": raw, "mean": raw / 2, "normalised": raw / raw.sum()}[reduction]
    want = jax.grad(outer_loss(space, w))(before)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-6)


def test_a_bank_of_one_class_each_gives_the_same_gradient():
    """Class j is task j and all its rows are the same: only how often each is drawn is random."""
    learner = lifelong_maml(
        FEW_SHOT, optax.sgd(1.0), CLASS, decay=0.5, past_batch=4000,
        bank=memory.class_balanced(4, classes=CLASSES),
    )  # fmt: skip
    before, got = update(learner)
    want = jax.grad(outer_loss(CLASS, np.array([1, 2]) / 3))(before)
    bound = 5 * 0.5 / np.sqrt(4000)
    moved = jax.grad(outer_loss(CLASS, np.array([1, 2]) / 3 + [bound, -bound]))(before)
    gaps = jax.tree.map(lambda a, b: a - b, moved, want)
    atol = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gaps))
    chex.assert_trees_all_close(got, want, atol=atol)
    assert atol < 0.2 * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))


def test_joint_training_minimises_the_mean_over_all_tasks():
    """2,000 draws from the past: the share of each task is right within 5 standard errors."""
    learner = joint(FEW_SHOT, optax.sgd(1.0), CLASS, capacity=4, past_batch=2000)
    before, got = update(learner)
    both = jax.tree.map(lambda s, q: jnp.concatenate([s, q]), EPISODE.support, EPISODE.query)

    def outer(params, share=0.5):
        labels, theta = active(CLASS, 2), params["theta"]
        past = share * cross_entropy(theta, PAST[0], labels)
        past += (1 - share) * cross_entropy(theta, PAST[1], labels)
        return (cross_entropy(theta, both, labels) + 2 * past) / 3

    want = jax.grad(outer)(before)
    error = 5 * 0.5 / np.sqrt(2000)
    moved = jax.tree.map(lambda a, b: a - b, jax.grad(outer)(before, 0.5 + error), want)
    bound = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(moved))
    chex.assert_trees_all_close(got, want, atol=bound)
    assert bound < 0.2 * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))


def test_the_inner_step_is_among_the_active_classes():
    params = FEW_SHOT.init(KEY, EPISODE.support.x)
    labels = jnp.array([True, True, True, False])
    fast = FEW_SHOT.adapt(params, EPISODE.support, KEY, labels=labels)
    assert fast.params["head"]["bias"][3] == params["theta"]["head"]["bias"][3]
    assert fast.params["head"]["bias"][2] > params["theta"]["head"]["bias"][2]
