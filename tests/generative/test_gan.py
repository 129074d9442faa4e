"""The conditional GAN on small blobs: every retention loss, with no branch on its name."""

from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import losses, memory, nets, train
from lml_jax.generative.conditioning import Codes, draw, one_hot
from lml_jax.generative.gan import retention
from lml_jax.generative.gan.gan import conditional_gan
from lml_jax.generative.gan.retention import RETENTIONS
from lml_jax.losses import GAN_LOSSES, GanLoss
from lml_jax.types import Batch, MemoryBank, Task

KEY = jax.random.key(0)
TASKS, CLASSES, SIZE = 3, 4, 5
D = nets.projection_discriminator([16])


def newest(capacity):
    """A bank of the newest items, written here: `retention.bank` takes any."""

    def init(item):
        zeros = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), item)
        return zeros, jnp.zeros(capacity, bool)

    def insert(bank, items, key, where=None):
        where = jnp.ones(len(items[1]), bool) if where is None else where
        old, held = bank
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), old, items)
        held = jnp.concatenate([held, where])
        order = jnp.argsort(held, stable=True)[-capacity:]
        return jax.tree.map(lambda leaf: leaf[order], both), held[order]

    return MemoryBank(init, insert, None, lambda bank: bank)


def made(keep="align", **options):
    """A generator small enough to compile in a second; `keep` names its retention loss."""
    rates = optax.adam(1e-2, b1=0.0, b2=0.99), optax.adam(1e-2, b1=0.0, b2=0.99)
    shared = {"tasks": TASKS, "classes": CLASSES, "noise": 3, "past_batch": 8}
    shared["retention"] = RETENTIONS[keep](D, newest(40))
    return conditional_gan(nets.generator([16], (SIZE,)), D, *rates, **{**shared, **options})


def batch_of(labels, key=KEY, each=8):
    y = jnp.repeat(jnp.asarray(labels, jnp.int32), each)
    x = 0.1 + 0.2 * y[:, None] + 0.05 * jax.random.normal(key, (y.shape[0], SIZE))
    return Batch(jnp.clip(x, 0, 1), y)


def task_of(labels, key=KEY):
    part = jax.tree.map(lambda leaf: leaf[None], batch_of(labels, key))
    return Task(part, part, jnp.zeros(1, jnp.int32))


def after_one_task(**options):
    gan = made(**options)
    state = gan.init(KEY, batch_of([0]).x[:1])
    step = jax.jit(gan.step)
    for k in range(3):
        state, metrics = step(state, task_of([0, 1]), jax.random.key(k))
    return gan, step, gan.end_task(state, batch_of([0, 1]), KEY), metrics


@pytest.mark.parametrize("keep", RETENTIONS)
def test_every_retention_loss_takes_a_second_task_without_compiling_again(keep):
    gan = made(keep)
    state = gan.init(KEY, batch_of([0]).x[:1])
    traces = []

    @jax.jit
    def step(state, tasks, key):
        traces.append(key)
        return gan.step(state, tasks, key)

    for labels in ([0, 1], [2, 3]):
        for k in range(3):
            before = state
            state, metrics = step(state, task_of(labels), jax.random.key(k))
            assert all(jnp.isfinite(value) for value in metrics.values())
        state = jax.jit(gan.end_task)(state, batch_of(labels), KEY)
    assert len(traces) == 1
    assert int(state.finished) == 2
    assert int(state.step) == 6
    assert jax.tree.structure(before) == jax.tree.structure(state)
    sizes = [[leaf.shape for leaf in jax.tree.leaves(s)] for s in (before, state)]
    assert sizes[0] == sizes[1]
    drawn = gan.sample(state, None, KEY, n=8)
    assert drawn.y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert drawn.weight.tolist() == [1.0] * 8
    assert 0 <= float(drawn.x.min()) <= float(drawn.x.max()) <= 1


@pytest.mark.parametrize("keep", RETENTIONS)
def test_with_weight_zero_every_retention_loss_is_none(keep):
    """Neither the teacher nor the memory matters then: lambda scales L_j and nothing else."""
    _, step, state, _ = after_one_task(keep=keep, retention_weight=0.0)
    once, _ = step(state, task_of([2, 3]), KEY)
    other = state._replace(
        teacher=jax.tree.map(lambda w: w + 1.0, state.teacher),
        memory=jax.tree.map(lambda w: w if w.dtype == bool else w + 1, state.memory),
    )
    again, _ = step(other, task_of([2, 3]), KEY)
    for a, b in zip(jax.tree.leaves(once.g), jax.tree.leaves(again.g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("keep", ["align", "replay"])
def test_sum_over_two_past_tasks_is_twice_their_mean(keep):
    """One step of plain gradient descent moves G twice as far from where none would take it."""

    def moved(**options):
        gan = conditional_gan(
            nets.generator([16], (SIZE,)),
            D,
            optax.sgd(1e-2),
            optax.sgd(0.0),
            tasks=TASKS,
            classes=CLASSES,
            noise=3,
            retention=RETENTIONS[keep](D, None),
            **options,
        )
        state = gan.init(KEY, batch_of([0]).x[:1])
        codes = jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *(
                one_hot(i, batch_of([i]), condition="class", tasks=TASKS, classes=CLASSES)
                for i in range(TASKS)
            ),
        )
        teacher = gan.init(jax.random.key(5), batch_of([0]).x[:1]).g
        state = state._replace(codes=codes, finished=jnp.array(2), teacher=teacher)
        new, _ = gan.step(state, task_of([2]), KEY)
        return jax.tree.map(lambda a, b: a - b, new.g, state.g)

    nothing, mean, total = (
        moved(retention_weight=0.0), moved(reduction="mean"), moved(reduction="sum"),
    )  # fmt: skip
    for a, b, c in zip(*map(jax.tree.leaves, (nothing, mean, total)), strict=True):
        np.testing.assert_allclose(c - a, 2 * (b - a), rtol=1e-3, atol=1e-7)


def test_aligned_samples_of_a_past_task_are_those_of_the_teacher():
    """With a large lambda G stays what it was on the past task, and none moves it."""
    drift = {}
    for keep in ("align", "none"):
        gan, step, state, _ = after_one_task(keep=keep, retention_weight=100.0)
        kept = gan.sample(state, None, jax.random.key(7), n=8)
        for k in range(60):
            state, _ = step(state, task_of([2, 3]), jax.random.key(k))
        now = gan.sample(state._replace(teacher=state.g), None, jax.random.key(7), n=8)
        drift[keep] = float(jnp.mean((now.x - kept.x) ** 2))
    assert drift["align"] < 0.1 * drift["none"]


def test_the_optimisers_are_re_initialised_and_the_discriminator_is_kept():
    gan = made()
    state = gan.init(KEY, batch_of([0]).x[:1])
    trained, _ = gan.step(state, task_of([0, 1]), KEY)
    after = gan.end_task(trained, batch_of([0, 1]), KEY)
    for new, start in zip(
        jax.tree.leaves((after.g_opt, after.d_opt)), jax.tree.leaves((state.g_opt, state.d_opt)),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(new, start)
    for name in ("d", "g", "ema"):
        pairs = zip(*(jax.tree.leaves(getattr(s, name)) for s in (trained, after)), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)
    for a, b in zip(*map(jax.tree.leaves, (after.teacher, trained.ema)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_the_bank_stores_examples_and_only_real_ones():
    sizes = {}
    padded = batch_of([0, 1])
    padded = padded._replace(weight=jnp.ones(16).at[:6].set(0.0))
    for keep in RETENTIONS:
        gan = made(keep)
        state = gan.end_task(gan.init(KEY, batch_of([0]).x[:1]), padded, KEY)
        sizes[keep] = sum(leaf.size for leaf in jax.tree.leaves(state.memory))
        if keep == "bank":
            (x, y, task), held = state.memory
            assert int(held.sum()) == 10
            assert (y[held].tolist(), task[held].tolist()) == ([0] * 2 + [1] * 8, [0] * 10)
            np.testing.assert_allclose(x[held], 2 * padded.x[6:] - 1, atol=1e-6)
    assert [sizes[name] for name in ("none", "replay", "align", "replay+align")] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "bank",
    [
        newest(40), memory.fifo(40), memory.reservoir(40),
        memory.herding(20, classes=CLASSES, feature_of=itemgetter(0)),
        memory.class_balanced(20, classes=CLASSES), memory.task_indexed(20, tasks=TASKS),
    ],
    ids=["newest", "fifo", "reservoir", "herding", "class_balanced", "task_indexed"],
)  # fmt: skip
def test_any_bank_gives_examples_of_the_class_and_task_that_were_drawn(bank):
    """Whatever the bank holds more of; a class of which it holds nothing is not a valid draw."""
    keep = retention.bank(bank)
    stored = keep.init({}, jnp.zeros((1, SIZE)), jnp.zeros((TASKS, CLASSES), bool))
    for task, (labels, each) in enumerate([([0, 1], 2), ([1, 2], 8)]):
        batch = batch_of(labels, jax.random.key(task), each)
        x = jnp.broadcast_to(10.0 * task + batch.y[:, None], batch.x.shape)
        stored = keep.keep(stored, jnp.array(task), {}, batch._replace(x=x), KEY)
    mask = jnp.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]], bool)
    drawn = draw(Codes(jnp.zeros((TASKS, CLASSES, 4)), mask), KEY, n=60)
    x, valid = keep.real(stored, None, drawn, None, KEY)
    np.testing.assert_array_equal(valid, drawn.y != 3)
    expected = 10.0 * drawn.task + drawn.y
    np.testing.assert_array_equal(x[valid], jnp.broadcast_to(expected[valid, None], (50, SIZE)))


def test_examples_of_a_bank_are_drawn_uniformly():
    keep = retention.bank(newest(10))
    batch = Batch(jnp.arange(10.0)[:, None], jnp.array([0, 1] * 5))
    stored = keep.init({}, batch.x, jnp.zeros((1, 2), bool))
    stored = keep.keep(stored, jnp.array(0), {}, batch, KEY)
    drawn = draw(Codes(jnp.zeros((1, 2, 4)), jnp.ones((1, 2), bool)), KEY, n=4000)
    x, _ = keep.real(stored, None, drawn, None, KEY)
    counts = np.bincount(np.asarray(x[:, 0], int), minlength=10)
    assert abs(counts - 400).max() < 5 * np.sqrt(400 * 0.8)


def test_a_retention_loss_and_a_gan_loss_of_ones_own():
    """They are called with what the docstrings say, and their values are minimised as given."""
    seen = {}

    def penalty(memory, generator, teacher, drawn, z, key):
        seen["memory"] = memory
        return jnp.mean((generator(z, drawn.h) - 0.5) ** 2, axis=1)

    def keep(memory, task, discriminator, batch, key):
        return memory.at[task].set(batch.x.mean())

    own = retention.Retention(lambda d, x, mask: jnp.zeros(mask.shape[0]), keep, penalty=penalty)
    flat = GanLoss(lambda real, fake: 0 * real, lambda real, fake: 0 * fake)
    gan = made(retention=own, loss=flat, penalty=0.0, ema=0.0)
    state = gan.init(KEY, batch_of([0]).x)
    first, shown = gan.step(state, task_of([0, 1]), KEY)
    assert (float(shown["d_loss"]), float(shown["g_loss"]), float(shown["retention"])) == (0, 0, 0)
    state = gan.end_task(first, batch_of([0, 1]), KEY)
    mean = float((2 * batch_of([0, 1]).x - 1).mean())
    np.testing.assert_allclose(state.memory, [mean, 0, 0], rtol=1e-5)
    step = jax.jit(gan.step)
    for k in range(200):
        state, shown = step(state, task_of([2, 3]), jax.random.key(k))
    assert seen["memory"].shape == (TASKS,)
    assert float(shown["retention"]) == float(shown["g_loss"]) < 0.02
    past = gan.sample(state._replace(teacher=state.g), None, KEY, n=8)
    np.testing.assert_allclose(past.x.mean(), 0.75, atol=0.05)


@pytest.mark.parametrize("loss", GAN_LOSSES)
def test_every_loss_learns_the_means_of_the_classes(loss):
    gan = made(loss=GAN_LOSSES[loss](), ema=0.9, penalty=0.1)
    state = gan.init(KEY, batch_of([0]).x[:1])
    keys = jax.random.split(KEY, 400)

    def one(state, key):
        return gan.step(state, task_of([0, 3], key), key)

    state, _ = jax.jit(lambda s: jax.lax.scan(one, s, keys))(state)
    state = gan.end_task(state, batch_of([0, 3]), KEY)
    drawn = gan.sample(state, None, KEY, n=64)
    means = [float(drawn.x[drawn.y == c].mean()) for c in (0, 3)]
    np.testing.assert_allclose(means, [0.1, 0.7], atol=0.12)


@pytest.mark.parametrize("where", ["discriminator", "generator"])
def test_nothing_moves_after_an_update_that_is_not_finite(where):
    gan = made()
    state = gan.init(KEY, batch_of([0]).x[:1])
    step = jax.jit(gan.step)
    state, _ = step(state, task_of([0, 1]), KEY)
    if where == "discriminator":
        bad = task_of([0, 1])
        bad = bad._replace(query=bad.query._replace(x=bad.query.x.at[0, 0, 0].set(jnp.nan)))
        after, shown = step(state, bad, KEY)
    else:
        # So large a step of G that it leaves the floats; D is not touched by it.
        gan = conditional_gan(
            nets.generator([16], (SIZE,)), nets.projection_discriminator([16]),
            optax.sgd(jnp.inf), optax.sgd(1e-3), tasks=TASKS, classes=CLASSES, noise=3,
        )  # fmt: skip
        state = gan.init(KEY, batch_of([0]).x[:1])
        after, shown = gan.step(state, task_of([0, 1]), KEY)
    other = {"generator": "discriminator", "discriminator": "generator"}[where]
    assert int(after.bad_step) == int(state.step)
    again, later = gan.step(after, task_of([0, 1]), KEY)
    for metrics in (shown, later):  # a generator that was stopped says so at every step
        assert int(metrics["bad_step"]) == int(metrics[f"bad_step_{where}"]) == int(state.step)
        assert int(metrics[f"bad_step_{other}"]) == -1
    for name in ("g", "d", "ema", "g_opt", "d_opt", "step"):
        for a, b in zip(
            *(jax.tree.leaves(getattr(s, name)) for s in (state, again)), strict=True
        ):  # fmt: skip
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("condition", ["class", "task", "both"])
def test_what_a_code_says(condition):
    gan, step, state, _ = after_one_task(condition=condition)
    if condition != "class":  # of a task that was never learned
        with pytest.raises(ValueError, match="no class in its mask"):
            gan.sample(state, gan.encode(state, batch_of([1]), KEY), KEY, n=4)
        state, _ = step(state, task_of([1, 2]), KEY)
    drawn = gan.sample(state, gan.encode(state, batch_of([1]), KEY), KEY, n=4)
    assert drawn.y.tolist() == ([-1] * 4 if condition == "task" else [1] * 4)
    width = {"class": CLASSES, "task": TASKS, "both": TASKS + CLASSES}[condition]
    assert gan.encode(state, batch_of([1]), KEY).h.shape == (CLASSES, width)


def test_draws_are_even_over_tasks_and_within_them():
    table = Codes(
        jnp.eye(6).reshape(2, 3, 6), jnp.array([[True, False, True], [False, True, False]])
    )
    drawn = draw(table, KEY, n=400)
    counts = {
        (j, c): int(((drawn.task == j) & (drawn.y == c)).sum()) for j, c in ((0, 0), (0, 2), (1, 1))
    }
    assert counts == {(0, 0): 100, (0, 2): 100, (1, 1): 200}
    np.testing.assert_array_equal(drawn.h.argmax(1), 3 * drawn.task + drawn.y)
    nothing = draw(table._replace(mask=jnp.zeros((2, 3), bool)), KEY, n=5)
    assert not nothing.valid.any()


def test_padding_and_unlabelled_examples_teach_nothing():
    """Examples of weight 0, or without a label, teach nothing."""
    gan = made()
    state = gan.init(KEY, batch_of([0]).x[:1])
    plain = task_of([0, 1])
    noise = jax.tree.map(lambda leaf: leaf[None], batch_of([3], jax.random.key(9)))

    def after(fill, *, label=3, weight=0.0):
        extra = noise._replace(x=jnp.full_like(noise.x, fill), y=jnp.full_like(noise.y, label))

        def with_extra(part):
            both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), part, extra)
            some = jnp.full((1, 8), weight)
            return both._replace(weight=jnp.concatenate([jnp.ones((1, 16)), some], axis=1))

        padded = plain._replace(support=with_extra(plain.support), query=with_extra(plain.query))
        moved, metrics = gan.step(state, padded, KEY)
        return (moved.g, moved.d, metrics), moved.codes.mask[0].tolist()

    first, seen = after(0.0)
    assert seen == [True, True, False, False]
    for fill, options in ((1.0, {}), (0.5, {"label": -1, "weight": 1.0})):
        again, seen = after(fill, **options)
        assert seen == [True, True, False, False]
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), again, first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "max"}, "unknown reduction 'max'"),
        ({"condition": "label"}, "unknown condition 'label'"),
        ({"retention_weight": -1.0}, "retention_weight must be >= 0, got -1.0"),
        ({"retention_weight": float("nan")}, "retention_weight must be >= 0, got nan"),
        ({"penalty": -0.5}, "gamma must be >= 0, got -0.5"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"span": (1.0, 0.0)}, r"got \(1.0, 0.0\)"),
        ({"past_batch": 0}, "past_batch must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_bad_data_is_refused():
    gan, _, state, _ = after_one_task()
    with pytest.raises(ValueError, match=r"in 0..255, expected the declared range 0.0..1.0"):
        gan.init(KEY, jnp.array([[0.0, 255.0, 0, 0, 0]]))
    with pytest.raises(ValueError, match=r"declared range 0.0..1.0"):
        gan.end_task(state, Batch(jnp.full((2, SIZE), 7.0), jnp.array([2, 2])), KEY)
    with pytest.raises(ValueError, match=r"labels are in 0\.\.4, expected -1\.\.3"):
        gan.step(state, task_of([0, 4]), KEY)
    with pytest.raises(ValueError, match=r"labels are in 4\.\.4, expected -1\.\.3"):
        gan.end_task(state, batch_of([4]), KEY)
    with pytest.raises(ValueError, match=r"must be integers of shape \[n\], got float32 \[8, 4\]"):
        gan.end_task(state, batch_of([0])._replace(y=jnp.ones((8, 4))), KEY)
    with pytest.raises(ValueError, match=r"makes \(5,\), expected examples of \(7,\)"):
        gan.init(KEY, jnp.zeros((1, 7)))
    with pytest.raises(ValueError, match="at least 1 generated sample, got n = 0"):
        gan.sample(state, None, KEY, n=0)
    code = gan.encode(state, batch_of([1, 3]), KEY)
    with pytest.raises(
        ValueError, match=r"classes \[3\] were never learned, expected some of \[0, 1\]"
    ):
        gan.sample(state, code, KEY, n=4)
    with pytest.raises(ValueError, match="no class in its mask"):
        gan.sample(state, code._replace(mask=jnp.zeros(CLASSES, bool)), KEY, n=4)
    inside = jax.jit(lambda s, c: gan.sample(s, c, KEY, n=4))(state, code)
    assert inside.y.tolist() == [1, 1, 1, 1]


def test_known_examples_and_codes_inside_jit():
    gan, _, state, _ = after_one_task()
    batch = batch_of([0, 1])
    jax.jit(lambda s: gan.end_task(s, batch, KEY))(state)
    code = gan.encode(state, batch, KEY)
    inside = jax.jit(lambda key: gan.sample(state, code, key, n=4))(KEY)
    assert inside.y.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8])
def test_images_of_uint8_and_narrow_labels_are_taken(dtype):
    gan = conditional_gan(
        nets.generator([8], (4, 4)), D, optax.adam(1e-3), optax.adam(1e-3), tasks=1, classes=200,
        retention=retention.bank(newest(4)), noise=2, past_batch=2,
    )  # fmt: skip
    label = 199 if dtype == jnp.uint8 else 100
    batch = Batch(jnp.full((2, 4, 4), 255, jnp.uint8), jnp.full(2, label, dtype))
    part = jax.tree.map(lambda leaf: leaf[None], batch)
    state, shown = gan.step(gan.init(KEY, batch.x), Task(part, part), KEY)
    assert int(shown["bad_step"]) == -1
    assert jnp.flatnonzero(state.codes.mask[0]).tolist() == [label]
    state = gan.end_task(state, batch, KEY)
    (x, y, _), held = state.memory
    np.testing.assert_allclose(x[held], 1.0)
    assert y[held].tolist() == [label] * 2


def test_inside_jit_a_label_or_a_task_too_many_stops_the_generator():
    gan, step, state, _ = after_one_task()
    _, shown = step(state, task_of([0, 4]), KEY)
    assert int(shown["bad_step"]) == int(shown["bad_step_discriminator"]) == 3
    end = jax.jit(gan.end_task)
    for i in range(TASKS - 1):
        state = end(state, batch_of([i]), KEY)
    assert int(state.bad_step) == -1
    with pytest.raises(ValueError, match="room for 3 tasks"):
        gan.end_task(state, batch_of([3]), KEY)
    over = end(state, batch_of([3]), KEY)
    _, shown = step(over, task_of([0, 1]), KEY)
    assert int(shown["bad_step"]) == int(shown["bad_step_generator"]) == 3
    with pytest.raises(train.DivergedError):
        train.check_finite(over, shown)


def test_losses_are_records_by_name():
    for name, build in GAN_LOSSES.items():
        loss = build()
        assert isinstance(loss, GanLoss), name
        assert loss.discriminator(jnp.zeros(3), jnp.ones(3)).shape == (3,)
    assert losses.relativistic().generator(jnp.zeros(1), jnp.ones(1)) == jax.nn.softplus(-1.0)
