"""What a process on a CPU sets before JAX computes anything."""

import ctypes
import os
import sys

import jax

# Of glibc's malloc.h, for `mallopt`.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def one_device_per_core(cores: int | None = None) -> int:
    """Make each CPU core a device with one thread, for `parallel.shard_map_mean` and `pmap_mean`.

    Cores that adapt to tasks of their own keep more of themselves busy than cores that share the
    convolutions of one task. Call it before anything is computed: JAX reads it when it starts.

    Args:
        cores: how many, >= 1; None for all that this process may use.

    Returns:
        The number of devices.

    Raises:
        ValueError: for cores below 1.
        RuntimeError: if JAX has started already.

    Example:
        >>> from lml_jax import cpu
        >>> cpu.one_device_per_core(2)  # doctest: +SKIP
        2
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not cores or cores < 1:
        raise ValueError(f"cores must be at least 1, got {cores}")
    jax.config.update("jax_num_cpu_devices", cores)
    flag = "--xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    return cores


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, for the next step to fill again.

    By default the C library hands every large buffer back to the kernel, which gives it out again
    page by page, cleared, at each step: for a convolutional network this can take longer than the
    arithmetic, most of all on virtual machines. The process then stays as large as it ever was.
    Call it early; what is allocated already stays where it is.

    Returns:
        Whether this system has the setting: Linux with glibc has.

    Example:
        >>> from lml_jax import cpu
        >>> cpu.keep_freed_memory()  # doctest: +SKIP
        True
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 2**26, _ARENA_MAX: 1}
    return mallopt is not None and all(mallopt(*pair) == 1 for pair in settings.items())
