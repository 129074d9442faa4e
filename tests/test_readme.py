"""Every code block of the README runs, and its commands exist."""

import re
from pathlib import Path

import pytest

import lml_jax
from lml_jax import cli
from lml_jax.experiments.kept import commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_quickstart(capsys):
    assert len(BLOCKS) == 2
    assert len(BLOCKS[0].strip().splitlines()) <= 15
    names = {}
    exec(compile(BLOCKS[0], "README.md", "exec"), names)
    assert float(capsys.readouterr().out.split()[-1]) < 4.0


def test_a_learner_that_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"lml": lml_jax}
    exec(compile(BLOCKS[1], "README.md", "exec"), names)
    assert names["names"][0] == "cat"
    assert (tmp_path / "mine.kept").exists()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"lml-jax (\w+) [^|`\n]*\n", README))))
def test_commands_that_are_named_exist(command):
    assert hasattr(cli, command) or hasattr(commands, command)


@pytest.mark.parametrize("command", re.findall(r"lml-jax reproduce (\w[\w+-]*)", README))
def test_recipes_that_are_named_exist(command):
    from lml_jax.experiments.registry import recipes

    assert command in recipes


def test_it_is_short_and_its_links_exist():
    assert len(README.splitlines()) <= 150
    table = README[README.index("## Results") : README.index("## Where to go next")]
    assert table.count("\n| ") - 2 <= 12  # without the head and the line under it
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
