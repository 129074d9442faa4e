import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.lifelong import history
from lml_jax.types import Batch

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("form", "want"),
    [
        ("sum", [0.125, 0.25, 0.5, 0.0]),
        ("mean", [0.125 / 3, 0.25 / 3, 0.5 / 3, 0.0]),
        ("normalised", [1 / 7, 2 / 7, 4 / 7, 0.0]),
    ],
)
def test_weights_literal(form, want):
    got = history.weights(jnp.array(3), tasks=4, decay=0.5, form=form)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("form", history.FORMS)
def test_before_the_first_task_is_finished_nothing_counts(form):
    assert history.weights(jnp.array(0), tasks=4, decay=0.9, form=form).tolist() == [0] * 4


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"in \(0, 1\], got"):
        history.check_decay(decay, "sum")


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="'average'"):
        history.check_decay(0.5, "average")


@pytest.fixture
def past():
    """Two finished tasks of three: the value of x is the task."""
    bank = history.bank_of(3)
    state = history.init(bank, Batch(jnp.zeros(()), jnp.zeros((), jnp.int32)), tasks=3)
    for i, size in ((0, 2), (1, 4)):
        batch = Batch(jnp.full(size, float(i)), jnp.full(size, i, jnp.int32))
        state = history.finish(bank, state, batch, jax.random.fold_in(KEY, i))
    return bank, state


def test_each_task_has_its_own_bank_and_padding_stays_out(past):
    bank, state = past
    assert state.finished == 2
    assert state.banks.seen.tolist() == [2, 4, 0]
    batch = Batch(jnp.full(3, 2.0), jnp.full(3, 2), jnp.array([1.0, 0.0, 0.0]))
    assert history.finish(bank, state, batch, KEY).banks.seen.tolist() == [2, 4, 1]


def test_a_draw_is_of_its_task_and_not_of_an_unfinished_one(past):
    bank, state = past
    for j in range(2):
        drawn = history.draw(bank, state, jnp.array(j), KEY, n=20)
        assert set(drawn.x.tolist()) == {float(j)}
        assert drawn.valid.all()
    assert not history.draw(bank, state, jnp.array(2), KEY, n=3).valid.any()


def test_the_union_gives_every_finished_task_the_same_share(past):
    bank, state = past
    drawn = history.draw_union(bank, state, KEY, n=6000)
    assert drawn.valid.all()
    np.testing.assert_allclose((drawn.task == 1).mean(), 0.5, atol=5 * np.sqrt(0.25 / 6000))
    np.testing.assert_array_equal(drawn.x, drawn.task.astype(float))


@pytest.mark.parametrize("form", history.FORMS)
def test_both_estimators_have_the_same_mean(past, form):
    """L_j = 1 + j: the sum over every j is exact, the draw is unbiased within 5 standard errors."""
    bank, state = past
    w = history.weights(state.finished, tasks=3, decay=0.5, form=form)

    def loss_of(drawn):
        return 1.0 + jnp.mean(drawn.x)

    def one(key, every):
        return history.estimate(bank, state, loss_of, w, key, n=2, every=every)

    want = float(w[0] * 1.0 + w[1] * 2.0)
    np.testing.assert_allclose(one(KEY, True), want, rtol=1e-6)
    draws = jax.vmap(lambda k: one(k, False))(jax.random.split(KEY, 4000))
    error = draws.std() / np.sqrt(4000)
    assert error > 0
    np.testing.assert_allclose(draws.mean(), want, atol=5 * error)


@pytest.mark.parametrize("every", [True, False])
def test_without_a_past_the_history_is_nothing(every):
    bank = history.bank_of(2)
    state = history.init(bank, Batch(jnp.zeros(()), jnp.zeros((), jnp.int32)), tasks=3)
    w = history.weights(state.finished, tasks=3, decay=0.5)
    got = history.estimate(bank, state, lambda d: jnp.sum(d.x) + 1, w, KEY, n=2, every=every)
    assert float(got) == 0.0
