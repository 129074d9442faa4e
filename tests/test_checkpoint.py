"""One process at a time; tests/experiments/test_resume.py kills some."""

import os
import signal
import subprocess
import sys
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import checkpoint, storage, train


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
    return sorted(int(p.stem) for p in folder.iterdir())


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


def test_keys_that_hold_the_separator_of_paths_do_not_collide(tmp_path):
    run = {"a.b": jnp.ones(1), "a": {"b": jnp.zeros(1)}, "a/b": jnp.full(1, 2.0)}
    for _ in range(2):
        with checkpoint.keeper(tmp_path, config={}) as keeper:
            found = keeper.start(jax.tree.map(jnp.zeros_like, run))
            keeper.save(0, run)
    chex.assert_trees_all_equal(found, run)


def test_between_two_checkpoints_only_the_last_is_written_at_the_end(tmp_path):
    with checkpoint.keeper(tmp_path, config={}, every=1000) as keeper:
        for step in range(5):
            keeper.save(step, a_run(step))
    assert numbers(tmp_path) == [0, 4]


def test_another_configuration_is_refused_by_name(tmp_path):
    kept(tmp_path, steps=[1, 2])
    with pytest.raises(ValueError, match=r"2.npz: of another configuration: rate is 0.1"):
        kept(tmp_path, config={"rate": 0.2})
    assert kept(tmp_path)["step"] == 2  # and nothing was touched


def test_a_run_of_another_shape_is_refused_by_name(tmp_path):
    kept(tmp_path, steps=[1])
    with (
        checkpoint.keeper(tmp_path, config={"rate": 0.1}) as keeper,
        pytest.raises(
            ValueError, match=r"1.npz: .*'R'.* float64 \[3, 2\], expected float64 \[4, 2\]"
        ),
    ):
        keeper.start({**a_run(), "R": np.zeros((4, 2))})


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip_anywhere(path):
    """A bit in one of 64 places over the whole file."""
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 64).astype(int):
        content = bytearray(whole)
        content[place] ^= 0xFF
        path.write_bytes(content)
        yield


@pytest.mark.parametrize("damage", [truncate, empty, os.remove])
def test_no_damage_goes_unnoticed(tmp_path, damage):
    kept(tmp_path, steps=[1, 2])
    damage(tmp_path / "2.npz")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = kept(tmp_path)
    assert found["step"] == 1
    if damage is not os.remove:
        assert f"{tmp_path / '2.npz'} was refused" in str(caught[0].message)


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    """Where a bit of the file is flipped, the run that comes back is whole, or the one before."""
    kept(tmp_path, steps=[1, 2])
    refused = 0
    for _ in flip_anywhere(tmp_path / "2.npz"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = kept(tmp_path)
        assert found["step"] == (1 if caught else 2)
        want = a_run(seed=found["step"])["state"].params["w"]
        np.testing.assert_array_equal(found["state"].params["w"], want)
        refused += len(caught)
    assert refused > 40


def test_a_refused_checkpoint_is_moved_out_of_the_way(tmp_path):
    kept(tmp_path, steps=[1, 2])
    truncate(tmp_path / "2.npz")
    with pytest.warns(UserWarning, match=r"2.npz was refused .* resuming from step 1"):
        assert kept(tmp_path, steps=[2])["step"] == 1
    assert kept(tmp_path)["step"] == 2


def test_where_none_can_be_used_each_is_named(tmp_path):
    kept(tmp_path, steps=[1, 2])
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint can be used: .*/2.npz: .*/1.npz: "):
        kept(tmp_path)


@pytest.mark.parametrize("name", ["[x]", "a\\b", "*", "?", "{a,b}", "[!a]", "~", "ü ", "%s"])
def test_a_folder_of_any_name_gives_back_what_was_saved(tmp_path, name):
    kept(tmp_path / name / "checkpoints", steps=[1, 2])
    assert kept(tmp_path / name / "checkpoints")["step"] == 2


def test_a_configuration_with_nan_is_equal_to_itself(tmp_path):
    config = {"lr": float("nan"), "rates": [1.0, float("inf"), float("nan")]}
    kept(tmp_path, steps=[3], config=config)
    assert kept(tmp_path, config=config)["step"] == 3
    with pytest.raises(ValueError, match=r"lr is nan there, 0.1 here"):
        kept(tmp_path, config={**config, "lr": 0.1})


def test_a_checkpoint_that_cannot_be_read_back_is_an_error_and_the_last_one_stays(
    tmp_path, monkeypatch
):
    kept(tmp_path, steps=[1], keep=1)
    savez = np.savez
    monkeypatch.setattr(np, "savez", lambda file, **a: savez(file, **{**a, "2": a["2"] + 1}))
    with pytest.raises(OSError, match=r"2.npz was not written as it should be"):
        kept(tmp_path, steps=[2], keep=1)
    monkeypatch.undo()
    assert kept(tmp_path)["step"] == 1


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / ".5.npz.abc.tmp").write_bytes(b"half")
    assert kept(tmp_path, steps=[1])["step"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["1.npz"]


def test_a_folder_has_one_owner_who_is_named(tmp_path):
    with checkpoint.owned(tmp_path / "new") as folder:
        with pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()} on"):
            kept(folder)
        with checkpoint.owned(tmp_path):  # another folder
            pass
    assert kept(folder, steps=[1])["step"] == 0


OWNER = """
import sys, time
from lml_jax import checkpoint
with checkpoint.owned(sys.argv[1]):
    print("owned", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_free_again_when_its_owner_is_killed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "owned\n"
        refused = pytest.raises(BlockingIOError, match=f"in use by process {process.pid} on")
        with refused, checkpoint.owned(tmp_path):
            pass
    finally:
        process.kill()
        process.communicate()
    with checkpoint.owned(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


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
    pack = storage.pack

    def interrupted(run):
        signal.raise_signal(signal.SIGTERM)
        return pack(run)

    monkeypatch.setattr(storage, "pack", interrupted)
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
