"""Settings of the whole suite."""

import jax
import pytest

# Shapes that only fit by accident are errors here, as warnings are.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Double precision, for gradients compared with finite differences."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """For tests that mostly compile, and compare what does not depend on how well."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
