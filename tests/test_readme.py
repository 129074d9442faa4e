"""The README's quickstart runs as it stands, and its commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_quickstart(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    assert len(blocks[0].strip().splitlines()) <= 15
    exec(compile(blocks[0], "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[-1]) < 4.0


@pytest.mark.parametrize("command", re.findall(r"lml-jax reproduce (\w[\w+-]*)", README))
def test_recipes_that_are_named_exist(command):
    from lml_jax.experiments.registry import recipes

    assert command in recipes
