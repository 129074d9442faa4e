"""Streams of any size: a program that does not grow with them, one task at a time, from disk."""

import pickle
from functools import partial

import jax
import numpy as np
import optax
import pytest

from lml_jax import nets
from lml_jax.data.arrays import from_arrays
from lml_jax.data.augment import Jitter
from lml_jax.data.domains import jittered, rotated
from lml_jax.data.streams import class_incremental, domain_incremental, of_tasks
from lml_jax.learners.maml import maml
from lml_jax.lifelong.label_space import label_space_of
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.run import run_stream

KEY = jax.random.key(0)


TX = optax.adam(1e-2)


def learner_of(stream, inner_rate=0.1, tx=TX):
    net = nets.mlp([8], stream.classes)
    return lifelong_maml(maml(net, optax.sgd(inner_rate), steps=1), tx,
                         label_space_of(stream), past_batch=5, recall_examples=4)  # fmt: skip


def step_of(learner):
    """One update on an episode of task i, drawn inside the program."""

    def step(state, stream, i, key):
        key_draw, key_step = jax.random.split(key)
        return learner.step(state, stream.episodes(i, key_draw), key_step)

    return jax.jit(step)


def test_the_program_of_a_step_does_not_grow_with_the_stream():
    lowered, compiled = [], []
    for each in (250, 5000):
        y = np.repeat(np.arange(4), each)
        images = np.broadcast_to(np.arange(y.size, dtype=np.int32)[:, None], (y.size, 48))
        stream = class_incremental(
            from_arrays(images.astype(np.float32), y), tasks=2, classes_per_task=2, seed=0,
            train_per_class=each - 10, shots=3, queries=3,
        )  # fmt: skip
        assert len(stream.x) == 4 * each  # 1,000 and 20,000
        learner = learner_of(stream)
        state = jax.eval_shape(learner.init, KEY, stream.train(0).x)
        program = step_of(learner).lower(state, stream, 0, KEY)
        lowered.append(len(program.as_text()))
        executable = program.compile()
        compiled.append(len(executable.as_text()))
        # Not a constant of the program: the images are among its arguments.
        assert executable.memory_analysis().argument_size_in_bytes >= stream.x.nbytes
    np.testing.assert_allclose(lowered[1], lowered[0], rtol=0.01)
    np.testing.assert_allclose(compiled[1], compiled[0], rtol=0.01)


def images(classes=6, each=9):
    y = np.repeat(np.arange(classes), each)
    x = np.random.default_rng(0).integers(0, 256, (y.size, 6, 6), dtype=np.uint8)
    return from_arrays(x, y)


STREAMS = {
    "class": lambda data: class_incremental(
        data, tasks=3, classes_per_task=2, seed=0, train_per_class=6, shots=2, queries=2
    ),
    "uneven": lambda data: of_tasks(
        data, [[0, 1, 2], [3, 1], [4]], seed=0, train_per_class=6, shots=2, queries=1, ways=2
    ),
    "returning": lambda data: of_tasks(
        data, [[0, 1], [1, 2], [0]], seed=0, returning="repeat", train_per_class=6, shots=2,
        queries=1,
    ),
    "domain": lambda data: domain_incremental(
        data, rotated(90.0), tasks=3, classes=3, seed=0, train_per_class=6, shots=2, queries=2
    ),
    "jittered": lambda data: jittered(STREAMS["class"](data), Jitter()),
}  # fmt: skip


@pytest.mark.parametrize("kind", STREAMS)
def test_one_task_alone_gives_what_the_whole_stream_gives(kind):
    stream = STREAMS[kind](images())
    sent = pickle.loads(pickle.dumps(stream))  # to another process, say
    jax.tree.map(np.testing.assert_array_equal, sent, stream)
    assert jax.tree.structure(sent) == jax.tree.structure(stream)
    episodes = jax.jit(lambda s, i, key: s.episodes(i, key))
    train = jax.jit(lambda s, i: s.train(i))
    for i in range(stream.tasks):
        local = stream.local(i)
        assert len(local.x) == stream.train_size < len(stream.x)
        assert local.test_x == ()
        got, want = episodes(local, i, KEY), episodes(stream, i, KEY)
        jax.tree.map(np.testing.assert_array_equal, got, want)
        jax.tree.map(np.testing.assert_array_equal, train(local, i), train(stream, i))
    # Every task has the same shapes, so one program serves all of them.
    assert episodes._cache_size() == train._cache_size() == 2


def features_on_disk(path, each=200, classes=4, width=1024):
    """Memory-mapped features, 3 MB: the classes are clusters."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(classes), each)
    x = np.memmap(path, np.float32, "w+", shape=(y.size, width))
    x[:] = 3 * rng.normal(size=(classes, width))[y] + rng.normal(size=x.shape)
    x.flush()
    return np.memmap(path, np.float32, "r", shape=x.shape), y


def test_a_stream_from_disk_runs_as_one_in_memory(tmp_path):
    x, y = features_on_disk(tmp_path / "x.f32")

    def made(x):
        return class_incremental(
            from_arrays(x, y), tasks=2, classes_per_task=2, seed=0, train_per_class=30, shots=3,
            queries=3, meta_batch=2,
        )  # fmt: skip

    disk, memory = made(x), made(np.array(x))
    assert isinstance(disk.x, np.memmap)  # not read, not copied
    runs = [
        # Small steps of SGD: Adam would scale the rounding of gradients near 0 up to its rate.
        run_stream(
            learner_of(stream, 1e-4, optax.sgd(1e-4)),
            stream,
            KEY,
            steps=4,
            chunk=2,
            resident_bytes=limit,
        )
        for stream, limit in ((memory, 2**28), (memory, 1), (disk, 1), (disk, 2**28))
    ]
    for other in runs[1:]:
        for name in ("R", "R_task", "R_adapted", "online"):
            np.testing.assert_array_equal(getattr(other, name), getattr(runs[0], name))
        # To rounding: the images of one task lie in another array than those of all tasks.
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        jax.tree.map(close, other.state.train, runs[0].state.train)
        jax.tree.map(close, other.state.memory, runs[0].state.memory)
    assert np.isfinite(runs[0].R[1:, 0]).all()


def test_arrays_on_disk_may_hold_what_is_not_read(tmp_path):
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(6, 3))
    x[5] = np.nan  # of an array in memory this is refused
    assert from_arrays(x, [0, 0, 0, 1, 1, 1]).x is x
    with pytest.raises(ValueError, match="NaN"):
        from_arrays(np.array(x), [0, 0, 0, 1, 1, 1])
    parts = from_arrays({"a": x, "b": np.zeros((6, 1))}, [0, 0, 0, 1, 1, 1])
    assert isinstance(parts.x["a"], np.memmap)
