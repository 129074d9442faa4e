import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.memory import reservoir

KEY = jax.random.key(0)


def test_fills_in_order_and_keeps_types():
    bank = reservoir(4)
    state = bank.init((jnp.zeros((2, 2), jnp.uint8), jnp.zeros((), jnp.int32)))
    x = jnp.arange(12, dtype=jnp.uint8).reshape(3, 2, 2)
    state = bank.insert(state, (x, jnp.arange(3)), KEY)
    np.testing.assert_array_equal(state.items[0][:3], x)
    assert state.items[0].dtype == jnp.uint8
    assert state.items[1].tolist() == [0, 1, 2, 0]
    assert int(state.seen) == 3


def test_an_empty_bank_answers_with_zeros_that_are_not_valid():
    bank = reservoir(3)
    batch, valid = bank.sample(bank.init(jnp.zeros(2)), KEY, n=5)
    assert not valid.any()
    np.testing.assert_array_equal(batch, np.zeros((5, 2)))


def test_every_item_is_kept_with_the_same_probability():
    """capacity / t for each of t items, in batches across the capacity; 5 standard errors."""
    capacity, total, runs = 5, 20, 4000
    bank = reservoir(capacity)

    def kept(key):
        state = bank.init(jnp.zeros((), jnp.int32))
        for start, size in ((0, 3), (3, 7), (10, 10)):
            key, own = jax.random.split(key)
            state = bank.insert(state, jnp.arange(start, start + size), own)
        return jnp.zeros(total).at[state.items].add(1.0)

    counts = jax.jit(jax.vmap(kept))(jax.random.split(KEY, runs))
    assert counts.max() == 1.0  # nothing twice
    p = capacity / total
    error = np.sqrt(p * (1 - p) / runs)
    np.testing.assert_allclose(counts.mean(axis=0), p, atol=5 * error)


def test_padding_is_not_offered():
    bank = reservoir(4)
    state = bank.init(jnp.zeros((), jnp.int32))
    where = jnp.array([True, False, True, False])
    state = bank.insert(state, jnp.array([1, 2, 3, 4]), KEY, where)
    assert state.items.tolist() == [1, 3, 0, 0]
    assert int(state.seen) == 2


def test_sampling_never_reaches_what_was_not_filled():
    bank = reservoir(100)
    state = bank.insert(bank.init(jnp.zeros(())), jnp.array([5.0, 6.0]), KEY)
    batch, valid = bank.sample(state, KEY, n=500)
    assert valid.all()
    assert set(batch.tolist()) == {5.0, 6.0}


def test_insert_and_sample_under_jit_scan_and_vmap():
    bank = reservoir(8)

    def run(key):
        def body(state, key):
            state = bank.insert(state, jax.random.normal(key, (3,)), key)
            return state, bank.sample(state, key, n=2)[1]

        return jax.lax.scan(body, bank.init(jnp.zeros(())), jax.random.split(key, 5))

    state, valid = jax.jit(jax.vmap(run))(jax.random.split(KEY, 2))
    assert state.seen.tolist() == [15, 15]
    assert valid.all()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (jnp.zeros((2, 3)), r"\(3,\)"),
        (jnp.zeros((2, 2), jnp.int32), "int32"),
        ((jnp.zeros((2, 2)),), "structure"),
    ],
)
def test_items_that_do_not_fit_are_refused(batch, message):
    bank = reservoir(2)
    with pytest.raises(ValueError, match=message):
        bank.insert(bank.init(jnp.zeros(2)), batch, KEY)


def test_capacity_must_be_positive():
    with pytest.raises(ValueError, match="got 0"):
        reservoir(0)
