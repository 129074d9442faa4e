import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax import losses, memory
from lml_jax.lifelong import history
from lml_jax.lifelong.label_space import LabelSpace

KEY = jax.random.key(0)
TASKS = 3
SPACE = LabelSpace(TASKS, jnp.zeros(TASKS, bool))
FILLER = jnp.array([-7.0, -8.0])  # what stands where a bank has nothing to give


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
    got = history.weights(jnp.array(0), tasks=4, decay=0.9, reduction=reduction)
    assert got.tolist() == [0] * 4


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"in \(0, 1\], got"):
        history.check_decay(decay, "sum")


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'average'"):
        history.check_decay(0.5, "average")


BANKS = {
    "task_indexed": memory.task_indexed(50, tasks=TASKS),
    "reservoir": memory.reservoir(50),
    "class_balanced": memory.class_balanced(50, classes=TASKS),
}


def empty(bank):
    return bank.init(SPACE.item(jnp.zeros(1)))


def filled(bank):
    """Two finished tasks of three, 2 and 4 examples: the value of x is the task."""
    state = empty(bank)
    for i, size in ((0, 2), (1, 4)):
        items = (jnp.full(size, float(i)), jnp.full(size, i, jnp.int32), jnp.full(size, i))
        state = bank.insert(state, items, jax.random.fold_in(KEY, i))
    return state


@pytest.fixture
def past():
    return BANKS["task_indexed"], filled(BANKS["task_indexed"])


def test_each_task_has_a_bank_of_its_own_and_padding_stays_out(past):
    bank, state = past
    assert state.seen.tolist() == [2, 4, 0]
    items = (jnp.full(3, 2.0), jnp.full(3, 2), jnp.full(3, 2))
    offered = jnp.array([True, False, False])
    assert bank.insert(state, items, KEY, offered).seen.tolist() == [2, 4, 1]


def test_a_draw_is_of_its_task_and_not_of_an_unfinished_one(past):
    bank, state = past
    for j in range(2):
        drawn = history.draw(bank, state, FILLER, KEY, n=20, task=jnp.array(j))
        assert set(drawn.x.tolist()) == {float(j)}
        assert set(drawn.task.tolist()) == {j}
        assert drawn.weight.tolist() == [1.0] * 20
    none = history.draw(bank, state, FILLER, KEY, n=3, task=jnp.array(2))
    assert none.weight.tolist() == [0.0] * 3
    # What a network is shown there is an image, and not the zeros of an empty slot.
    assert none.x.tolist() == [-7.0, -8.0, -7.0]


def test_the_union_gives_every_finished_task_the_same_share(past):
    bank, state = past
    drawn = history.draw(bank, state, FILLER, KEY, n=6000)
    assert (drawn.weight == 1).all()
    np.testing.assert_allclose((drawn.task == 1).mean(), 0.5, atol=5 * np.sqrt(0.25 / 6000))
    np.testing.assert_array_equal(drawn.x, drawn.task.astype(float))


def loss_of(drawn):
    """L_j = 1 + j."""
    return {"past": 1.0 + losses.weighted_mean(drawn.x, drawn.weight)}


@pytest.mark.parametrize("reduction", history.REDUCTIONS)
def test_both_estimators_have_the_same_mean(past, reduction):
    """The sum over every j is exact, the draw is unbiased within 5 standard errors."""
    bank, state = past
    w = history.weights(jnp.array(2), tasks=3, decay=0.5, reduction=reduction)

    def one(key, every):
        args = bank, state, loss_of, w, FILLER, key
        return history.estimate(*args, n=2, every_task=every)["past"]

    want = float(w[0] * 1.0 + w[1] * 2.0)
    np.testing.assert_allclose(one(KEY, True), want, rtol=1e-6)
    draws = jax.vmap(lambda k: one(k, False))(jax.random.split(KEY, 4000))
    error = draws.std() / np.sqrt(4000)
    assert error > 0
    np.testing.assert_allclose(draws.mean(), want, atol=5 * error)


@pytest.mark.parametrize("name", ["reservoir", "class_balanced"])
@pytest.mark.parametrize("reduction", history.REDUCTIONS)
def test_a_bank_without_tasks_weighs_each_example_by_its_task(name, reduction):
    """W sum_k w_{t_k} l_k / sum_k w_{t_k}: what many examples give, by hand."""
    bank = BANKS[name]
    w = history.weights(jnp.array(2), tasks=3, decay=0.5, reduction=reduction)
    args = bank, filled(bank), loss_of, w, FILLER, KEY
    got = history.estimate(*args, n=20_000, every_task=False)["past"]
    # The reservoir holds 2 examples of task 0 and 4 of task 1; the other draws a class first.
    share = {"reservoir": np.array([2, 4]) / 6, "class_balanced": np.array([1, 1]) / 2}[name]
    mass = share * np.asarray(w[:2])
    want = float(w.sum()) * (mass * np.array([1.0, 2.0])).sum() / mass.sum()
    np.testing.assert_allclose(got, want, atol=float(w.sum()) * 5 * 0.5 / np.sqrt(20_000))


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("every", [True, False])
def test_without_a_past_the_history_is_nothing(name, every):
    bank = BANKS[name]
    w = history.weights(jnp.array(0), tasks=3, decay=0.5)
    args = bank, empty(bank), lambda d: {"past": jnp.sum(d.x) + 1}, w, FILLER, KEY
    assert float(history.estimate(*args, n=2, every_task=every)["past"]) == 0.0
