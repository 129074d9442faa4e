"""One device = pmap = shard_map = two processes: the same loss and gradient."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from lml_jax import parallel

PROGRAM = Path(__file__).with_name("many_devices.py")


def start(devices, *arguments):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {
        **os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }  # fmt: skip
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


@pytest.mark.parametrize("case", ["mlp", "conv", "lifelong_maml", "memory"])
def test_one_device_equals_many(on_eight_devices, case):
    errors = {name: found["error"] for name, found in on_eight_devices[case].items()}
    assert len(errors) >= 2
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("case", ["mlp", "conv"])
def test_the_gradient_is_reduced_once(on_eight_devices, case):
    for name, found in on_eight_devices[case].items():
        assert found["of_gradient"] == 1, name
        assert found["all_reduces"] <= 2, name  # and which task was bad, a minimum


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
        parallel._check_divides(2, 3)


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


def test_cores_become_devices_before_anything_is_computed():
    program = (
        "import jax\n"
        "from lml_jax import parallel\n"
        "made = parallel.one_device_per_core(2)\n"
        "found = jax.device_count()\n"
        "try:\n"
        "    parallel.one_device_per_core(4)\n"
        "except RuntimeError:\n"
        "    print(made, found)\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert output.stdout.split() == ["2", "2"], output.stderr
    with pytest.raises(ValueError, match="cores must be at least 1, got 0"):
        parallel.one_device_per_core(0)
