import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax import losses
from lml_jax.types import Batch


@pytest.mark.parametrize("variant", [lambda f: f, jax.jit])
def test_cross_entropy_literal(variant):
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    got = variant(losses.cross_entropy)(logits, jnp.array([1, 2]))
    np.testing.assert_allclose(got, [np.log(4.0), -np.log(0.7)], rtol=1e-6)


def test_masked_logits_take_no_part_and_have_no_gradient():
    logits = jnp.array([[1.0, 2.0, 3.0]])
    keep = jnp.array([True, True, False])

    def loss(z):
        return losses.cross_entropy(losses.mask_logits(z, keep), jnp.array([0]))[0]

    np.testing.assert_allclose(loss(logits), np.log(1 + np.e), rtol=1e-6)
    grad = jax.grad(loss)(logits)[0]
    p = np.e / (1 + np.e)
    np.testing.assert_allclose(grad, [-p, p, 0.0], rtol=1e-6)


def test_distillation_literal():
    """q = (0.8, 0.2), p = (0.5, 0.5), T = 2: the logits are twice the logarithms."""
    teacher, logits = (2 * jnp.log(jnp.array([row])) for row in ([0.8, 0.2], [0.5, 0.5]))
    got = losses.distillation(logits, teacher, temperature=2.0)
    np.testing.assert_allclose(got, [4 * np.log(2)], rtol=1e-6)

    # Its gradient is T (p - q), and a class that only the student knows takes no part in q.
    def loss(z):
        return losses.distillation(z, jnp.append(teacher, -jnp.inf)[None], temperature=2.0)[0]

    grad = jax.grad(loss)(jnp.append(logits, 2 * jnp.log(1.0))[None])[0]
    np.testing.assert_allclose(grad, 2 * (np.array([0.25, 0.25, 0.5]) - [0.8, 0.2, 0.0]), rtol=1e-5)
    masked = jax.grad(loss)(jnp.append(logits, -jnp.inf)[None])[0]
    np.testing.assert_allclose(masked, 2 * (np.array([0.5, 0.5, 0.0]) - [0.8, 0.2, 0.0]), rtol=1e-5)
    nothing = jax.value_and_grad(
        lambda z: losses.distillation(z, jnp.full((1, 2), -jnp.inf))[0]
    )(logits)  # fmt: skip
    assert float(nothing[0]) == 0.0
    np.testing.assert_array_equal(nothing[1], 0.0)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        losses.distillation(logits, teacher, temperature=0)


def test_unlabelled_examples_give_no_loss_and_no_weight():
    batch = Batch(jnp.zeros((2, 1)), jnp.array([-1, 0]), jnp.array([1.0, 0.5]))
    assert losses.cross_entropy(jnp.zeros((2, 3)), batch.y)[0] == 0.0
    np.testing.assert_allclose(losses.labelled(batch), [0.0, 0.5])


def test_squared_error_literal():
    got = losses.squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[2.0, 0.0]]))
    np.testing.assert_allclose(got, [5.0])


def test_weighted_mean_of_nothing_is_zero_even_beside_infinity():
    values, nothing = jnp.array([jnp.inf, 1.0]), jnp.zeros(2)
    assert losses.weighted_mean(values, nothing) == 0.0
    assert losses.weighted_mean(values, jnp.array([0.0, 2.0])) == 1.0


def test_wrong_ranks_are_refused():
    with pytest.raises(ValueError, match=r"float logits \[n, C\], got float32 \[3\]"):
        losses.cross_entropy(jnp.zeros(3), jnp.array([0]))
    with pytest.raises(ValueError, match=r"got \[2, 1\] and \[2, 2\]"):
        losses.squared_error(jnp.zeros((2, 1)), jnp.zeros((2, 2)))


def test_likelihoods_equal_their_literals():
    nll = losses.gaussian_nll(
        jnp.array([[1.0, 2.0]]), jnp.log(jnp.array(2.0)), jnp.array([[3.0, 2.0]])
    )
    np.testing.assert_allclose(nll, [0.5 + 2 * np.log(2) + np.log(2 * np.pi)], rtol=1e-6)
    logits = jnp.array([[np.log(3.0), 50.0, -50.0]])
    bits = losses.bernoulli_nll(logits, jnp.array([[1.0, 1.0, 0.0]]))
    np.testing.assert_allclose(bits, [-np.log(0.75)], rtol=1e-5)
    grey = losses.bernoulli_nll(jnp.zeros((1, 1)), jnp.array([[0.3]]))
    np.testing.assert_allclose(grey, [np.log(2)], rtol=1e-6)


def test_adversarial_losses_literal():
    real, fake = jnp.log(jnp.array([3.0, 1.0])), jnp.log(jnp.array([0.25, 1.0]))
    # sigma(log 3) = 3/4, sigma(log 1/4) = 1/5.
    np.testing.assert_allclose(
        losses.discriminator_loss(real, fake), [-np.log(0.75 * 0.8), 2 * np.log(2)], rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.saturating_loss(real, fake), [np.log(0.8), -np.log(2)], rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.non_saturating_loss(real, fake), [-np.log(0.2), np.log(2)], rtol=1e-6
    )
    # sigma(log 3 - log 1/4) = 12/13.
    np.testing.assert_allclose(
        losses.relativistic_loss(real, fake), [-np.log(12 / 13), np.log(2)], rtol=1e-6
    )


def test_gradient_penalty_is_of_each_example_alone_and_can_be_differentiated():
    x = jnp.array([[1.0, 2.0], [3.0, -1.0]])

    def penalty(w):
        return losses.gradient_penalty(lambda x: w * jnp.sum(x**2, axis=1), x)

    np.testing.assert_allclose(penalty(1.0), [2 * 5.0, 2 * 10.0], rtol=1e-6)
    np.testing.assert_allclose(jax.jacobian(penalty)(3.0), [4 * 3 * 5.0, 4 * 3 * 10.0], rtol=1e-6)


# jaxlib 0.10.2 returns garbage for some forms of this on CPU, and only inside jit.
@pytest.mark.parametrize(("n", "c", "d"), [(500, 600, 64), (300, 20, 64), (128, 128, 128)])
@pytest.mark.parametrize("weighted", [False, True])
def test_squared_distances_inside_jit(n, c, d, weighted):
    keys = jax.random.split(jax.random.key(0), 3)
    z, centre = jax.random.normal(keys[0], (n, d)), jax.random.normal(keys[1], (c, d))
    p = jax.random.uniform(keys[2], (c, d), minval=0.5) if weighted else None
    got = jax.jit(losses.squared_distances)(z, centre, p)
    by_hand = (np.asarray(z)[:, None] - np.asarray(centre)[None]) ** 2
    by_hand = by_hand * (1.0 if p is None else np.asarray(p)[None])
    np.testing.assert_allclose(got, by_hand.sum(2), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_common_offset_costs_no_precision(weighted):
    keys = jax.random.split(jax.random.key(0), 3)
    z, c = jax.random.normal(keys[0], (30, 6)), jax.random.normal(keys[1], (10, 6))
    p = jax.random.uniform(keys[2], (10, 6), minval=0.5) if weighted else None
    z, c = z + 300.0, (c + 300.0).at[0].set(0.0)  # a class without examples
    want = (np.asarray(z, float)[:, None] - np.asarray(c, float)[None]) ** 2
    want = (want * (1.0 if p is None else np.asarray(p)[None])).sum(2)
    got = losses.squared_distances(z, c, p, jnp.arange(10) > 0)
    np.testing.assert_allclose(got[:, 1:], want[:, 1:], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_distances_of_a_feature_depend_on_no_other(weighted):
    c = jnp.array([[0.0, 1.0], [1.0, 0.0], [3.0, 5.0]])
    p = jnp.array([[0.5, 1.0], [2.0, 1.0], [1.0, 3.0]]) if weighted else None
    z = jnp.array([[0.9, 0.2], [0.1, 0.3]])
    alone = losses.squared_distances(z, c, p)
    for other in (1e8, -1e20, jnp.nan, jnp.inf):
        more = jnp.concatenate([z, jnp.full((2, 2), other)])
        np.testing.assert_array_equal(losses.squared_distances(more, c, p)[:2], alone)


def test_a_centre_that_does_not_count_changes_no_other():
    c, z = jnp.array([[0.0], [1.0], [jnp.nan]]), jnp.array([[0.25]])
    got = losses.squared_distances(z, c, where=jnp.array([True, True, False]))
    np.testing.assert_allclose(got[:, :2], [[0.0625, 0.5625]], rtol=1e-6)


def test_distances_in_half_precision_do_not_overflow():
    z = jnp.full((1, 1600), 8.0)
    for dtype in (jnp.float16, jnp.bfloat16):
        d = losses.squared_distances(z.astype(dtype), -z.astype(dtype))
        assert d.dtype == jnp.float32
        assert d.tolist() == [[409_600.0]]
