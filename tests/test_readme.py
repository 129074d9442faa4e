"""Every code block of the README runs, and its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import lml_jax
from lml_jax import cli
from lml_jax.experiments.kept import commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_quickstart_and_what_goes_on_from_it(capsys):
    assert len(BLOCKS) == 4
    assert len(BLOCKS[0].strip().splitlines()) <= 15
    names = {}
    exec(compile(BLOCKS[0], "README.md", "exec"), names)
    assert float(capsys.readouterr().out.split()[-1]) < 4.0
    exec(compile(BLOCKS[2], "README.md", "exec"), names)
    _, metrics = one_step(names)
    assert np.isfinite(metrics["loss"])


def test_a_learner_that_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"lml": lml_jax}
    exec(compile(BLOCKS[1], "README.md", "exec"), names)
    assert names["names"][0] == "cat"
    assert (tmp_path / "mine.kept").exists()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"lml-jax (\w+) [^|`\n]*\n", README))))
def test_commands_that_are_named_exist(command):
    assert hasattr(cli, command) or hasattr(commands, command)


def one_step(names):
    """An update by the `step` that a block made."""
    tasks = names["sample"]((), jax.random.key(2))
    return names["step"](names["state"], tasks, jax.random.key(3))


def test_one_device_per_core_in_a_process_of_its_own():
    build, _, _ = BLOCKS[0].partition("\nstate = ")
    code = (
        f"{build}\n{BLOCKS[3]}\n"
        + """
state = lml.init_state(learner.init(jax.random.key(0), jnp.zeros((1, 1))), tx)
tasks = lml.sinusoids(tasks=4 * len(jax.devices()), shots=10, queries=10)((), jax.random.key(2))
print(len(jax.devices()), float(step(state, tasks, jax.random.key(3))[1]["loss"]))
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    devices, loss = done.stdout.split()
    assert int(devices) == len(os.sched_getaffinity(0))
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("command", re.findall(r"lml-jax reproduce (\w[\w+-]*)", README))
def test_recipes_that_are_named_exist(command):
    from lml_jax.experiments.registry import recipes

    assert command in recipes
