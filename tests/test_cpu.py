"""Settings that a process makes before JAX computes anything, each in a process of its own."""

import subprocess
import sys

import pytest

from lml_jax import cpu


def printed(program):
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    return output.stdout.split()


def test_cores_become_devices_before_anything_is_computed():
    program = (
        "import jax\n"
        "from lml_jax import cpu\n"
        "made = cpu.one_device_per_core(2)\n"
        "found = jax.device_count()\n"
        "try:\n"
        "    cpu.one_device_per_core(4)\n"
        "except RuntimeError:\n"
        "    print(made, found)\n"
    )
    assert printed(program) == ["2", "2"]


def test_no_cores():
    with pytest.raises(ValueError, match="cores must be at least 1, got 0"):
        cpu.one_device_per_core(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is of glibc")
def test_freed_memory_is_kept():
    # Pages that the kernel had to clear anew, for 20 buffers of 32 MiB after one.
    program = (
        "import resource\n"
        "import numpy as np\n"
        "def faults():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for n in range(21):\n"
        "    if n == 1: begun = faults()\n"
        "    np.ones(2**22).sum()\n"
        "print(faults() - begun)\n"
    )
    pages = 20 * 2**25 // 4096
    (kept,) = printed(f"from lml_jax import cpu\nassert cpu.keep_freed_memory()\n{program}")
    (freed,) = printed(program)
    assert int(kept) < pages / 100
    assert int(kept) < int(freed) / 3
