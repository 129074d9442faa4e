"""Networks: shapes, images of either type, what a prediction depends on, and the messages."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax import nets
from lml_jax.nets import feedforward

KEY = jax.random.key(1)


def images(n=4, side=16, seed=0):
    return jax.random.randint(jax.random.key(seed), (n, side, side), 0, 256).astype(jnp.uint8)


NETS = {
    "mlp": lambda outputs: nets.mlp((8, 8), outputs),
    "strided": lambda outputs: nets.conv4(outputs, filters=8),
    "pooled": lambda outputs: nets.conv4(outputs, filters=8, pool=True),
    "group": lambda outputs: nets.conv4(outputs, filters=8, norm="group"),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_outputs_params_and_uint8(make):
    net, x = make(5), images()
    params = net.init(jax.random.key(1), x)
    assert type(params) is dict
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))
    apply = jax.jit(net.apply)
    logits = apply(params, x)
    assert logits.shape == (4, 5)
    assert logits.dtype == jnp.float32
    as_float = x.astype(jnp.float32) / 255
    np.testing.assert_allclose(apply(params, as_float), logits, atol=1e-6)
    np.testing.assert_allclose(apply(params, as_float[..., None]), logits, atol=1e-6)
    again = net.init(jax.random.key(1), as_float)
    jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.parametrize(
    ("side", "pool", "features"),
    [(28, False, 8), (84, False, 8), (5, False, 8), (28, True, 8), (35, True, 2 * 2 * 8)],
)
def test_embedding_width(side, pool, features):
    net = nets.conv4(None, filters=8, pool=pool)
    x = images(2, side)
    params = jax.eval_shape(net.init, jax.random.key(1), x)
    assert "head" not in params
    assert jax.eval_shape(net.apply, params, x).shape == (2, features)


def test_initial_head_is_small_and_kernels_are_glorot():
    params = nets.conv4(20).init(jax.random.key(0), images())
    assert params["head"]["kernel"].std() == pytest.approx(0.0088, rel=0.1)
    assert params["conv2"]["kernel"].std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    assert nets.mlp((40,), 1, scale=0.01).init(jax.random.key(0), jnp.ones((3, 40)))["layer1"][
        "kernel"
    ].std() == pytest.approx(0.0088, rel=0.1)


@pytest.mark.parametrize("pool", [False, True])
def test_group_statistics_do_not_mix_images_and_transductive_ones_do(pool):
    x, other = images(), images(seed=9).at[0].set(images()[0])
    for norm, alone in [("group", True), ("transductive", False)]:
        net = nets.conv4(5, filters=8, norm=norm, pool=pool)
        params = net.init(jax.random.key(1), x)
        apply = jax.jit(net.apply)
        same = np.allclose(apply(params, x)[0], apply(params, other)[0], atol=1e-7)
        assert same == alone


@pytest.mark.parametrize("groups", [None, 4])
def test_normalisation_is_that_of_the_equation(groups):
    x = 30 + 3 * jax.random.normal(jax.random.key(0), (5, 7, 6, 8))
    module = feedforward._Norm(groups, 1e-3)
    params = {"scale": jnp.arange(8.0), "bias": jnp.arange(8.0) - 3}
    got = module.apply({"params": params}, x)
    axes = (0, 1, 2) if groups is None else (1, 2, 4)
    v = np.asarray(x, np.float64)
    v = v if groups is None else v.reshape(5, 7, 6, groups, -1)
    v = (v - v.mean(axes, keepdims=True)) / np.sqrt(v.var(axes, keepdims=True) + 1e-3)
    want = v.reshape(x.shape) * np.arange(8.0) + np.arange(8.0) - 3
    np.testing.assert_allclose(got, want, atol=2e-4)


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_vmap_over_params_equals_a_loop(make):
    net = make(3)
    x = jnp.stack([images(seed=1), images(seed=2)])
    params = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 2), x)
    got = jax.jit(jax.vmap(net.apply))(params, x)
    alone = jax.jit(net.apply)
    for t in range(2):
        one = alone(jax.tree.map(lambda p: p[t], params), x[t])  # noqa: B023
        np.testing.assert_allclose(got[t], one, atol=1e-5)


def test_constant_images_have_finite_second_derivatives():
    net = nets.conv4(2, filters=8)
    x = jnp.zeros((3, 8, 8))
    params = net.init(jax.random.key(0), x)

    def loss(p):
        return jnp.sum(net.apply(p, x) ** 2)

    hessian_vector = jax.jit(lambda p: jax.jvp(jax.grad(loss), (p,), (p,))[1])(params)
    assert all(jnp.isfinite(h).all() for h in jax.tree.leaves(hessian_vector))


def test_max_pool_keeps_the_largest_and_drops_an_odd_edge():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(feedforward._max_pool(x)[0, :, :, 0], [[6, 8]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nets.conv4(5, norm="grup"), "unknown norm 'grup'; did you mean 'group'"),
        (lambda: nets.conv4(5, filters=12, norm="group"), "filters 12 is not a multiple"),
        (lambda: nets.conv4(0), "outputs must be at least 1, got 0"),
        (lambda: nets.mlp((4, 0), 2), r"hidden\[1\] must be at least 1, got 0"),
        (lambda: nets.conv4(5).init(jax.random.key(0), jnp.ones((2, 9))), r"got shape \(2, 9\)"),
        (lambda: nets.conv4(5, pool=True).init(jax.random.key(0), images(2, 12)), "at least 16x16"),
        (lambda: nets.mlp((4,), 2).init(jax.random.key(0), jnp.ones(3)), r"got shape \(3,\)"),
        (lambda: nets.mlp((4,), 2).init(jax.random.key(0), jnp.ones((2, 3), int)), "got int32"),
    ],
)
def test_messages_name_what_was_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_frozen_statistics_make_an_output_its_own_inputs_alone():
    net, x = nets.conv4(None, filters=8, pool=True), images(32)
    params = net.init(KEY, x)
    frozen = net.freeze(params, x)
    np.testing.assert_allclose(net.apply(frozen, x), net.apply(params, x), rtol=1e-4, atol=1e-5)
    alone = jnp.concatenate([net.apply(frozen, x[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(alone, net.apply(frozen, x)[:4], rtol=1e-4, atol=1e-5)
    assert jnp.abs(net.apply(params, x[:4]) - alone).max() > 1e-2


def test_freezing_again_measures_anew_and_statistics_are_not_trained():
    net, x = nets.conv4(None, filters=8), images(32)
    params = net.init(KEY, x)
    twice = net.freeze(net.freeze(params, x[:5]), x)
    jax.tree.map(np.testing.assert_array_equal, twice, net.freeze(params, x))
    grads = jax.grad(lambda p: net.apply(p, x).sum())(twice)
    assert not grads["norm1"]["mean"].any()
    assert not grads["norm1"]["var"].any()
    assert nets.conv4(None, norm="group").freeze is None


def test_a_convnet_of_listed_blocks_does_not_mix_its_images():
    x = jax.random.uniform(jax.random.key(0), (3, 12, 12))
    blocks = [nets.Block(8, stride=2), nets.Block(16, pool=True)]
    net = nets.convnet(None, blocks)
    params = net.init(jax.random.key(1), x)
    together = net.apply(params, x)
    assert together.shape == (3, 3 * 3 * 16)
    np.testing.assert_allclose(net.apply(params, x[1:2]), together[1:2], rtol=1e-4, atol=1e-5)
    headed = nets.convnet(5, blocks)
    assert headed.apply(headed.init(jax.random.key(1), x), x).shape == (3, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": []}, "at least one block"),
        ({"blocks": [nets.Block(12)]}, "multiple of group_size 8, got 12"),
        ({"outputs": 0}, "outputs must be at least 1, got 0"),
    ],
)
def test_bad_blocks_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        nets.convnet(**{"outputs": None, **options})


def test_channels_first_images_are_refused_and_channels_can_be_said():
    """[n, 3, 84, 84] is not 84 channels of 3 x 84 images."""
    net, x = nets.conv4(2, filters=8), jnp.zeros((2, 3, 84, 84))
    with pytest.raises(ValueError, match=r"looks like \[n, channels, H, W\].*transpose"):
        net.init(jax.random.key(0), x)
    params = net.init(jax.random.key(0), x.transpose(0, 2, 3, 1))
    assert params["conv1"]["kernel"].shape == (3, 3, 3, 8)
    with pytest.raises(ValueError, match=r"looks like"):
        net.apply(params, x)
    wide = nets.conv4(2, filters=8, channels=84)  # it is what was meant
    assert wide.init(jax.random.key(0), x)["conv1"]["kernel"].shape == (3, 3, 84, 8)
    with pytest.raises(ValueError, match=r"takes 84 channels on the last axis, got shape"):
        wide.init(jax.random.key(0), x.transpose(0, 2, 3, 1))
    with pytest.raises(ValueError, match=r"takes 3 channels"):
        nets.conv4(2, filters=8, channels=3).init(jax.random.key(0), jnp.zeros((2, 28, 28)))


@pytest.mark.parametrize("make", [partial(nets.conv4, filters=8, norm="group"), nets.convnet])
def test_normalised_features_are_what_the_head_sees(make):
    x = images(side=32)
    net = make(None, norm_features=True)
    features = net.apply(net.init(KEY, x), x)
    np.testing.assert_allclose(features.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(1), 1, atol=0.05)
    bare = make(None)
    raw = bare.apply(bare.init(KEY, x), x)
    centred = raw - raw.mean(1, keepdims=True)
    expected = centred / np.sqrt(np.square(centred).mean(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(features, expected, atol=1e-5)
