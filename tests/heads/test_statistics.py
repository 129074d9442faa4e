"""Statistics of classes: exact in any order, merged, forgotten, and safe against bad input."""

import chex
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from lml_jax import heads
from lml_jax.heads import empty, forget, grow, learn, merge, unlearn

KEY = jax.random.key(0)


def features(n=60, d=4, classes=3, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    z = rng.normal(size=(n, d)) + y[:, None] + offset
    return jnp.asarray(z, jnp.float32), jnp.asarray(y, jnp.int32)


def both(classes=3, d=4):
    return empty(classes, d, spread=True, scatter=True)


def by_hand(z, y, weight=None, classes=3):
    """Moments with NumPy in float64."""
    z, y = np.asarray(z, float), np.asarray(y)
    weight = np.ones(len(y)) if weight is None else np.asarray(weight, float)
    total = np.array([weight[y == k].sum() for k in range(classes)])
    sums = [(weight[y == k, None] * z[y == k]).sum(0) for k in range(classes)]
    mean = np.array(sums) / np.maximum(total, 1e-300)[:, None]
    from_mean = z - mean[np.maximum(y, 0)]
    weight = np.where(y >= 0, weight, 0.0)
    spread = [(weight[y == k, None] * from_mean[y == k] ** 2).sum(0) for k in range(classes)]
    return total, mean, np.array(spread), (weight[:, None] * from_mean).T @ from_mean


def check(stats, z, y, weight=None, classes=3, tol=1e-6):
    """Every statistic, relative to the largest of its kind."""
    exact = by_hand(z, y, weight, classes)
    for high, low, want in zip(*stats, exact, strict=True):
        got = np.asarray(high, float) + np.asarray(low, float)
        np.testing.assert_allclose(got, want, atol=tol * np.abs(want).max(), rtol=0)


@jax.jit
def one_by_one(stats, z, y):
    def step(stats, example):
        return learn(stats, example[0][None], example[1][None]), None

    return jax.lax.scan(step, stats, (z, y))[0]


def test_moments_are_those_of_each_class():
    z, y = features()
    check(learn(both(), z, y), z, y)


def test_weights_count_examples():
    z, y = features()
    weight = jnp.asarray(np.random.default_rng(1).integers(0, 4, 60), jnp.float32)
    check(learn(both(), z, y, weight), z, y, weight)
    twice = learn(learn(both(), z, y), z, y)
    check(learn(both(), z, y, jnp.full(60, 2)), jnp.tile(z, (2, 1)), jnp.tile(y, 2))
    chex.assert_trees_all_close(
        learn(both(), z, y, jnp.full(60, 2)).moments, twice.moments, rtol=1e-5
    )


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_any_order_any_pieces_and_merged(offset):
    """Also with a mean 100 times the deviations, and across several blocks."""
    z, y = features(n=2500, offset=offset)
    check(learn(both(), z, y), z, y)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(2500)
        a, b, c = np.split(order, [300, 1700])
        first = one_by_one(both(), z[a], y[a])
        second = learn(learn(both(), z[b], y[b]), z[:0], y[:0])
        for stats in (merge(merge(first, second), one_by_one(both(), z[c], y[c])),
                      learn(merge(second, first), z[c], y[c])):  # fmt: skip
            check(stats, z, y)


def test_thousands_of_additions_lose_nothing():
    """Without the rounding that is carried along, the same additions are 10 times less exact."""
    z, y = features(n=30_000, d=2, classes=1, offset=30.0)
    check(one_by_one(both(1, 2), z, y), z, y, classes=1, tol=1e-7)

    @jax.jit
    def plain(z):
        def step(carry, z):
            n, mean, spread = carry
            new = mean + (z - mean) / (n + 1)
            return (n + 1, new, spread + (z - mean) * (z - new)), None

        return jax.lax.scan(step, (0.0, jnp.zeros(2), jnp.zeros(2)), z)[0][2]

    exact = by_hand(z, y, classes=1)[2][0]
    assert np.abs(np.asarray(plain(z), float) - exact).max() > 1e-6 * exact.max()


def test_two_classes_apart_are_merged_bit_for_bit():
    z, y = features()
    stats = [learn(both(), z[y == k], y[y == k]) for k in range(3)]
    merged = merge(merge(stats[2], stats[0]), stats[1])
    for k in range(3):
        for got, want in zip(merged.moments[:3], stats[k].moments[:3], strict=True):
            np.testing.assert_array_equal(got[k], want[k])


def test_padding_may_be_anything():
    z, y = features()
    odd = jnp.concatenate([z, jnp.full((3, 4), jnp.nan), jnp.full((1, 4), jnp.inf)])
    labels = jnp.concatenate([y, jnp.array([0, 99, -1, -1], jnp.int32)])
    weight = jnp.ones(64).at[60:62].set(0.0)
    padded = learn(both(), odd, labels, weight)
    chex.assert_trees_all_close(padded, learn(both(), z, y), atol=1e-5)

    def total(z):
        stats = learn(both(), z, labels, weight)
        return sum(leaf.sum() for leaf in jax.tree.leaves(stats.moments))

    slope = jax.grad(total)(odd)
    assert jnp.isfinite(slope[:60]).all()
    assert (slope[60:] == 0).all()


def test_inside_jit_a_wrong_label_is_not_silent():
    z, y = features()
    for label in (3, 99, -2):
        bad = jax.jit(learn)(both(), z, y.at[5].set(label))
        for head in (heads.nearest_mean(), heads.gaussian(), heads.lda(), heads.ridge()):
            assert jnp.isnan(head.logits(bad, z)).all()
    weight = jnp.ones(60).at[5].set(0.0)
    good = jax.jit(learn)(both(), z, y.at[5].set(99), weight)
    chex.assert_trees_all_close(good, learn(both(), z, y, weight), atol=1e-5)


def test_a_feature_that_is_not_finite():
    z, y = features()
    odd = z.at[7, 2].set(jnp.nan).at[9, 0].set(jnp.inf)
    with pytest.raises(ValueError, match="those of 2 examples are not, the first is number 7"):
        learn(both(), odd, y)
    bad = jax.jit(learn)(both(), odd, y)
    for head in (heads.nearest_mean(), heads.gaussian(), heads.lda(), heads.ridge()):
        assert not jnp.isfinite(head.logits(bad, z)).any()


def test_labels_of_a_narrow_type():
    z, y = features(n=600, classes=300)
    wide = learn(both(300), z, y)
    chex.assert_trees_all_equal(learn(both(300), z, y.astype(jnp.uint16)), wide)
    few = y % 256
    narrow = learn(both(300), z, few.astype(jnp.uint8))
    chex.assert_trees_all_equal(narrow, learn(both(300), z, few))
    assert (narrow.moments.total[256:] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((jnp.zeros((2, 5)), jnp.zeros(2, int)), r"expected features \[n, 4\], got \[2, 5\]"),
        ((jnp.zeros((2, 2, 2)), jnp.zeros(2, int)), r"got \[2, 2, 2\]"),
        ((jnp.zeros((2, 4)), jnp.zeros(2)), r"labels must be integers, got float32 \[2\]"),
        ((jnp.zeros((2, 4)), jnp.zeros((2, 1), int)), r"got int32 \[2, 1\]; take y\[:, 0\]"),
        ((jnp.zeros((2, 4)), jnp.zeros(3, int)), r"of one length, got \[2, 3, 3\]"),
        ((jnp.zeros((2, 4)), jnp.zeros(2, int), jnp.ones(1)), r"got \[2, 2, 1\]"),
        ((jnp.zeros((2, 4)), jnp.array([0, 3])), r"in 0..3, expected -1..2"),
        ((jnp.zeros((2, 4)), jnp.zeros(2, int), jnp.array([1.0, -1.0])), r"got -1.0 at 1"),
        ((jnp.zeros((2, 4)), jnp.zeros(2, int), jnp.array([jnp.nan, 1.0])), r"got nan at 0"),
    ],
)
def test_bad_examples_are_named(arguments, message):
    for verb in (learn, unlearn):
        with pytest.raises(ValueError, match=message):
            verb(both(), *arguments)


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match="got 0 and 2"):
        empty(0, 2)
    with pytest.raises(ValueError, match="only statistics of equal shapes"):
        merge(both(), both(4))
    with pytest.raises(ValueError, match="only statistics of equal shapes"):
        merge(both(), empty(3, 4, spread=True))
    with pytest.raises(ValueError, match=r"expected a label in 0..2, got -1"):
        forget(empty(3, 4), -1)
    with pytest.raises(ValueError, match="unlearn"):
        forget(both(), 0)
    with pytest.raises(ValueError, match="expected at least 3 classes, got 2"):
        grow(both(), 2)
    for head in (heads.lda(), heads.ridge(), heads.gaussian()):
        with pytest.raises(ValueError, match="as its own `init` makes them"):
            head.logits(empty(3, 4), jnp.zeros((1, 4)))


def test_a_class_is_forgotten_exactly():
    z, y = features()
    start = empty(3, 4, spread=True)
    want = learn(start, z[y != 1], y[y != 1])
    got = jax.jit(forget)(learn(start, z, y), 1)
    chex.assert_trees_all_close(got.moments, want.moments, rtol=1e-6)
    again = learn(got, z[y == 1], y[y == 1])
    chex.assert_trees_all_close(again.moments, learn(start, z, y).moments, rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_examples_are_unlearned(offset):
    z, y = features(n=300, offset=offset)
    taken = jnp.arange(300) % 4 == 0
    got = unlearn(learn(both(), z, y), z[taken], y[taken])
    check(got, z[~taken], y[~taken], tol=1e-5 if offset else 1e-6)
    gone = y == 2
    got = unlearn(learn(both(), z, y), z[gone], y[gone])
    check(got, z[~gone], y[~gone], tol=1e-5 if offset else 1e-6)
    assert jnp.isneginf(heads.lda().logits(got, z)[:, 2]).all()


def test_fractional_weights_cancel():
    z, y = features()
    weight = jnp.full(60, 0.1)
    nothing = unlearn(learn(both(), z, y, weight), z[::-1], y[::-1], weight)
    assert (nothing.moments.total == 0).all()
    assert jnp.isneginf(heads.nearest_mean().logits(nothing, z)).all()


def test_growing_changes_no_old_class():
    z, y = features()
    stats = learn(both(), z, y)
    more = grow(stats, 5)
    for head in (heads.nearest_mean(), heads.gaussian(), heads.lda(), heads.ridge()):
        logits = head.logits(more, z)
        assert jnp.isneginf(logits[:, 3:]).all()
        np.testing.assert_allclose(logits[:, :3], head.logits(stats, z), rtol=1e-5, atol=1e-5)
    new = learn(more, z + 50, y * 0 + 4)
    assert (heads.lda().logits(new, z + 50).argmax(1) == 4).all()


def test_vmap_is_a_loop():
    parts = [features(seed=s) for s in range(3)]
    z, y = (jnp.stack(leaves) for leaves in zip(*parts, strict=True))
    together = jax.vmap(learn, in_axes=(None, 0, 0))(both(), z, y)
    for i, (own_z, own_y) in enumerate(parts):
        one = learn(both(), own_z, own_y)
        chex.assert_trees_all_close(
            jax.tree.map(lambda a, i=i: a[i], together.moments), one.moments, rtol=1e-5
        )


def test_the_second_call_compiles_nothing():
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(learn, n=1))
    stats = both()
    for seed in range(3):
        stats = step(stats, *features(seed=seed))


def test_statistics_are_differentiable(x64):
    z, y = features(n=9)
    z = jnp.asarray(z, float)

    def moments(z):
        start = learn(both(), z[:4], y[:4])
        return learn(start, z[4:], y[4:]).moments

    jax.test_util.check_grads(moments, (z,), order=2, modes=("rev",), atol=1e-6, rtol=1e-6)
