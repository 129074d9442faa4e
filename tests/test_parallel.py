"""One device = pmap = shard_map = two processes: the same loss and gradient."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

import lml_jax as lml
from lml_jax import nets, parallel
from lml_jax.types import Batch, Task

PROGRAM = Path(__file__).with_name("many_devices.py")


def start(devices, *arguments):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer(process):
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def on_eight_devices():
    return answer(start(8, "equality"))


@pytest.mark.parametrize("case", ["mlp", "conv", "lifelong_maml", "memory", "generative"])
def test_one_device_equals_many(on_eight_devices, case):
    errors = {name: found["error"] for name, found in on_eight_devices[case].items()}
    assert len(errors) >= 2
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("case", ["mlp", "conv"])
def test_the_gradient_is_reduced_once(on_eight_devices, case):
    for name, found in on_eight_devices[case].items():
        assert found["of_gradient"] == 1, name
        assert found["all_reduces"] <= 2, name  # and which task was bad, a minimum


def test_a_bank_dealt_over_devices_shares_one_number(on_eight_devices):
    for name, found in on_eight_devices["bank"].items():
        assert found["error"] < 1e-5, name
        assert found["moved"] in ([], [["f32[]", "all-reduce"]]), name


def test_two_processes_equal_one():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [start(2, "process", n, port) for n in range(2)]
    try:
        found = [answer(process) for process in processes]
    finally:
        for process in processes:  # one of which may wait for the other for ever
            process.kill()
            process.communicate()
    spec = importlib.util.spec_from_file_location("many_devices", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    want = np.asarray(program.trained(parallel.vmap_mean))
    for process in found:
        assert (process["devices"], process["local"]) == (4, 2)
        np.testing.assert_allclose(process["params"], want, rtol=1e-5, atol=1e-6)


def test_tasks_that_devices_do_not_divide():
    # Not through a mesh, for this process may see one device.
    with pytest.raises(ValueError, match="3 tasks cannot be spread evenly over 2 devices"):
        parallel._check_divides(2, 3, what="{} devices")


def test_what_follows_the_key_is_shared():
    def loss(params, task, key, bank):
        return params * task + bank.sum(), {}

    mesh = Mesh(np.array(jax.devices()[:1]), "tasks")
    for reduced in (
        parallel.vmap_mean(loss),
        parallel.shard_map_mean(loss, mesh=mesh),
        parallel.pmap_mean(loss, devices=1),
    ):
        value, _ = reduced(jnp.array(2.0), jnp.array([1.0, 3.0]), jax.random.key(0), jnp.ones(3))
        assert float(value) == 7.0


def maml_case():
    """(loss, parameters, tasks) of four noisy tasks of second-order MAML, with a bank."""
    learner = lml.maml(nets.mlp([8], 3), optax.sgd(0.1), steps=2)
    of_task = lml.episode_loss(learner)
    x = jax.random.normal(jax.random.key(1), (4, 6, 2))
    y = jnp.tile(jnp.arange(3), (4, 2))
    tasks = Task(Batch(x, y), Batch(x + 1, y))

    def loss(params, task, key, bank):
        value, metrics = of_task(params, task, key)
        noise = jax.random.normal(key)
        theta = jnp.square(ravel_pytree(params)[0]).sum()
        return value + noise * bank * theta, {**metrics, "noise": noise}

    return loss, learner.init(jax.random.key(0), x[0]), tasks


def over_one_device(reduce):
    mesh = Mesh(np.array(jax.devices()[:1]), "tasks")
    options = {parallel.shard_map_mean: {"mesh": mesh}, parallel.pmap_mean: {"devices": 1}}
    return partial(reduce, **options.get(reduce, {}))


@pytest.mark.parametrize(
    "reduce", [parallel.vmap_mean, parallel.shard_map_mean, parallel.pmap_mean]
)
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_few_tasks_at_once_equal_all(reduce, at_once):
    loss, params, tasks = maml_case()

    def found(reduced):
        # Scaled, for a gradient that ignores what it is multiplied by would go unseen.
        def scaled(*arguments):
            value, metrics = reduced(*arguments)
            return 3.0 * value, metrics

        run = jax.jit(jax.value_and_grad(scaled, has_aux=True))
        return run(params, tasks, jax.random.key(2), jnp.array(0.3))

    want, got = (
        found(parallel.vmap_mean(loss)),
        found(over_one_device(reduce)(loss, at_once=at_once)),
    )
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduce", [parallel.vmap_mean, parallel.shard_map_mean])
def test_a_few_at_once_are_differentiated_by_the_parameters_and_by_nothing_else(reduce):
    """The gradient of the gradient's size is that of all at once; the rest is NaN, and not 0."""

    def loss(params, task, key, scale):
        return scale * jnp.sum((params * task) ** 3), {}

    params, tasks = jnp.array([1.0, 2.0]), jnp.arange(8.0).reshape(4, 2)

    def value(reduced, params, tasks, scale):
        return reduced(params, tasks, jax.random.key(0), scale)[0]

    def size(reduced, params):
        return jnp.sum(jax.grad(partial(value, reduced))(params, tasks, 0.5) ** 2)

    all_, few = parallel.vmap_mean(loss), over_one_device(reduce)(loss, at_once=2)
    second = [jax.jit(jax.grad(partial(size, reduced)))(params) for reduced in (all_, few)]
    np.testing.assert_allclose(*second, rtol=1e-5)
    assert float(jnp.abs(second[0]).max()) > 1.0
    others = jax.grad(partial(value, few), argnums=(1, 2))(params, tasks, 0.5)
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(others))


def test_at_once_needs_the_memory_of_so_many_tasks(optimized):
    def loss(params, task, key):
        square = jnp.tanh(jnp.outer(task, params))  # and its product, which is kept
        return jnp.tanh(square @ square).sum(), {}

    def temporary(at_once):
        run = jax.jit(jax.grad(lambda *a: parallel.vmap_mean(loss, at_once=at_once)(*a)[0]))
        lowered = run.lower(jnp.ones(300), jnp.ones((16, 300)), jax.random.key(0))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(1) < temporary(None) / 8


@pytest.mark.parametrize("at_once", [0, 3])
def test_tasks_that_groups_do_not_divide(at_once):
    loss, params, tasks = maml_case()
    message = f"4 tasks cannot be spread evenly over groups of {at_once}"
    with pytest.raises(ValueError, match=message):
        parallel.vmap_mean(loss, at_once=at_once)(params, tasks, jax.random.key(0), jnp.ones(()))
