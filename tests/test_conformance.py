"""What every learner, generator and memory bank must do, with no branch on a name.

Each is wrapped as a `Subject`, one pure move of a state. Two programs are compiled for it: `once`,
which donates its state, and `mapped`, a scan of the same moves, mapped over seeds.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import memory, nets, storage, train
from lml_jax.data.arrays import from_arrays
from lml_jax.data.episodes import episodes
from lml_jax.data.streams import class_incremental
from lml_jax.experiments.fewshot import build as few_shot_build
from lml_jax.experiments.fewshot import settings as few_shot_settings
from lml_jax.experiments.fewshot.learners import FewShotEntry, few_shot_learners
from lml_jax.experiments.lifelong.entries import LifelongEntry, context_of
from lml_jax.experiments.lifelong.learners import lifelong_learners
from lml_jax.experiments.lifelong.settings import Lifelong, for_learner, resolve
from lml_jax.generative.metagan.metagan import metagan
from lml_jax.generative.vaml import images
from lml_jax.learners.protonet import protonet
from lml_jax.lifelong.finetune import finetune
from lml_jax.types import MemoryBank, StreamGenerator

TASKS, CLASSES, SHAPE = 2, 4, (3, 3)
SEEDS, MOVES = 2, 2
KEYS = jax.random.split(jax.random.key(7), SEEDS)
TINY = Lifelong(
    from_scratch=True, tasks=TASKS, classes_per_task=2, net="mlp", width=6, steps=4, meta_batch=1,
    shots=2, queries=2, capacity=8, per_class=4, memory_shots=2, past_batch=4, noise=2, code=2,
    generator_width=6, generated=2, test_generated=2,
)  # fmt: skip


class Subject(NamedTuple):
    """A state and its moves: (state, key) -> (state, what it shows), to be compiled."""

    init: Callable[[jax.Array], Any]
    move: Callable[[Any, jax.Array], tuple[Any, Any]]


# --- what is registered, and what a user adds in ten lines ----------------------------------------


def mine(c):
    """A user's own lifelong learner: fine-tuning at half the rate."""
    halved = optax.chain(c.tx, optax.scale(0.5))
    return finetune(c.classifier, halved, c.space)


def _own_few_shot(c):
    return protonet(c.net, classes=c.ways)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    """A learner of each kind under a new name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lifelong_learners, "mine", LifelongEntry(mine, "a user's own"))
        defaults = few_shot_learners["protonet"].defaults
        own = FewShotEntry(_own_few_shot, "a user's own", defaults, embedding=True)
        patch.setitem(few_shot_learners, "mine", own)
        yield


def own_bank(capacity=6):
    """A user's own bank: the first examples that come, and none after them."""

    def init(item):
        like = jax.tree.map(jnp.asarray, item)
        return jax.tree.map(lambda a: jnp.zeros((capacity, *a.shape), a.dtype), like), jnp.int32(0)

    def insert(bank, items, key, where=None):
        items_held, n = bank
        offered = jnp.ones(len(jax.tree.leaves(items)[0]), bool) if where is None else where
        slot = jnp.where(offered, n + jnp.cumsum(offered) - 1, capacity)
        held = jax.tree.map(lambda a, b: a.at[slot].set(b, mode="drop"), items_held, items)
        return held, n + jnp.sum(offered, dtype=jnp.int32)

    def sample(bank, key, *, n, weights=None, group=None):
        held = jnp.minimum(bank[1], capacity)
        rows = jax.random.randint(key, (n,), 0, jnp.maximum(held, 1))
        return jax.tree.map(lambda a: a[rows], bank[0]), jnp.full(n, held > 0)

    return MemoryBank(init, insert, sample, lambda b: (b[0], jnp.arange(capacity) < b[1]))


BANKS = {
    "fifo": lambda: memory.fifo(6),
    "reservoir": lambda: memory.reservoir(6),
    "class_balanced": lambda: memory.class_balanced(3, classes=CLASSES),
    "task_indexed": lambda: memory.task_indexed(6, tasks=TASKS),
    "herding": lambda: memory.herding(3, classes=CLASSES, feature_of=lambda item: item[0]),
    "sharded": lambda: memory.sharded(memory.reservoir(3), 2),
    "own": own_bank,
}


# --- how each kind is moved ----------------------------------------------------------------------


@cache
def data():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(CLASSES), 8)
    x = 0.5 * rng.uniform(size=(len(y), *SHAPE)) + 0.5 * rng.uniform(size=(CLASSES, *SHAPE))[y]
    return from_arrays(x.astype(np.float32), y)


@cache
def stream():
    made = class_incremental(
        data(), tasks=TASKS, classes_per_task=CLASSES // TASKS, seed=0, train_per_class=5, shots=2,
        queries=2, meta_batch=1,
    )  # fmt: skip
    return jax.tree.map(jnp.asarray, made)


class Arrived(NamedTuple):
    """What a move is given of a task: data, so that no program draws it anew."""

    episodes: Any
    train: Any
    test: Any


@cache
def arrived():
    """Of each task, stacked: [TASKS, ...]."""
    tasks = stream()
    with jax.ensure_compile_time_eval():  # whoever asks first may be traced
        parts = [
            Arrived(tasks.episodes(i, jax.random.key(i)), tasks.train(i), tasks.test(i))
            for i in range(TASKS)
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


def task_of(i):
    return jax.tree.map(lambda leaf: leaf[i], arrived())


def context(name):
    entry = lifelong_learners[name]
    plan = for_learner(resolve(TINY), name, defaults=entry.defaults, options=entry.options)
    return entry, context_of(plan, stream(), entry)


def lifelong(name):
    """One update on the next task, its end, and what is recalled and predicted then."""
    entry, c = context(name)
    learner = entry.make(c)

    def move(state, key):
        task = task_of(state.finished)
        state, metrics = learner.step(state, task.episodes, key)
        state = learner.end_task(state, task.train, key)
        support = jax.tree.map(lambda leaf: leaf[0], task.episodes.support)
        x = task.test.x
        few, many = (learner.recall(state, part, key) for part in (x[:2], x))
        again = learner.predict(state, support, x[:2], key)
        of_support = learner.predict(state, support, x, key)
        shown = {"few": (few, again), "many": (many[:2], of_support[:2])}
        return state, {**shown, "bad_step": metrics["bad_step"], "loss": metrics["loss"]}

    return Subject(lambda key: learner.init(key, task_of(0).train.x), move)


def generator(make):
    """One update on the next task, its end where there is one, and samples."""
    of = make()

    def move(state, key):
        task = task_of(jnp.minimum(state.step, TASKS - 1))
        state, metrics = of.step(state, task.episodes, key)
        if isinstance(of, StreamGenerator):
            state = of.end_task(state, task.train, key)
        support = jax.tree.map(lambda leaf: leaf[0], task.episodes.support)
        made = of.sample(state, of.encode(state, support, key), key, n=4)
        return state, {"samples": made.x, "labels": made.y, "bad_step": metrics["bad_step"]}

    return Subject(lambda key: of.init(key, task_of(0).train.x), move)


def of_learner(name):
    entry, c = context(name)
    return entry.generator(c)


def task_gan():
    tx = optax.adam(1e-3)
    few_shot = protonet(nets.mlp([6], 3), classes=CLASSES)
    parts = nets.mlp([6], 3), nets.generator([6], SHAPE)
    return metagan(few_shot, *parts, tx, tx, classes=CLASSES, generated=2, noise=2)[1]


def task_vaml():
    parts = images.mlp_parts(nets.mlp([6], 4), pixels=9, latent=2, hidden=[6])
    return images.vaml(parts, optax.adam(1e-3), shape=SHAPE, classes=CLASSES)[1]


def few_shot(name):
    """One update of the outer loop, and predictions for a new episode."""
    chosen = few_shot_settings.FewShot(learner=name, ways=3, shots=2, train_queries=2)
    plan = few_shot_settings.resolve(chosen)
    net = nets.mlp([6], 3)
    learner = few_shot_build.learner_of(plan, net, steps=plan.settings.inner_steps, ways=3)
    tx = few_shot_build.outer_rule_of(plan)
    step = train.make_train_step(few_shot_build.loss_of(plan, learner), tx)
    images_of = jax.tree.map(jnp.asarray, data())
    drawn = episodes(data(), tasks=2, ways=3, shots=2, queries=2)

    def move(state, key):
        tasks = drawn(images_of, key)
        state, metrics = step(state, tasks, key)
        support, x = jax.tree.map(lambda leaf: leaf[0], (tasks.support, tasks.query.x))
        fast = learner.adapt(state.params, support, key)
        few, many = (learner.predict(state.params, fast, part) for part in (x[:2], x))
        shown = {"few": few, "many": many[:2], "bad_step": metrics["bad_step"]}
        return state, {**shown, "loss": metrics["loss"]}

    x = jnp.zeros((1, *SHAPE))
    return Subject(lambda key: train.init_state(learner.init(key, x), tx), move)


def bank(name):
    """Items that are offered, and some drawn."""
    of = BANKS[name]()

    def move(state, key):
        keys = jax.random.split(key, 4)
        y = jax.random.randint(keys[1], (6,), 0, CLASSES)
        items = (jax.random.normal(keys[0], (6, *SHAPE)), y, y % TASKS)
        state = of.insert(state, items, keys[2], y > 0)
        (x, _, _), counts = of.sample(state, keys[3], n=4)
        (_, y, _), valid = of.contents(state)
        return state, {"drawn": x, "counts": counts, "held": jnp.where(valid, y, -1)}

    zero = jnp.zeros((), jnp.int32)
    return Subject(lambda key: of.init((jnp.zeros(SHAPE), zero, zero)), move)


LIFELONG, FEW_SHOT = [*lifelong_learners, "mine"], [*few_shot_learners, "mine"]
SUBJECTS = {
    **{f"lifelong {name}": partial(lifelong, name) for name in LIFELONG},
    **{
        f"generator of {name}": partial(generator, partial(of_learner, name))
        for name, entry in lifelong_learners.items()
        if entry.generator is not None
    },
    "generator metagan": partial(generator, task_gan),
    "generator vaml": partial(generator, task_vaml),
    **{f"few-shot {name}": partial(few_shot, name) for name in FEW_SHOT},
    **{f"bank {name}": partial(bank, name) for name in BANKS},
}


class Run(NamedTuple):
    """A subject, and what its two programs give: `once` is [seed][move], `mapped` has both axes."""

    subject: Subject
    traces: int
    state: Any
    once: list[list[Any]]
    mapped: Any
    donated: Any


@pytest.fixture(scope="module", params=SUBJECTS)
def run(request):
    subject = SUBJECTS[request.param]()
    traces, once, donated = [], [], None

    def moved(state, key):
        traces.append(key)
        return subject.move(state, key)

    # What a move does not read stays an argument, so that all of the state is donated.
    step = jax.jit(moved, donate_argnums=0, keep_unused=True)
    for seed in KEYS:
        state, shown = subject.init(seed), []
        for key in jax.random.split(seed, MOVES):
            donated, (state, out) = state, step(state, key)
            shown.append(out)
        once.append(shown)

    def whole(seed):
        return jax.lax.scan(subject.move, subject.init(seed), jax.random.split(seed, MOVES))[1]

    mapped = jax.jit(jax.vmap(whole))(KEYS)
    return Run(subject, len(traces), state, once, mapped, donated)


def test_scanned_and_mapped_over_seeds_equals_one_after_another(run):
    for seed in range(SEEDS):
        for t in range(MOVES):
            alone = run.once[seed][t]
            together = jax.tree.map(lambda leaf, s=seed, m=t: leaf[s, m], run.mapped)
            chex.assert_trees_all_close(together, alone, rtol=1e-3, atol=1e-3)


def test_the_second_call_compiles_nothing(run):
    assert run.traces == 1


def test_a_donated_state_is_used_and_nothing_else_is(run):
    leaves = [leaf for leaf in jax.tree.leaves(run.donated) if leaf.size]
    assert all(leaf.is_deleted() for leaf in leaves)
    kept = jax.tree.leaves((arrived(), run.state, run.once))
    assert not any(leaf.is_deleted() for leaf in kept if isinstance(leaf, jax.Array))


def test_everything_is_finite_and_no_update_is_refused(run):
    for shown in (out for outs in run.once for out in outs):
        assert int(shown.get("bad_step", -1)) == -1
        assert all(not jnp.isnan(leaf).any() for leaf in jax.tree.leaves(shown))
    for leaf in jax.tree.leaves(run.state):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert jnp.isfinite(leaf).all()


def test_a_prediction_does_not_depend_on_the_rest_of_its_batch(run):
    for shown in (out for outs in run.once for out in outs):
        chex.assert_trees_all_close(shown.get("few"), shown.get("many"), rtol=1e-4, atol=1e-4)


def test_types_are_never_promoted_by_accident(run):
    with jax.numpy_dtype_promotion("strict"):
        state = jax.eval_shape(run.subject.init, KEYS[0])
        moved, _ = jax.eval_shape(run.subject.move, state, KEYS[0])
    # And a move changes neither the shapes nor the types of the state.
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, state)


def test_a_state_is_loaded_as_it_was_saved(run, tmp_path):
    path = storage.save(tmp_path / "state.npz", run.state)
    found = storage.load(path, like=run.state)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, run.state)
    chex.assert_trees_all_equal(found, run.state)


@pytest.mark.parametrize("name", LIFELONG)
def test_observing_batch_by_batch(name):
    entry, c = context(name)
    learner, tasks = entry.make(c), stream()

    @jax.jit
    def two_batches(key):
        state = learner.init(key, tasks.train(0).x)
        shown = []
        for t in range(2):
            state, metrics = learner.observe(state, tasks.batch(t), key)
            shown.append(metrics)
        return state, shown, learner.recall(state, tasks.batch(0).x, key)

    try:
        state, shown, recalled = two_batches(KEYS[0])
    except ValueError as error:
        assert "task boundaries" in str(error)  # noqa: PT017 - the learner's own refusal
        pytest.skip(str(error))
    assert [int(metrics["bad_step"]) for metrics in shown] == [-1, -1]
    assert int(state.step) == 2
    came = np.unique(np.concatenate([np.asarray(tasks.batch(t).y) for t in range(2)]))
    assert np.flatnonzero(np.asarray(state.seen)).tolist() == came.tolist()
    np.testing.assert_array_equal(np.isfinite(recalled), np.asarray(state.seen)[None].repeat(10, 0))
    start = learner.init(KEYS[0], tasks.train(0).x).train.params
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), start, state.train.params)
    if not any(jax.tree.leaves(moved)):
        # No parameter was trained by gradient: in pieces the same is learned as all at once.
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts), *map(tasks.batch, range(2)))
        once = jax.jit(lambda key: learner.observe(learner.init(key, both.x), both, key)[0])(
            KEYS[0]
        )
        at_once = learner.recall(once, tasks.batch(0).x, KEYS[0])
        np.testing.assert_allclose(recalled, at_once, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FEW_SHOT)
def test_learning_in_two_parts_equals_learning_at_once(name):
    """Of every learner that says, by `inner_step` None, that it makes no inner steps."""
    plan = few_shot_settings.resolve(few_shot_settings.FewShot(learner=name, ways=3, shots=2))
    learner = few_shot_build.learner_of(plan, nets.mlp([6], 3), steps=1, ways=3)
    if learner.inner_step is not None:
        pytest.skip("inner steps from one start and from another are different")
    drawn = episodes(data(), tasks=1, ways=3, shots=4, queries=2)(data(), KEYS[0])
    support, x = jax.tree.map(lambda leaf: leaf[0], (drawn.support, drawn.query.x))

    @jax.jit
    def both(params, support, x):
        halves = [jax.tree.map(lambda leaf, h=h: leaf[h::2], support) for h in range(2)]
        first = learner.adapt(params, halves[0], KEYS[0])
        fasts = (
            learner.adapt(params, support, KEYS[0]),
            learner.adapt(params, halves[1], KEYS[0], first),
        )
        return [learner.predict(params, fast, x) for fast in fasts]

    at_once, in_parts = both(learner.init(KEYS[0], x), support, x)
    np.testing.assert_allclose(at_once, in_parts, rtol=1e-4, atol=1e-4)


def test_every_bank_of_the_package_is_here():
    made = {
        name for name, value in vars(memory).items()
        if inspect.isfunction(value)
        and inspect.signature(value).return_annotation in (MemoryBank, "MemoryBank")
    }  # fmt: skip
    assert made == set(BANKS) - {"own"}
