import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.lifelong import history
from lml_jax.memory import fifo, reservoir, task_indexed

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("reduction", "want"),
    [
        ("sum", [0.125, 0.25, 0.5, 0.0]),
        ("mean", [0.125 / 3, 0.25 / 3, 0.5 / 3, 0.0]),
        ("normalised", [1 / 7, 2 / 7, 4 / 7, 0.0]),
    ],
)
def test_weights_literal(reduction, want):
    got = history.weights(jnp.array(3), tasks=4, decay=0.5, reduction=reduction)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("reduction", history.REDUCTIONS)
def test_before_the_first_task_is_finished_nothing_counts(reduction):
    assert (
        history.weights(jnp.array(0), tasks=4, decay=0.9, reduction=reduction).tolist() == [0] * 4
    )


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"in \(0, 1\], got"):
        history.check_decay(decay, "sum")


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'average'"):
        history.check_decay(0.5, "average")


FILLER = jnp.array([-1.0, -2.0])


def insert(bank, state, task, size, weight=None):
    items = (jnp.full(size, float(task)), jnp.full(size, task, jnp.int32), jnp.full(size, task))
    where = None if weight is None else jnp.asarray(weight) > 0
    return bank.insert(state, items, jax.random.fold_in(KEY, task), where)


def empty(bank):
    return bank.init((jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)))


@pytest.fixture
def past():
    """Two finished tasks of three: the value of x is the task."""
    bank = task_indexed(3, tasks=3)
    state = empty(bank)
    for task, size in ((0, 2), (1, 4)):
        state = insert(bank, state, task, size)
    return bank, state


def test_each_task_has_its_own_group_and_padding_stays_out(past):
    bank, state = past
    assert state.seen.tolist() == [2, 4, 0]
    assert insert(bank, state, 2, 3, [1.0, 0.0, 0.0]).seen.tolist() == [2, 4, 1]


def test_a_draw_is_of_its_task_and_not_of_an_unfinished_one(past):
    bank, state = past
    for j in range(2):
        drawn = history.draw(bank, state, FILLER, KEY, n=20, task=jnp.array(j))
        assert set(drawn.x.tolist()) == {float(j)}
        assert drawn.weight.all()
    drawn = history.draw(bank, state, FILLER, KEY, n=3, task=jnp.array(2))
    assert not drawn.weight.any()
    # What stands in for a missing example is an image of the caller's, never an empty slot.
    assert set(drawn.x.tolist()) <= set(FILLER.tolist())


def test_all_finished_tasks_have_the_same_share(past):
    bank, state = past
    drawn = history.draw(bank, state, FILLER, KEY, n=6000)
    assert drawn.weight.all()
    np.testing.assert_allclose((drawn.task == 1).mean(), 0.5, atol=5 * np.sqrt(0.25 / 6000))
    np.testing.assert_array_equal(drawn.x, drawn.task.astype(float))


def mean_loss(drawn):
    """L_j = 1 + j."""
    total = jnp.maximum(jnp.sum(drawn.weight), 1e-9)
    return {"loss": 1.0 + jnp.sum(drawn.weight * drawn.x) / total}


@pytest.mark.parametrize("reduction", history.REDUCTIONS)
def test_both_estimators_have_the_same_mean(past, reduction):
    """The sum over every j is exact, the draw is unbiased within 5 standard errors."""
    bank, state = past
    w = history.weights(jnp.array(2), tasks=3, decay=0.5, reduction=reduction)

    def one(key, every_task):
        got = history.estimate(bank, state, mean_loss, w, FILLER, key, n=2, every_task=every_task)
        return got["loss"]

    want = float(w[0] * 1.0 + w[1] * 2.0)
    np.testing.assert_allclose(one(KEY, True), want, rtol=1e-6)
    draws = jax.vmap(lambda k: one(k, False))(jax.random.split(KEY, 4000))
    error = draws.std() / np.sqrt(4000)
    assert error > 0
    np.testing.assert_allclose(draws.mean(), want, atol=5 * error)


@pytest.mark.parametrize("bank", [reservoir(200), fifo(200)], ids=["reservoir", "fifo"])
def test_any_bank_estimates_the_weighted_past(bank):
    """As many examples of each task: many draws come near the weighted sum."""
    state = empty(bank)
    for task in (0, 1):
        state = insert(bank, state, task, 100)
    w = history.weights(jnp.array(2), tasks=3, decay=0.5, reduction="sum")
    got = history.estimate(bank, state, mean_loss, w, FILLER, KEY, n=4000, every_task=False)["loss"]
    want = float(w[0] * 1.0 + w[1] * 2.0)
    np.testing.assert_allclose(got, want, rtol=0.03)


@pytest.mark.parametrize("every_task", [True, False])
def test_without_a_past_there_is_no_loss(every_task):
    bank = task_indexed(2, tasks=3)
    w = history.weights(jnp.array(0), tasks=3, decay=0.5)
    got = history.estimate(bank, empty(bank), mean_loss, w, FILLER, KEY, n=2, every_task=every_task)
    assert float(got["loss"]) == 0.0
