"""Runs that are killed at seeded random moments, saving included, end as if they had not been."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

COMMANDS = {
    "fewshot": [
        "fewshot", "--data", "sine", "--steps", "8000", "--meta-batch", "2", "--episodes", "20",
        "--queries", "5",
    ],
    "lifelong": [
        "lifelong", "--learners", "lifelong-maml", "--tasks", "2", "--classes-per-task", "2",
        "--steps", "100", "--train-per-class", "12", "--meta-batch", "2", "--past-batch", "4",
        "--capacity", "8", "--from-scratch",
    ],
}  # fmt: skip


def start(command, out, compiled):
    arguments = [sys.executable, "-m", "lml_jax", *COMMANDS[command], "--out", out]
    environment = {
        **os.environ,
        # The same program in every process, compiled once.
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    return subprocess.Popen(
        [*map(str, arguments), "--resume", "--save-every", "0"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(*run):
    process = start(*run)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors


def files(out):
    """The names of all files in `out`, some of which may be vanishing."""
    return {name for _, _, names in os.walk(out) for name in names}


def begun(out):
    """The numbers of the checkpoints that are there or being written."""
    found = (re.match(r"\.?(\d+)\.npz", name) for name in files(out))
    return {match[1] for match in found if match}


def kill(run, rng):
    """SIGKILL it so many checkpoints from now, and a moment later; whether it was saving."""
    process, seen = start(*run), begun(run[1])
    wanted = len(seen) + rng.integers(1, 4)
    while len(seen) < wanted and process.poll() is None:
        seen |= begun(run[1])
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.1))
    process.kill()
    process.communicate()
    return any(name.endswith(".tmp") for name in files(run[1]))


def result(out):
    """What must not depend on being killed: every parameter, and every number but the clock's."""

    def timeless(value):
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k != "seconds"}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    params = {}
    for path in sorted(out.glob("params*.npz")):
        with np.load(path) as archive:
            params |= {f"{path.name}/{name}": archive[name].tobytes() for name in archive.files}
    assert params
    return timeless(json.loads((out / "metrics.json").read_text())), params


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def check(command, kills, tmp_path, compiled):
    finish(command, tmp_path / "whole", compiled)
    rng = np.random.default_rng(0)
    killed = (command, tmp_path / "killed", compiled)
    saving = [kill(killed, rng) for _ in range(kills)]
    finish(*killed)
    assert result(tmp_path / "killed") == result(tmp_path / "whole")
    return saving


@pytest.mark.parametrize(("command", "kills"), [("fewshot", 1), ("lifelong", 2)])
def test_killed_and_resumed(tmp_path, compiled, command, kills):
    check(command, kills, tmp_path, compiled)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_and_resumed_twenty_times(tmp_path, compiled, command):
    for n in range(5):
        saving = check(command, 2, tmp_path / str(n), compiled)
        print(f"{command}, run {n}: killed twice, {sum(saving)} times while saving")


def test_a_signal_saves_and_says_how_to_go_on(tmp_path, compiled):
    run = ("fewshot", tmp_path / "run", compiled)
    process = start(*run)
    while len(begun(run[1])) < 2 and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert "stopped by SIGTERM; saved up to step" in errors
    assert "continue with --resume" in errors
    assert not (run[1] / "metrics.json").exists()
