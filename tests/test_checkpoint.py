"""One process at a time; tests/experiments/test_resume.py kills some."""

import os
import shutil
import signal
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import checkpoint, train


def a_run(step=0, seed=0):
    """Leaves of every kind that a run has."""
    params = {"w": jax.random.normal(jax.random.key(seed), (3, 2)), "none": ()}
    return {
        "state": train.init_state(params, optax.adam(1e-3)),
        "key": jax.random.key(seed),
        "half": jnp.ones(3, jnp.bfloat16),
        "empty": jnp.zeros((0, 4)),
        "R": np.full((3, 2), np.nan),
        "seen": jnp.array([True, False]),
        "seconds": 0.25 + seed,
        "step": step,
    }


def kept(folder, *, steps=(), start=0, config=None, scores=None, keep=3):
    """Save at `steps` into `folder`; the run that was there before."""
    config = {"rate": 0.1} if config is None else config
    with checkpoint.keeper(folder, config=config, keep=keep, every=0) as keeper:
        found = keeper.start(a_run(start))
        for step in steps:
            keeper.save(step, a_run(step, seed=step), None if scores is None else scores[step])
    return found


def test_a_run_comes_back_bit_for_bit(tmp_path):
    kept(tmp_path, steps=[7])
    found, want = kept(tmp_path), a_run(7, seed=7)
    chex.assert_trees_all_equal_structs(found, want)
    assert jax.random.key_data(found.pop("key")).tolist() == [0, 7]
    want.pop("key")
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert type(a) is type(b)
        if not isinstance(a, int | float):
            assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_an_empty_folder_gives_the_run_that_was_offered(tmp_path):
    assert kept(tmp_path / "new", start=3)["step"] == 3


def numbers(folder):
    return sorted(int(p.name) for p in folder.iterdir())


def test_the_last_k_and_the_best_are_kept_and_a_resumed_run_knows_the_best(tmp_path):
    kept(tmp_path, steps=range(6), scores=[0.0, 5.0, 1.0, 2.0, 1.0, 0.0], keep=2)
    assert numbers(tmp_path) == [1, 4, 5]
    kept(tmp_path, steps=range(6, 9), scores={6: 2.0, 7: 4.0, 8: 3.0}, keep=2)
    assert numbers(tmp_path) == [1, 7, 8]
    kept(tmp_path, steps=range(9, 12), scores={9: 6.0, 10: 4.0, 11: 3.0}, keep=2)
    assert numbers(tmp_path) == [9, 10, 11]


def test_without_scores_the_last_k_alone_are_kept(tmp_path):
    for first in (0, 5):
        kept(tmp_path, steps=range(first, first + 5), keep=2)
    assert numbers(tmp_path) == [8, 9]


def test_paths_that_are_the_same_are_refused_before_anything_is_written(tmp_path):
    with (
        pytest.raises(ValueError, match="the same path"),
        checkpoint.keeper(tmp_path, config={}) as keeper,
    ):
        keeper.save(0, {"a.b": jnp.ones(1), "a": {"b": jnp.zeros(1)}})
    assert not any(tmp_path.iterdir())


def test_between_two_checkpoints_only_the_last_is_written_at_the_end(tmp_path):
    with checkpoint.keeper(tmp_path, config={}, every=1000) as keeper:
        for step in range(5):
            keeper.save(step, a_run(step))
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [0, 4]


def test_another_configuration_is_refused_by_name(tmp_path):
    kept(tmp_path, steps=[1, 2])
    with pytest.raises(ValueError, match=r"2: of another configuration: rate is 0.1 there, 0.2"):
        kept(tmp_path, config={"rate": 0.2})
    assert kept(tmp_path)["step"] == 2  # and nothing was touched


def test_a_run_of_another_shape_is_refused_by_name(tmp_path):
    kept(tmp_path, steps=[1])
    with (
        checkpoint.keeper(tmp_path, config={"rate": 0.1}) as keeper,
        pytest.raises(ValueError, match=r"1: holds no R of shape \(4, 2\)"),
    ):
        keeper.start({**a_run(), "R": np.zeros((4, 2))})


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


# What orbax had in flight when it gave up ends in a loop that it has closed.
noisy = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@noisy
@pytest.mark.parametrize("damage", [truncate, flip, os.remove])
def test_no_damage_goes_unnoticed(tmp_path, damage):
    """Whichever file is damaged, what comes back is whole: this run, or the one before it."""
    kept(tmp_path / "whole", steps=[1, 2])
    refused = 0
    for n in range(len(files_of(tmp_path / "whole" / "2"))):
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "whole", folder)
        damage(files_of(folder / "2")[n])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = kept(folder)
        said = [str(w.message) for w in caught]
        # The loss of a file that only marks the end of writing does no harm.
        assert found["step"] == (1 if said else 2)
        want = a_run(seed=found["step"])["state"].params["w"]
        np.testing.assert_array_equal(found["state"].params["w"], want)
        assert all(f"{folder / '2'} was refused" in text for text in said)
        refused += len(said)
    assert refused > 0


@noisy
def test_after_a_refusal_the_way_is_free_again(tmp_path):
    kept(tmp_path, steps=[1, 2])
    truncate(next(p for p in files_of(tmp_path / "2") if p.parent.name == "d"))
    with pytest.warns(UserWarning, match=r"2 was refused .* going on from step 1"):
        assert kept(tmp_path, steps=[2])["step"] == 1
    assert kept(tmp_path)["step"] == 2


@noisy
def test_where_none_can_be_used_each_is_named(tmp_path):
    kept(tmp_path, steps=[1, 2])
    for path in files_of(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint can be used: .*/2: .*/1: "):
        kept(tmp_path)


def save_rarely(folder, last, end):
    with checkpoint.keeper(folder, config={"rate": 0.1}, every=1000) as keeper:
        for step in range(1, last + 1):
            keeper.save(step, a_run(step))
        end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_what_was_handed_over_last_and_leaves(tmp_path, number):
    before = signal.getsignal(number)

    def end():
        signal.raise_signal(number)
        raise AssertionError("went on")

    with pytest.raises(checkpoint.Stopped, match=f"{number.name}; saved up to step 4"):
        save_rarely(tmp_path, 4, end)
    assert signal.getsignal(number) is before
    assert kept(tmp_path)["step"] == 4


def test_a_signal_while_a_checkpoint_is_handed_over_waits_for_it(tmp_path, monkeypatch):
    write = checkpoint._write

    def interrupted(*args):
        signal.raise_signal(signal.SIGTERM)
        write(*args)

    monkeypatch.setattr(checkpoint, "_write", interrupted)
    with pytest.raises(checkpoint.Stopped, match="saved up to step 1"):
        kept(tmp_path, steps=range(1, 4))
    monkeypatch.undo()
    assert kept(tmp_path)["step"] == 1


def test_what_ends_a_run_otherwise_is_saved_too(tmp_path):
    with pytest.raises(ZeroDivisionError):
        save_rarely(tmp_path, 2, lambda: 1 // 0)
    assert kept(tmp_path)["step"] == 2


@pytest.mark.parametrize("options", [{"keep": 0}, {"every": -1.0}])
def test_numbers_out_of_range(tmp_path, options):
    with pytest.raises(ValueError, match=r"got"), checkpoint.keeper(
        tmp_path, config={}, **options
    ):  # fmt: skip
        pass


def test_many_processes_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    refused = pytest.raises(NotImplementedError, match="expected 1, got 2")
    with refused, checkpoint.keeper(tmp_path / "run", config={}):
        pass
    assert not (tmp_path / "run").exists()
