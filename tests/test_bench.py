"""The bench: contestants do the same work, and a peer that is absent is said."""

import json

import numpy as np
import pytest

from benchmarks import contestants, ours, race, torch_loops, work
from benchmarks.torch_maml import PEERS, sine_problem


def test_a_race_takes_turns_and_names_who_is_missing(tmp_path):
    record = race.run_races(["maml-sine"], tmp_path / "bench", repeats=2, progress=False)
    written = json.loads((tmp_path / "bench/metrics.json").read_text())
    (found,) = written["races"]
    assert found["rates"]["lml_jax"]["median"] > 0
    assert found["rates"]["lml_jax"]["peak_mib"] > 1
    assert set(found["rates"]) | set(found["missing"]) == {"lml_jax", *PEERS}
    text = race.table(record)
    for peer in found["missing"]:
        assert f"{peer:18s} not here: " in text


class Scripted:
    """A contestant whose answers are known."""

    def __init__(self, workload, contestant):
        self.ours, self.left = contestant == "lml_jax", 2
        self.hello = {"first": 1.0, "losses": [0.5, 0.4]}

    def turn(self, steps):
        self.left -= 1
        if not self.ours and self.left == 0:
            return {"missing": "its process ended without a word, exit code -9"}
        return {"seconds": 1.0, "peak_kib": 1024}

    def close(self):
        pass


def test_a_contestant_that_dies_leaves_the_race_to_the_others(monkeypatch):
    monkeypatch.setattr(race, "Process", Scripted)
    found = race.race("maml-sine", repeats=2, progress=False)
    assert list(found["rates"]) == ["lml_jax"]
    assert found["ratios"] == {}
    assert set(found["missing"]) == set(PEERS)


def test_a_process_that_dies_says_with_what_code():
    process = race.Process("no such workload", "lml_jax")
    assert "exit code 1" in process.hello["missing"]
    assert "exit code 1" in process.turn(1)["missing"]
    process.close()


def test_unknown_workloads_and_no_repeats_are_named(tmp_path):
    with pytest.raises(ValueError, match="maml-sine"):
        race.run_races(["maml-sin"], tmp_path / "bench")
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        race.race("maml-sine", repeats=0)


def test_ratios_are_of_the_same_repeat():
    rates = {"lml_jax": np.array([2.0, 4.0]), "other": np.array([1.0, 2.0])}
    assert race.ratio(rates, "other") == {"median": 2.0, "low": 2.0, "high": 2.0}


@pytest.mark.parametrize("peer", PEERS)
def test_peers_descend_as_we_do_on_sine_waves(peer):
    pytest.importorskip("torch")
    problem = sine_problem(tasks=3)
    try:
        theirs = PEERS[peer](problem)
    except ImportError as error:
        pytest.skip(f"{peer} is not here: {error}")
    mine = ours.maml_sine(tasks=3)
    np.testing.assert_allclose(
        [theirs(1) for _ in range(3)], [mine(1) for _ in range(3)], rtol=1e-3
    )


@pytest.mark.parametrize("name", ["head_trajectory", "head_trajectory_batched"])
def test_heads_go_the_same_way(name):
    pytest.importorskip("torch")
    sizes = {"orders": 2, "width": 8, "classes": 5, "length": 20}
    theirs, mine = getattr(torch_loops, name)(**sizes), ours.head_trajectory(**sizes)
    assert theirs(1) == pytest.approx(mine(1), rel=1e-4)


def test_an_online_run_ends_with_the_same_loss():
    pytest.importorskip("torch")
    sizes = {"tasks": 2, "samples": 40, "batch": 10, "hidden": 16}
    assert torch_loops.online(**sizes)(1) == pytest.approx(ours.online(**sizes)(1), rel=1e-3)


def test_an_online_run_sees_every_sample_once():
    x, y = work.stream(tasks=3, samples=20)
    assert x.shape == (3, 20, 784)
    assert [set(own.tolist()) for own in y] == [{0, 1}, {2, 3}, {4, 5}]


def test_every_workload_has_us_first():
    assert all(next(iter(w.contestants)) == "lml_jax" for w in contestants.WORKLOADS.values())
