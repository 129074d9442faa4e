"""Compiled programs kept on disk between runs of the command line."""

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path

import jax

from lml_jax.data._cache import cache_dir


def keep_compiled_programs() -> Path | None:
    """Let JAX read and write its persistent compilation cache in the cache folder.

    For a process of its own, as the command line is; never called on import. A folder that the
    user has set (JAX_COMPILATION_CACHE_DIR) is left as it is. Programs are kept apart by the kind
    of processor, for a home may be shared by unlike machines. The folder may be deleted any time.

    Returns:
        The folder; None where the user's own is used, or none can be written; and with jax 0.9,
        which on a CPU warns at length about each program that it reads.

    Example:
        >>> keep_compiled_programs()  # doctest: +SKIP
        PosixPath('/home/me/.cache/lml_jax/compiled/5f0c1e7a')
    """
    set_already = jax.config.values.get("jax_compilation_cache_dir")
    if set_already or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    root = cache_dir()
    if root is None or jax.__version_info__ < (0, 10):
        return None
    folder = root / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # the caches of data say so
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A run compiles many small programs, each faster than JAX's limit of a second.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    return folder


def _processor() -> str:
    """A name of this kind of processor: its compiled programs may not run on another."""
    text = f"{platform.machine()} {platform.processor()}"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text += "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
