"""Settings of the whole suite."""

import os

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


@pytest.fixture(scope="session")
def tfds_dir():
    """The folder of prepared tfds data; tests that need it skip where there is none."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not os.path.isdir(os.path.join(folder, "omniglot")):
        pytest.skip("omniglot is not prepared: set TFDS_DATA_DIR to a folder that holds it")
    return folder
