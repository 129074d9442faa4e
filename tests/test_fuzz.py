"""A thousand bad inputs: each is answered by a message, and none leaves half of a result."""

import sys
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax import cli
from lml_jax.data import _cache as cache
from lml_jax.data.arrays import from_arrays
from lml_jax.data.mnist import mnist
from lml_jax.data.omniglot import omniglot
from lml_jax.experiments.fewshot import run as fewshot
from lml_jax.experiments.lifelong import run as lifelong
from lml_jax.storage import load, save

VALUES = ["", "x", "-1", "0", "nan", "1e309", "½", "None", "--", "9" * 30, "../..", "\x00", "[1]"]
NAMES = {
    "lifelong": ["data", "scenario", "tasks", "budget", "steps", "net", "learners", "seeds",
                 "retention", "generator-width", "generated", "reduction", "save-every", "options",
                 "start-steps", "past-batch", "outer-rate", "data-dir"],
    "fewshot": ["learner", "data", "ways", "shots", "steps", "episodes", "schedule", "meta-batch",
                "report-step", "test-shots", "inner-steps"],
    "reproduce": ["out"],
}  # fmt: skip
FIRST = {"reproduce": ["", "x", "½", "omniglot-mam", "../sine-maml", "9" * 30]}


class Accepted(Exception):
    """An input that was good enough to be run."""


def arguments(rng, out):
    """One line of a command with one to three options that are wrong, or are none."""
    command = str(rng.choice(list(NAMES)))
    line = [command, *([str(rng.choice(FIRST[command]))] if command in FIRST else [])]
    line += ["--out", str(out)]
    for _ in range(rng.integers(1, 4)):
        name = str(rng.choice(NAMES[command]))
        if rng.random() < 0.2:
            name = name[:-1] + "zz"
        line.append(f"--{name}")
        if rng.random() < 0.9:
            line.append(str(rng.choice(VALUES)))
    return line


def test_three_hundred_bad_command_lines(monkeypatch, tmp_path, capsys):
    def accept(*args, **options):
        raise Accepted

    # Past here everything was found good, and data is read.
    monkeypatch.setattr(lifelong, "load", accept)
    monkeypatch.setattr(fewshot, "tasks_of", accept)
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    rng, answers = np.random.default_rng(0), Counter()
    for _ in range(300):
        line = arguments(rng, tmp_path / "out")
        monkeypatch.setattr(sys, "argv", ["lml-jax", *line])
        with pytest.raises((Accepted, SystemExit)) as caught:
            cli.main()
        printed = capsys.readouterr()
        if caught.type is SystemExit:
            code = caught.value.code
            said = code if isinstance(code, str) else printed.err + printed.out
            assert code, line
            assert len(said.strip()) > 10, line
            assert "Traceback" not in said, line
        answers[caught.type] += 1
        assert not (tmp_path / "out").exists(), line
    assert answers[SystemExit] >= 250, answers


def damaged(rng, content):
    """`content` cut short, overwritten in places, or replaced by noise."""
    kind = rng.integers(3)
    if kind == 0:
        return content[: rng.integers(len(content))]
    if kind == 1:
        changed = bytearray(content)
        for at in rng.integers(len(content), size=rng.integers(1, 9)):
            changed[at] ^= rng.integers(1, 256)
        return bytes(changed)
    return rng.bytes(rng.integers(0, 200))


def test_three_hundred_damaged_files_of_parameters(tmp_path):
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.ones(4)}}
    path, rng, refused = save(tmp_path / "params.npz", params), np.random.default_rng(0), 0
    whole = path.read_bytes()
    for _ in range(300):
        path.write_bytes(damaged(rng, whole))
        said = ""
        try:
            found = load(path, params)
        except ValueError as error:
            said = str(error)
        if said:
            assert str(path) in said
            refused += 1
        else:  # what was hit does not matter: a date, say
            np.testing.assert_array_equal(found["w"], params["w"])
            np.testing.assert_array_equal(found["b"]["c"], params["b"]["c"])
    assert refused >= 200


def test_two_hundred_damaged_caches_are_built_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("LML_JAX_CACHE", str(tmp_path))
    want = {"x": np.arange(50), "y": np.ones((3, 2))}
    built = []

    def build():
        built.append(1)
        return want

    def read():
        return cache.cached("demo", build, keys=["x", "y"])

    read()
    path, rng = tmp_path / "demo.npz", np.random.default_rng(0)
    whole = path.read_bytes()
    for _ in range(200):
        path.write_bytes(damaged(rng, whole))
        found = read()
        for key in want:
            np.testing.assert_array_equal(found[key], want[key])
    assert len(built) >= 150


BAD_X = [
    None, "x", 3, [], [[]], np.zeros((0, 2)), np.zeros(4), np.full((4, 2), np.nan),
    np.zeros((4, 2), bool), np.array([["a"] * 2] * 4), np.zeros((4, 2), complex),
    np.array([object()] * 4), np.zeros((4,), np.uint8), np.full((4, 2), 2**40), {}, (),
    {"ids": np.zeros((4, 2), int), "mask": np.zeros((3, 2))},
    (np.zeros((4, 2)), np.zeros((4, 2), bool)), np.zeros((4, 2), "datetime64[s]"),
]  # fmt: skip
BAD_Y = [
    None, "y", 1, [], [0.5] * 4, [0, 1, 1], [-1, 0, 1, 1], [0, 0, 9, 9], [[0], [1], [1], [0]],
    [0, 0, 0, 2**62], ["a"] * 4, np.array([object()] * 4),
]  # fmt: skip
GOOD = (np.zeros((4, 2)), [0, 0, 1, 1])


def test_bad_arrays_of_the_users_own():
    pairs = [(x, y) for x in BAD_X for y in [*BAD_Y, GOOD[1]]] + [(GOOD[0], y) for y in BAD_Y]
    assert len(pairs) >= 180
    for x, y in pairs:
        with pytest.raises((TypeError, ValueError)) as caught:
            from_arrays(x, y)
        assert len(str(caught.value)) > 10
    from_arrays(*GOOD)


@pytest.mark.parametrize("load", [omniglot, mnist])
def test_bad_folders_and_splits(load, tmp_path):
    (tmp_path / "file").write_text("")
    for split in ("train", "background", "x", "", "../..", "test; rm"):
        for folder in (tmp_path, tmp_path / "none", tmp_path / "file"):
            with pytest.raises((ValueError, OSError)) as caught:
                load(split, data_dir=folder)
            assert len(str(caught.value)) > 10
