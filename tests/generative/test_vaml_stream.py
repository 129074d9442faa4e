"""VAML on a stream: its retention losses, what is stored, what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import nets, train
from lml_jax.generative.vaml import posterior
from lml_jax.generative.vaml.images import mlp_parts
from lml_jax.generative.vaml.retention import VAML_RETENTIONS, VamlRetention
from lml_jax.generative.vaml.stream import vaml_stream
from lml_jax.types import Batch, Task

KEY = jax.random.key(0)
C, SHAPE = 4, (4, 4)


def images_of(task, key, n=12):
    """Task i has classes 2i and 2i + 1; class c has ink in row c."""
    y = 2 * task + jnp.arange(n, dtype=jnp.int32) % 2
    ink = (jnp.arange(4)[None] == y[:, None])[..., None]
    return Batch(jnp.where(ink, jax.random.uniform(key, (n, *SHAPE), minval=0.6), 0.1), y)


def episodes_of(task, key):
    one = Task(images_of(task, key), images_of(task, jax.random.fold_in(key, 1)))
    return jax.tree.map(lambda leaf: leaf[None], one)


def model(keep="align", **options):
    parts = mlp_parts(nets.mlp([16], 8), pixels=16, latent=2, hidden=[32])
    options = {"shape": SHAPE, "tasks": 2, "classes": C, "past_batch": 16, **options}
    options.setdefault("retention", VAML_RETENTIONS[keep]())
    return vaml_stream(parts, optax.adam(1e-2), **options)


def learned(generator, steps=300):
    """The state after both tasks."""
    state = generator.init(KEY, images_of(0, KEY).x)
    many = train.make_runner(generator.step, episodes_of, scan=True)
    for task in range(2):
        state, _ = many(train.copy(state), task, jax.random.key(task), steps)
        state = generator.end_task(state, images_of(task, jax.random.key(task)), KEY)
    return state


def bright_row_is_the_label(batch):
    """The share of images of each class whose ink is where the class has it, [C]."""
    right = batch.x.sum(2).argmax(1) == batch.y
    return np.array([right[batch.y == c].mean() for c in range(C)])


@pytest.fixture(scope="module")
def states():
    return {name: (made := model(name), learned(made)) for name in VAML_RETENTIONS}


@pytest.mark.parametrize("name", VAML_RETENTIONS)
def test_past_classes_are_generated_where_a_retention_loss_keeps_them(states, name):
    generator, state = states[name]
    made = generator.sample(state, None, KEY, n=80)
    np.testing.assert_array_equal(jnp.bincount(made.y, length=C), 20)
    right = bright_row_is_the_label(made)
    assert right[2:].min() > 0.9
    assert (right[:2].min() > 0.8) == (name != "none"), right


def test_the_penalty_of_alignment_is_zero_where_the_decoder_has_not_moved():
    generator = model()
    state = generator.end_task(generator.init(KEY, images_of(0, KEY).x), images_of(0, KEY), KEY)
    _, before = generator.step(state, episodes_of(1, KEY), KEY)
    np.testing.assert_allclose(before["retention"], 0.0, atol=1e-5)
    moved, _ = generator.step(state, episodes_of(1, KEY), KEY)
    _, after = generator.step(moved, episodes_of(1, KEY), KEY)
    assert after["retention"] > 1e-4


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_past_counts_lambda_for_each_task_or_for_all(reduction):
    """Replay's loss does not vanish: the gradient of a big step of SGD shows its weight."""
    shift = []
    for weight in (0.0, 1.0, 2.0):
        parts = mlp_parts(nets.mlp([16], 8), pixels=16, latent=2, hidden=[32])
        generator = vaml_stream(
            parts, optax.sgd(1.0), shape=SHAPE, tasks=3, classes=C,
            retention=VAML_RETENTIONS["replay"](), retention_weight=weight, reduction=reduction,
        )  # fmt: skip
        state = generator.init(KEY, images_of(0, KEY).x)
        for task in range(2):
            state = generator.end_task(state, images_of(task, KEY), KEY)
        moved, shown = generator.step(state, episodes_of(0, KEY), KEY)
        assert shown["retention"] > 0
        shift.append(moved.train.params["decoder"]["head"]["bias"])
    one, two = shift[1] - shift[0], shift[2] - shift[0]
    np.testing.assert_allclose(two, 2 * one, rtol=1e-3, atol=1e-5)
    assert float(jnp.abs(one).max()) > 1e-2


@pytest.mark.parametrize("name", ["align", "replay"])
def test_a_past_class_is_encoded_as_when_it_was_learned(states, name):
    """The encoder goes on learning, and a test task of the past must still get its own code."""
    generator, state = states[name]
    code = generator.encode(state, images_of(0, jax.random.key(9), n=6), KEY)
    made = generator.sample(state, code, KEY, n=40)
    assert set(made.y.tolist()) == {0, 1}
    assert bright_row_is_the_label(made)[:2].min() > 0.8


def test_what_is_stored_are_two_numbers_a_dimension_and_class(states):
    _, state = states["align"]
    assert state.codes.h.shape == (2, C, 8)
    assert state.codes.mask.tolist() == [[True, True, False, False], [False, False, True, True]]
    images = np.concatenate([images_of(i, jax.random.key(i)).x.reshape(-1, 16) for i in range(2)])
    for leaf in (*state.codes, state.finished):
        rows = np.resize(np.asarray(leaf, float), (max(1, leaf.size // 16), 16))
        assert np.abs(rows[:, None] - images[None]).sum(2).min() > 0.5


def test_a_code_is_that_of_the_support_set_alone(states):
    generator, state = states["align"]
    support = images_of(1, jax.random.key(7))
    code = generator.encode(state, support, KEY)
    assert code.mask.tolist() == [False, False, True, True]
    first = posterior.prior(state.train.params["prior"], C)
    assert jnp.all(jnp.split(code.h, 2, axis=1)[1][2:] > jnp.log(first.precision[2:]))
    made = generator.sample(state, code, KEY, n=20)
    assert set(made.y.tolist()) == {2, 3}
    assert made.x.shape == (20, *SHAPE)
    assert 0 <= made.x.min() <= made.x.max() <= 1


def test_before_a_task_is_finished_nothing_is_generated():
    generator = model()
    state = generator.init(KEY, images_of(0, KEY).x)
    made = jax.jit(partial(generator.sample, n=4))(state, None, KEY)
    assert made.y.tolist() == [-1] * 4
    assert made.weight.tolist() == [0.0] * 4
    _, shown = generator.step(state, episodes_of(0, KEY), KEY)
    assert shown["retention"] == 0.0


def test_a_bad_step_changes_nothing():
    generator = model()
    state = generator.end_task(generator.init(KEY, images_of(0, KEY).x), images_of(0, KEY), KEY)
    bad = jax.tree.map(lambda leaf: leaf, episodes_of(1, KEY))
    bad = bad._replace(query=bad.query._replace(x=bad.query.x.at[0, 0].set(jnp.nan)))
    step = jax.jit(generator.step)
    stopped, _ = step(state, bad, KEY)
    again, shown = step(stopped, episodes_of(1, KEY), KEY)
    assert stopped.bad_step == again.bad_step == shown["bad_step"] == 0
    jax.tree.map(np.testing.assert_array_equal, again.train.params, state.train.params)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(ValueError, match="reduction"):
        model(reduction="median")
    with pytest.raises(ValueError, match="2, 4, 0 and 1"):
        model(past_batch=0)
    with pytest.raises(ValueError, match="16 and -1"):
        model(retention_weight=-1)
    generator = model()
    state = generator.init(KEY, images_of(0, KEY).x)
    with pytest.raises(ValueError, match=r"labels are in 4\.\.5, expected -1\.\.3"):
        generator.step(state, episodes_of(2, KEY), KEY)
    with pytest.raises(ValueError, match="n = 0"):
        generator.sample(state, None, KEY, n=0)
    nothing = jax.tree.map(lambda leaf: leaf[:0], images_of(0, KEY))
    with pytest.raises(ValueError, match="no class in its mask"):
        generator.sample(state, generator.encode(state, nothing, KEY), KEY, n=1)


def test_inside_jit_a_label_or_a_task_too_many_stops_the_generator():
    generator = model()
    state = generator.init(KEY, images_of(0, KEY).x)
    step, end = jax.jit(generator.step), jax.jit(generator.end_task)
    _, shown = step(state, episodes_of(2, KEY), KEY)
    assert int(shown["bad_step"]) == 0
    for task in range(3):
        state = end(state, images_of(task % 2, KEY), KEY)
        assert (int(state.bad_step) == -1) == (task < 2)


def test_a_retention_loss_of_ones_own():
    """It is called with the model, the teacher and codes of past classes, and is minimised."""

    def penalty(now, teacher, h, key):
        z = now.noise(key, len(h))
        assert now.factors(jnp.zeros((len(h), 16)))[1].shape == h.shape
        assert teacher.bound(jnp.zeros((len(h), 16)), h, z).shape == (len(h),)
        return jnp.mean((now.decode(z, h) - 1.0) ** 2, axis=1)

    generator = model(retention=VamlRetention(penalty), retention_weight=1000.0)
    state = generator.end_task(generator.init(KEY, images_of(0, KEY).x), images_of(0, KEY), KEY)
    many = train.make_runner(generator.step, episodes_of, scan=True)
    state, shown = many(state, 1, KEY, 200)
    assert shown["retention"][-1] < 0.1 * shown["retention"][0]
    past = generator.sample(state._replace(teacher=state.train.params), None, KEY, n=8)
    np.testing.assert_allclose(past.x.mean(), jax.nn.sigmoid(1.0), atol=0.05)
