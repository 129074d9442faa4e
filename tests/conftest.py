"""Settings of the whole suite."""

import gc
import itertools
import os
import re
from importlib.metadata import version

# Most tests mostly compile, and compare what does not depend on how well: the processes that they
# start inherit this. Set before jax is imported, which reads it then.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# One thread for each compilation, for two processes of tests share two cores.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_parallel_codegen_split_count=1"
)
# Kernels that take half the time to compile; jaxlib 0.12 has no such choice, and stops at it.
if version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax
import numpy as np
import pytest

# Shapes that only fit by accident are errors here, as warnings are.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def _small_process():
    """Forget what a file compiled: in a process of 5 GB everything takes almost twice as long."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def python_blocks():
    """Run the Python blocks of a page one after another in one namespace, which is returned."""

    def run(path, *, where=lambda block: True):
        names = {}
        blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
        assert blocks, f"{path} has no Python block"
        for i, block in enumerate(blocks):
            if where(block):
                exec(compile(block, f"{path.name}, block {i}", "exec"), names)
        return names

    return run


@pytest.fixture
def x64():
    """Double precision, for gradients compared with finite differences."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimized():
    """For tests of what the compiler makes of a program: its time, its memory, its buffers."""
    quick = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture
def assert_disjoint():
    """Assert that no example of one data set occurs, byte for byte, in another."""

    def check(**parts):
        rows = {name: {row.tobytes() for row in np.asarray(p.x)} for name, p in parts.items()}
        for one, other in itertools.combinations(rows, 2):
            shared = rows[one] & rows[other]
            assert not shared, f"{one} and {other} share {len(shared)} examples"

    return check


@pytest.fixture(scope="session")
def tfds_dir():
    """The folder of prepared tfds data; tests that need it skip where there is none."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not os.path.isdir(os.path.join(folder, "omniglot")):
        pytest.skip("omniglot is not prepared: set TFDS_DATA_DIR to a folder that holds it")
    return folder
