"""`benchmarks/gpu.py` at its smallest sizes, on a CPU: every part writes what it measured."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu.py"


def run_tiny(out, *options):
    """The rows of a run at the smallest sizes, and what it printed."""
    run = subprocess.run(
        [sys.executable, SCRIPT, "--out", out, "--tiny", "--minutes", "10", *options],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=700,
    )
    log = (out / "log.txt").read_text()
    assert run.returncode == 0, run.stderr + log
    found = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    exits = {row["what"]: row["exit"] for row in found if row["part"] == "whole"}
    assert all(code == [0] for code in exits.values()), log
    return found, run.stdout


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("gpu"))


def of(rows, part):
    return [row for row in rows[0] if row["part"] == part]


@pytest.mark.parametrize(
    "module",
    ["agreement", "ceilings", "convolutions", "maml", "maml_torch", "rates", "seeds", "table"],
)
def test_every_part_imports(monkeypatch, module):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    assert importlib.import_module(f"_gpu.{module}")


def test_one_part_alone_writes_its_rows(tmp_path):
    found, shown = run_tiny(tmp_path, "--parts", "ceilings")
    assert {row["part"] for row in found} == {"ceilings", "whole"}
    assert sum("tflops" in row for row in found) == 3
    assert "product, bf16" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "field", "least"),
    [
        ("ceilings", "tflops", 3),
        ("ceilings", "gb_per_s", 1),
        ("agreement", "error_state", 3),
        ("conv", "tflops", 12),  # 3 outputs x 2 lowerings, for two tasks and for one
        ("maml", "steps_per_s", 3),  # two variants, and the training of the faster
        ("maml", "accuracy", 1),
        ("rates", "steps_per_s", 1),
        ("seeds", "seconds", 4),  # two learners, one seed and two
    ],
)
def test_every_part_writes_its_rows(rows, part, field, least):
    assert sum(field in row for row in of(rows, part)) == least


@pytest.mark.slow
def test_only_what_is_absent_is_missing(rows):
    missing = {row["what"] for row in rows[0] if "missing" in row}
    assert missing <= {"OML", "torch maml"}


@pytest.mark.slow
def test_the_device_agrees_with_the_cpu_in_another_lowering(rows):
    own = of(rows, "agreement")
    assert all(row["equal"] for row in own)
    other = next(row for row in own if "conv by patches" in row["what"])
    assert 0 < other["error_state"] < 1e-4


@pytest.mark.slow
def test_two_seeds_are_compared_with_one(rows):
    own = [row for row in of(rows, "seeds") if row["seeds"] == 2]
    assert all(row["times_one"] > 0 for row in own)


@pytest.mark.slow
def test_the_table_names_every_measurement(rows):
    for row in rows[0]:
        if row["part"] not in ("conv", "whole"):
            assert row["what"] in rows[1]


def test_a_part_that_is_not_there_is_named():
    run = subprocess.run(
        [sys.executable, SCRIPT, "--out", "nowhere", "--parts", "ceilings,speed"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "unknown parts ['speed']" in run.stderr
