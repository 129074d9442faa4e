"""A whole run as one pure function, and runs that compile nothing anew."""

import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import memory, nets
from lml_jax.checkpoint import keeper
from lml_jax.data.arrays import from_arrays
from lml_jax.data.streams import class_incremental
from lml_jax.divergence import DivergedError
from lml_jax.learners.maml import maml
from lml_jax.learners.oml import oml
from lml_jax.learners.protonet import protonet
from lml_jax.lifelong.derpp import derpp
from lml_jax.lifelong.ewc import ewc
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.la_maml import la_maml
from lml_jax.lifelong.label_space import label_space_of
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.lwf import lwf
from lml_jax.lifelong.memory_replay import memory_learner
from lml_jax.lifelong.program import program
from lml_jax.lifelong.run import run_stream
from lml_jax.lifelong.si import si
from lml_jax.lifelong.sweep import sweep
from lml_jax.lifelong.together import run_together

TASKS, CLASSES, STEPS, CHUNK = 2, 4, 5, 2
TX = optax.adam(1e-2)


def stream_of(seed):
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(CLASSES, 6))
    y = np.repeat(np.arange(CLASSES), 20)
    x = (centres[y] + rng.normal(size=(len(y), 6))).astype(np.float32)
    return class_incremental(
        from_arrays(x, y), tasks=TASKS, classes_per_task=2, seed=seed, train_per_class=15, shots=3,
        queries=3, meta_batch=2,
    )  # fmt: skip


def descent():
    return maml(nets.mlp([16], CLASSES), optax.sgd(0.1), steps=1)


def prototypes(space):
    few_shot = protonet(nets.mlp([16], 8), classes=CLASSES)
    # SGD: the last bias moves all embeddings alike, so that its gradient is rounding alone, which
    # Adam would scale up to steps of its rate.
    bank = memory.class_balanced(8, classes=CLASSES)
    return memory_learner(few_shot, optax.sgd(1e-2), space, bank=bank)


MAKE = {
    "finetune": lambda space: finetune(descent(), TX, space),
    "maml": lambda space: lifelong_maml(descent(), TX, space, past_batch=8),
    "memory": prototypes,
}


@pytest.fixture(scope="module")
def streams():
    return [stream_of(seed) for seed in range(3)]


@pytest.fixture(scope="module", params=MAKE)
def cases(request, streams):
    """(learner, keys, the run of each stream with its key, all of them mapped at once)."""
    learner = MAKE[request.param](label_space_of(streams[0]))
    keys = jax.random.split(jax.random.key(3), len(streams))
    options = {"steps": STEPS, "chunk": CHUNK}
    alone = [
        run_stream(learner, stream, key, **options)
        for stream, key in zip(streams, keys, strict=True)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *streams)
    mapped = jax.jit(jax.vmap(program(learner, **options)))(stacked, keys)
    return learner, keys, alone, mapped


def assert_equal_runs(got, want):
    """Scores of 10 test images, of which rounding may move one; what is learned to rounding."""
    for name in ("R", "R_task", "R_adapted", "online", "class_accuracy"):
        one, other = (np.asarray(getattr(run, name)) for run in (got, want))
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=name)
    for one, other in zip(*map(jax.tree.leaves, (got.state, want.state)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_program_mapped_over_streams_and_seeds_equals_runs_one_after_another(cases):
    _, keys, alone, mapped = cases
    for i in range(len(keys)):
        assert_equal_runs(
            jax.tree.map(lambda leaf, i=i: leaf[i], mapped), alone[i]._replace(seconds={})
        )
    # Three runs, and not one three times.
    assert len({np.asarray(run.R).tobytes() for run in alone}) > 1


def test_a_program_is_a_run(cases, streams):
    """Not mapped, with a stream that is in host memory."""
    learner, keys, alone, _ = cases
    run = jax.jit(program(learner, steps=STEPS, chunk=CHUNK))(streams[1], keys[1])
    assert_equal_runs(run, alone[1])


@pytest.mark.parametrize("scan", [False, True])
def test_a_second_run_of_the_same_sizes_compiles_nothing(cases, streams, caplog, scan):
    learner, keys, _, _ = cases

    def compiled(stream, key):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
            run_stream(learner, stream, key, steps=STEPS, chunk=CHUNK, scan=scan)
        return [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]

    jax.clear_caches()
    assert len(compiled(streams[0], keys[0])) > 5
    for stream, key in zip(streams[1:], keys[1:], strict=True):
        assert compiled(stream, key) == []


@pytest.mark.parametrize("name", ["steps", "chunk"])
def test_numbers_below_one_are_refused(name):
    learner = finetune(descent(), TX, label_space_of(stream_of(0)))
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        program(learner, **{"steps": 1, name: 0})


NUMBERS = {
    "decay": lambda v, space: lifelong_maml(descent(), TX, space, decay=v, past_batch=4),
    "rate": lambda v, space: finetune(descent(), optax.adam(v), space),
    "retention": lambda v, space: memory_learner(
        protonet(nets.mlp([16], 8), classes=CLASSES), TX, space, retention_weight=v
    ),
    "strength": lambda v, space: ewc(descent(), TX, space, strength=v),
    "logits": lambda v, space: derpp(descent(), TX, space, logits_weight=v),
    "temperature": lambda v, space: lwf(descent(), TX, space, temperature=v),
    "alpha": lambda v, space: la_maml(nets.mlp([16], CLASSES), space, alpha=v),
    "inner": lambda v, space: lifelong_maml(
        oml(nets.mlp([16], 8), classes=CLASSES, rate=v), TX, space
    ),
    "damping": lambda v, space: si(descent(), TX, space, damping=v),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_setting_in_a_formula_can_be_mapped_over(name, streams):
    """As `vmap` does: the number is traced when the learner is made."""
    stream = jax.tree.map(jnp.asarray, streams[0])
    space = label_space_of(stream)

    def run(value, key):
        return program(NUMBERS[name](value, space), steps=STEPS)(stream, key).R

    shapes = jax.eval_shape(jax.vmap(run, in_axes=(0, None)), jnp.ones(3) / 2, jax.random.key(0))
    assert shapes.shape == (3, TASKS + 1, TASKS)
    if name != "rate":
        with pytest.raises(ValueError, match=r"must be|and rate above 0"):
            NUMBERS[name](-1.0, space)


def test_runs_together_equal_runs_one_after_another(cases, streams):
    learner, keys, alone, _ = cases
    rows = []
    runs = run_together(
        learner, streams, keys, steps=STEPS, chunk=CHUNK,
        on_rows=lambda row, so_far: rows.append((row, len(so_far), so_far[0].R)),
    )  # fmt: skip
    for run, want in zip(runs, alone, strict=True):
        assert_equal_runs(run, want)
    assert [row[:2] for row in rows] == [(0, 3), (1, 3), (2, 3)]
    # What was told stays as it was told.
    assert np.isnan(rows[0][2][1:]).all()
    assert not np.isnan(rows[0][2][0]).all() or np.isnan(alone[0].R[0]).all()


def test_runs_together_compile_each_phase_once(streams, caplog):
    learner = MAKE["finetune"](label_space_of(streams[0]))
    keys = jax.random.split(jax.random.key(3), len(streams))

    def compiled():
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
            run_together(learner, streams, keys, steps=STEPS)
        found = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
        return [text for text in found if "jit(learn)" in text or "jit(evaluate)" in text], found

    phases, _ = compiled()
    assert len(phases) == 2
    assert compiled()[1] == []


def test_runs_together_are_resumed(streams, tmp_path):
    learner = MAKE["memory"](label_space_of(streams[0]))
    keys = jax.random.split(jax.random.key(3), len(streams))
    options = {"steps": STEPS, "chunk": CHUNK}
    whole = run_together(learner, streams, keys, **options)

    def interrupt(row, so_far):
        if row == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError), keeper(tmp_path, config={}, every=0) as kept:
        run_together(learner, streams, keys, **options, on_rows=interrupt, keeper=kept)
    rows = []
    with keeper(tmp_path, config={}, every=0) as kept:
        resumed = run_together(
            learner, streams, keys, **options, keeper=kept,
            on_rows=lambda row, so_far: rows.append(row),
        )  # fmt: skip
    assert rows == [2]
    for one, other in zip(resumed, whole, strict=True):
        for a, b in zip(jax.tree.leaves(one._replace(seconds={})),
                        jax.tree.leaves(other._replace(seconds={})), strict=True):  # fmt: skip
            np.testing.assert_array_equal(a, b)


def test_runs_together_refuse_streams_of_other_sizes_and_say_which_run_diverged(streams):
    learner = MAKE["finetune"](label_space_of(streams[0]))
    keys = jax.random.split(jax.random.key(3), 2)
    smaller = class_incremental(
        from_arrays(np.ones((80, 6), np.float32), np.repeat(np.arange(4), 20)), tasks=2,
        classes_per_task=2, seed=0, train_per_class=10, shots=3, queries=3, meta_batch=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the same sizes"):
        run_together(learner, [streams[0], smaller], keys, steps=1)
    with pytest.raises(ValueError, match="one key for each of 3 streams"):
        run_together(learner, streams, keys, steps=1)
    bad = replace(streams[1], x=np.full_like(streams[1].x, np.inf))
    with pytest.raises(DivergedError, match="in run 1 of several, while learning task 0"):
        run_together(learner, [streams[0], bad], keys, steps=1)


def test_a_sweep_is_every_combination(streams):
    space = label_space_of(streams[0])
    stream = jax.tree.map(jnp.asarray, streams[0])

    def run(rate, key):
        return program(finetune(descent(), optax.sgd(rate), space), steps=2)(stream, key).R

    rates, keys = [0.1, 0.2, 0.4], jax.random.split(jax.random.key(0), 2)
    found = sweep(run, rate=rates, key=keys)
    assert found.shape == (3, 2, TASKS + 1, TASKS)
    np.testing.assert_allclose(found[2, 1], jax.jit(run)(0.4, keys[1]), atol=1e-6)
    few = sweep(run, at_once=4, rate=rates, key=keys)  # six runs: four and two
    np.testing.assert_allclose(found, few, atol=1e-6)
    with pytest.raises(ValueError, match="a list of values for each setting"):
        sweep(run, rate=0.1, key=keys)
    with pytest.raises(ValueError, match="at_once"):
        sweep(run, at_once=0, rate=rates, key=keys)
