"""MetaGAN: what D and G minimise, how samples join a support set, and what is refused."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import losses, nets, train
from lml_jax.generative.metagan.metagan import metagan
from lml_jax.learners.maml import maml
from lml_jax.learners.matching import matching
from lml_jax.learners.protonet import protonet
from lml_jax.losses import GAN_LOSSES, GanLoss
from lml_jax.types import Batch, ConditionalNet, Learner, Net, Task

KEY = jax.random.key(0)
N, RATE = 3, 0.5
NET = nets.mlp([32], N)
FROZEN = optax.set_to_zero()


def on_maml(loss, steps=1):
    return maml(NET, optax.sgd(RATE), steps=steps, loss=loss)


PROTONET = protonet(nets.mlp([16], 4), classes=N)
BASES = {
    "maml": (on_maml, on_maml(losses.cross_entropy)),
    "protonet": (PROTONET, PROTONET),
    "matching": (matching(nets.mlp([16], 4), classes=N),) * 2,
}


def model_of(base=on_maml, *, d_tx=None, g_tx=None, **options):
    learner, generator = metagan(
        base, nets.mlp([8], 6), nets.generator([16], (2,)),
        d_tx or optax.sgd(0.1), g_tx or optax.sgd(0.1), classes=N,
        **{"noise": 4, "generated": 6, **options},
    )  # fmt: skip
    return learner, generator._replace(step=jax.jit(generator.step))


def tasks_of(data, key, tasks=4):
    """Three Gaussians on a line that is somewhere else in each task; labels in random order."""

    def one(key):
        key_place, key_order, *keys = jax.random.split(key, 4)
        place = jax.random.uniform(key_place, (1, 2), minval=0.3, maxval=0.7)
        order = jax.random.permutation(key_order, N)
        y = jnp.arange(4 * N, dtype=jnp.int32) % N
        centre = place + 0.25 * jnp.stack([order - 1.0, jnp.zeros(N)], axis=1)
        return Task(*(Batch(_cut(centre[y] + 0.02 * jax.random.normal(k, (12, 2))), y)
                      for k in keys))  # fmt: skip

    return jax.vmap(one)(jax.random.split(key, tasks))


def _cut(x):
    return jnp.clip(x, 0.0, 1.0)


TASKS = tasks_of((), jax.random.key(1))
TASK = jax.tree.map(lambda leaf: leaf[0], TASKS)


def moved(old, new):
    return jax.tree.map(lambda a, b: bool(jnp.any(a != b)), old, new)


# A learner whose logits are its two inputs, and a generator of one point, (1/2, 1/2).
IDENTITY = Learner(
    lambda key, x: {"w": jnp.ones(())},
    lambda params, support, key, fast=None, keep=None: (),
    lambda params, fast, x: params["w"] * x,
)
POINT = ConditionalNet(lambda key, z, h: jnp.zeros(()), lambda p, z, h: jnp.zeros((len(z), 2)) + p)
E = math.e
REAL, FAKE = (E + 1) / (E + 2), 2 * E**0.5 / (2 * E**0.5 + 1)  # p(y <= N | x)


@pytest.mark.parametrize(
    ("loss", "of_d", "of_g"),
    [
        ("saturating", -math.log(REAL) - math.log(1 - FAKE), math.log(1 - FAKE)),
        ("non_saturating", -math.log(REAL) - math.log(1 - FAKE), -math.log(FAKE)),
        (
            "relativistic",
            math.log(1 + 2 * E**0.5 / (E + 1)),
            math.log(1 + (E + 1) / (2 * E**0.5)),
        ),
    ],
)
@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_the_fake_logit_is_zero(loss, of_d, of_g, penalty):
    _, generator = metagan(
        IDENTITY, nets.mlp([], 2), POINT, FROZEN, FROZEN, classes=2, loss=GAN_LOSSES[loss](),
        penalty=penalty, generated_weight=0.5,
    )  # fmt: skip
    batch = Batch(jnp.eye(2), jnp.arange(2))
    tasks = jax.tree.map(lambda leaf: leaf[None], Task(batch, batch))
    state = generator.init(KEY, batch.x)
    _, shown = jax.jit(generator.step)(state, tasks, KEY)
    # |grad_x logsumexp(x)|^2 / 2 is half the sum of the squared probabilities.
    steep = (E**2 + 1) / (E + 1) ** 2 / 2 + 0.25
    missed = math.log(1 + 1 / E)
    expected = {
        "cross_entropy": missed,
        "d_loss": of_d + penalty * steep,
        "loss": missed + 0.5 * (of_d + penalty * steep),
        "g_loss": of_g,
        "accuracy": 1.0,
        "d_real": 1.0,
        "d_fake": 0.0,
        "d_accuracy": 1.0,
        "diversity": 0.0,
        "bad_step": -1,
        "bad_step_discriminator": -1,
        "bad_step_generator": -1,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(shown[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("some", [False, True], ids=["labelled", "some unlabelled"])
def test_the_inner_loop_minimises_all_three_terms(some):
    linear = Net(lambda key, x: {"w": 0.3 * jnp.ones((2, 2))}, lambda params, x: x @ params["w"])
    learner, _ = metagan(
        lambda loss: maml(linear, optax.sgd(0.5), steps=1, loss=loss),
        nets.mlp([], 2), POINT, FROZEN, FROZEN, classes=2, generated_weight=0.25,
        generated=3,
    )  # fmt: skip
    x = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
    y = jnp.array([0, 1, -1 if some else 1])
    params = learner.init(KEY, x)
    fast = learner.adapt(params, Batch(x, y), KEY)
    known, free = (2, slice(2, 3)) if some else (3, slice(0, 3))

    def expected(w):
        p = jnp.exp(jnp.concatenate([x, jnp.full((1, 2), 0.5)]) @ w)
        total = p.sum(1)
        named = jnp.log(p[jnp.arange(known), y[:known]] / total[:known]).mean()
        real = jnp.log(total[free] / (1 + total[free])).mean()
        return -named - 0.25 * (real - jnp.log(1 + total[3]))

    w = params["d"]["learner"]["theta"]["w"]
    np.testing.assert_allclose(fast.params["w"], w - 0.5 * jax.grad(expected)(w), rtol=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_at_weight_zero_it_is_the_base_learner(base):
    given, plain = BASES[base]
    for role in ("augment", "negative_class"):
        learner, generator = model_of(given, role=role, generated_weight=0.0)
        state = generator.init(KEY, TASK.support.x)
        own = state.params["d"]["learner"]
        fast = learner.adapt(state.params, TASK.support, KEY)
        chex.assert_trees_all_equal(fast, plain.adapt(own, TASK.support, KEY))
        x = TASK.query.x
        np.testing.assert_array_equal(
            learner.predict(state.params, fast, x), plain.predict(own, fast, x)
        )
    expected, shown = base_step(plain, own)
    after, metrics = generator.step(state, TASKS, KEY)
    chex.assert_trees_all_close(after.params["d"]["learner"], expected, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], shown["loss"], rtol=1e-6)
    assert any(jax.tree.leaves(moved(own, expected)))


def base_step(plain, params):
    step = train.make_train_step(train.episode_loss(plain), optax.sgd(0.1))
    after, shown = jax.jit(step)(train.init_state(params, optax.sgd(0.1)), TASKS, KEY)
    return after.params, shown


def test_before_its_start_the_learner_is_the_base_and_the_generator_waits():
    _, late = model_of(generated_from=1)
    state = late.init(KEY, TASK.support.x)
    first, _ = late.step(state, TASKS, KEY)
    expected, _ = base_step(BASES["maml"][1], state.params["d"]["learner"])
    chex.assert_trees_all_close(first.params["d"]["learner"], expected, atol=1e-6)
    assert not any(jax.tree.leaves(moved(state.params["g"], first.params["g"])))
    second, _ = late.step(first, TASKS, KEY)
    assert all(jax.tree.leaves(moved(first.params["g"], second.params["g"])))
    assert int(second.step) == 2
    assert late.step._cache_size() == 1


def test_labelled_samples_learn_before_they_join():
    _, late = model_of(PROTONET, role="augment", generated_from=5)
    state = late.init(KEY, TASK.support.x)
    after, shown = late.step(state, TASKS, KEY)
    assert all(jax.tree.leaves(moved(state.params["g"], after.params["g"])))
    plain = train.episode_loss(PROTONET)
    expected = jax.vmap(lambda t: plain(state.params["d"]["learner"], t, KEY)[0])(TASKS).mean()
    np.testing.assert_allclose(shown["cross_entropy"], expected, rtol=1e-5)


def test_each_rule_moves_its_own_half():
    for name, other in (("d", "g"), ("g", "d")):
        _, generator = model_of(PROTONET, **{f"{other}_tx": FROZEN})
        state = generator.init(KEY, TASK.support.x)
        after, _ = generator.step(state, TASKS, KEY)
        own = moved(state.params, after.params)
        assert not any(jax.tree.leaves(own[other]))
        own[name].pop("offset", None)  # not learned here
        assert all(jax.tree.leaves(own[name])), own


def test_alternating_the_generator_meets_the_new_discriminator():
    states = []
    for alternating in (True, False):
        _, generator = model_of(PROTONET, alternating=alternating)
        state = generator.init(KEY, TASK.support.x)
        states.append(generator.step(state, TASKS, KEY)[0].params)
    both, at_once = states
    chex.assert_trees_all_close(both["d"], at_once["d"], atol=1e-8)
    assert all(jax.tree.leaves(moved(both["g"], at_once["g"])))


def test_unlabelled_examples_speak_of_real_and_generated_alone():
    hidden = TASKS._replace(query=TASKS.query._replace(y=TASKS.query.y.at[:, 6:].set(-1)))
    _, generator = model_of()
    state = generator.init(KEY, TASK.support.x)

    def shown(x):
        return generator.step(state, hidden._replace(query=hidden.query._replace(x=x)), KEY)[1]

    x = hidden.query.x
    whole = shown(x)
    other = shown(x.at[:, 6:].set(0.0))
    np.testing.assert_allclose(other["cross_entropy"], whole["cross_entropy"])
    assert abs(float(other["d_loss"] - whole["d_loss"])) > 1e-4
    named = shown(x.at[:, :6].set(0.0))
    np.testing.assert_allclose(named["d_loss"], whole["d_loss"], rtol=1e-6)
    nameless = jax.tree.map(lambda leaf: -jnp.ones_like(leaf) if leaf.ndim == 2 else leaf, TASKS)
    after, last = generator.step(state, nameless, KEY)
    assert float(last["cross_entropy"]) == 0
    assert int(after.bad_step) == -1
    assert any(jax.tree.leaves(moved(state.params["d"], after.params["d"])))


def test_samples_of_every_class_count_where_half_of_the_query_set_is_labelled():
    """Whichever rows of a sorted query set have no label, no class of samples is left out.

    Images are their label, codes the class mean, G gives its code, and the score is the image: a
    loss that counts the scores near c is the weight of the samples of class c.
    """
    own = Net(lambda key, x: {}, lambda params, x: x)
    identity = ConditionalNet(lambda key, z, h: {}, lambda params, z, h: h)
    first = Learner(
        lambda key, x: {"w": jnp.ones(())},
        lambda params, support, key, fast=None, labels=None: (),
        lambda params, fast, x: jnp.where(jnp.arange(N) == 0, params["w"] * x, -jnp.inf),
    )
    y = jnp.repeat(jnp.arange(N, dtype=jnp.int32), 4)
    x = y[:, None].astype(float)
    half = Batch(x, jnp.where(jnp.arange(12) < 6, y, -1))
    tasks = jax.tree.map(lambda leaf: leaf[None], Task(Batch(x, y), half))
    weights = np.zeros(N)
    for c in range(N):
        # G's output is scaled from -1..1 to the span, so that here it is 2 h + 1.
        loss = GanLoss(
            lambda real, fake, c=c: (jnp.abs(fake - (2 * c + 1)) < 0.5).astype(float),
            lambda real, fake: 0 * fake,
        )
        _, generator = metagan(
            first, own, identity, FROZEN, FROZEN, classes=N, role="augment", loss=loss,
            generated=3, noise=1, span=(-1.0, 3.0),
        )  # fmt: skip
        state = generator.init(KEY, x)
        step = jax.jit(generator.step)
        for k in range(20):
            weights[c] += float(step(state, tasks, jax.random.key(k))[1]["d_loss"]) / 20
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    assert weights.min() > 0.6 * weights.max()


def test_padding_counts_nothing():
    _, generator = model_of(PROTONET)
    state = generator.init(KEY, TASK.support.x)
    results = []
    for filler in (0.0, 1.0):
        parts = [
            part._replace(
                x=part.x.at[:, 9:].set(filler), weight=jnp.ones((4, 12)).at[:, 9:].set(0.0)
            )
            for part in TASKS[:2]
        ]
        results.append(generator.step(state, Task(*parts), KEY)[0].params)
    chex.assert_trees_all_close(*results, atol=1e-6)


def test_labelled_samples_join_the_support_set():
    learner, generator = model_of(BASES["matching"][0], role="augment", generated_weight=0.5)
    state = generator.init(KEY, TASK.support.x)
    fast = learner.adapt(state.averaged, TASK.support, KEY)
    assert fast.y.shape == (12 + 6,)
    assert fast.y[12:].tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(fast.weight, [1.0] * 12 + [1.0] * 6)  # 6 x 1 = 12 x 0.5
    code = generator.encode(state, TASK.support, KEY)
    assert code.h.shape == (N, 6)
    made = generator.sample(state, code, KEY, n=9)
    assert made.y.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert made.x.shape == (9, 2)
    assert 0 <= made.x.min() <= made.x.max() <= 1
    two = generator.encode(state, TASK.support._replace(y=TASK.support.y // 2 * 2), KEY)
    assert generator.sample(state, two, KEY, n=4).y.tolist() == [0, 0, 2, 2]


def test_the_code_of_a_task_is_a_mean_over_the_set():
    _, generator = model_of()
    state = generator.init(KEY, TASK.support.x)
    code = generator.encode(state, TASK.support, KEY)
    assert code.h.shape == (1, 6)
    turned = jax.tree.map(lambda leaf: leaf[::-1], TASK.support)._replace(y=jnp.full(12, -1))
    np.testing.assert_allclose(generator.encode(state, turned, KEY).h, code.h, rtol=1e-5)
    half = TASK.support._replace(weight=(jnp.arange(12) < 6).astype(float))
    cut = jax.tree.map(lambda leaf: leaf[:6], TASK.support)
    np.testing.assert_allclose(
        generator.encode(state, half, KEY).h, generator.encode(state, cut, KEY).h, rtol=1e-5
    )
    assert generator.sample(state, code, KEY, n=4).y.tolist() == [-1] * 4


def test_labels_out_of_play_are_masked_and_adaptation_goes_on():
    keep = jnp.array([True, True, False])
    rows = jnp.broadcast_to(keep, (12, N))
    for role in ("negative_class", "augment"):
        learner, _ = model_of(role=role)
        params = learner.init(KEY, TASK.support.x)
        support = TASK.support._replace(y=TASK.support.y % 2)
        fast = learner.adapt(params, support, KEY, None, keep)
        by_row = learner.adapt(params, support, KEY, None, rows)
        chex.assert_trees_all_close(fast, by_row, rtol=1e-5)
        chex.assert_tree_all_finite(fast)
        further = learner.adapt(params, support, KEY, fast, keep)
        assert all(jax.tree.leaves(moved(fast.params, further.params)))
        empty = jax.tree.map(lambda leaf: leaf[:0], support)
        chex.assert_trees_all_equal(learner.adapt(params, empty, KEY, fast), fast)


def test_it_learns_tasks_to_tell_real_from_generated_and_to_generate():
    _, generator = model_of(
        partial(on_maml, steps=3),
        d_tx=optax.adam(1e-2), g_tx=optax.adam(2e-3), ema=0.9, generated_weight=0.5, penalty=0.01,
    )  # fmt: skip
    state = generator.init(KEY, TASK.support.x)

    def off(state):
        code = generator.encode(state, TASK.support, KEY)
        made = generator.sample(state, code, KEY, n=200).x
        return float(jnp.abs(made.mean(0) - TASK.support.x.mean(0)).max())

    before = off(state)
    for current, metrics in train.run(
        generator.step, tasks_of, state, (), KEY, steps=400, scan=True, chunk=400
    ):
        state, last = current, jax.tree.map(lambda leaf: leaf[-100:].mean(), metrics)
        first = jax.tree.map(lambda leaf: leaf[0], metrics)
    assert last["accuracy"] > max(0.8, float(first["accuracy"]) + 0.2)
    assert last["d_accuracy"] > 0.6
    assert last["d_loss"] < first["d_loss"]
    assert 0.4 < last["diversity"] < 2
    assert off(state) < min(0.15, before)


def test_a_learned_logit_offset_finds_the_scale_of_distances():
    far = protonet(Net(lambda key, x: {"w": jnp.eye(2)}, lambda params, x: 20 * x), classes=N)
    real = {}
    for offset in ("zero", "learned"):
        _, generator = model_of(far, logit_offset=offset, d_tx=optax.adam(1e-2), g_tx=FROZEN)
        state = generator.init(KEY, TASK.support.x)
        for current, metrics in train.run(
            generator.step, tasks_of, state, (), KEY, steps=100, scan=True, chunk=100
        ):
            state, last = current, metrics
        real[offset] = float(last["d_real"][-1])
        learned = float(state.params["d"]["offset"]) != 0
        assert learned == (offset == "learned")
    assert real["learned"] > real["zero"] + 0.3


def test_a_non_finite_update_stops_it_and_its_network_is_named():
    for part, options in (
        ("discriminator", {"d_tx": optax.sgd(jnp.inf)}),
        ("generator", {"g_tx": optax.sgd(jnp.inf)}),
    ):
        _, generator = model_of(PROTONET, **options, alternating=False)
        start = generator.init(KEY, TASK.support.x)
        step = generator.step
        state, metrics = step(start, TASKS, KEY)
        again, later = step(state, TASKS, KEY)
        other = {"generator": "discriminator", "discriminator": "generator"}[part]
        for shown in (metrics, later):
            assert int(shown["bad_step"]) == int(shown[f"bad_step_{part}"]) == 0
            assert int(shown[f"bad_step_{other}"]) == -1
        chex.assert_trees_all_equal(again.params, start.params)
        with pytest.raises(train.DivergedError, match=f"at step 0, .*in the {part}"):
            train.check_finite(again, metrics)


def test_bad_examples_and_requests_are_refused():
    learner, generator = model_of()
    state = generator.init(KEY, TASK.support.x)
    code = generator.encode(state, TASK.support, KEY)
    with pytest.raises(ValueError, match="at least 1 generated sample, got n = 0"):
        generator.sample(state, code, KEY, n=0)
    with pytest.raises(ValueError, match="expected a code"):
        generator.sample(state, None, KEY, n=1)
    nothing = TASK.support._replace(weight=jnp.zeros(12))
    with pytest.raises(ValueError, match="at least one"):
        generator.sample(state, generator.encode(state, nothing, KEY), KEY, n=1)
    far = TASK.support._replace(x=TASK.support.x + 2)
    all_far = TASKS.query._replace(x=TASKS.query.x + 2)
    for refused in (
        lambda: generator.init(KEY, far.x),
        lambda: generator.encode(state, far, KEY),
        lambda: generator.step.__wrapped__(state, TASKS._replace(query=all_far), KEY),
        lambda: learner.adapt(state.params, far, KEY),
        lambda: learner.predict(state.params, None, far.x),
    ):
        with pytest.raises(ValueError, match=r"expected the declared range 0\.0\.\.1\.0"):
            refused()
    wrong = TASKS._replace(query=TASKS.query._replace(y=TASKS.query.y + 1))
    with pytest.raises(ValueError, match=r"labels are in 1\.\.3, expected -1\.\.2"):
        generator.step.__wrapped__(state, wrong, KEY)
    with pytest.raises(ValueError, match=r"makes \(2,\), expected examples of \(3,\)"):
        generator.init(KEY, jnp.zeros((1, 3)))


def test_a_net_that_mixes_its_batch_is_refused():
    mixing = NET._replace(apply=lambda p, x: NET.apply(p, x - x.mean(0, keepdims=True)))
    for weight in (0.0, 0.1):
        _, generator = model_of(
            lambda loss: maml(mixing, optax.sgd(RATE), steps=1, loss=loss),
            generated_weight=weight,
        )
        if not weight:
            generator.init(KEY, TASK.support.x)
            continue
        with pytest.raises(ValueError, match="depends on the others of its batch"):
            generator.init(KEY, TASK.support.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generated_weight": 1.5}, r"must be in \[0, 1\], got 1.5"),
        ({"generated_from": -1}, "generated_from must be at least 0, got -1"),
        ({"penalty": -2.0}, "gamma must be >= 0, got -2.0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"generated": 0}, "generated must be at least 1, got 0"),
        ({"span": (1.0, 0.0)}, "low < high"),
        ({"role": "argument"}, "did you mean 'augment'"),
        ({"logit_offset": "free"}, "unknown logit offset 'free'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model_of(**options)
