"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lml_jax

NAMES = [
    module.name
    for module in pkgutil.walk_packages(lml_jax.__path__, "lml_jax.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
    module = importlib.import_module(name)
    extra = {"jax": jax, "jnp": jnp, "np": np, "optax": optax}
    result = doctest.testmod(module, extraglobs=extra)
    assert result.failed == 0


def test_there_are_examples():
    assert len(NAMES) > 20
