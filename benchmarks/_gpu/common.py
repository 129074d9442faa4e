"""What every part needs: rows, a clock, timing of compiled programs, and data."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lml_jax.data.arrays import from_arrays
from lml_jax.experiments.datasets import DataRequest, datasets
from lml_jax.nets._batched_conv import lowering as lowered_by
from lml_jax.types import Dataset

# name -> (dtype, matmul precision). On a GPU the default precision of float32 is tf32.
PRECISIONS = {
    "tf32": (jnp.float32, "default"),
    "f32": (jnp.float32, "highest"),
    "bf16": (jnp.bfloat16, "default"),
}


class Run:
    """One part while it runs: its rows, and the seconds it has left."""

    def __init__(self, part: str, out: Path, seconds: float, *, tiny: bool) -> None:
        self.part, self.path, self.tiny = part, out / "rows.jsonl", tiny
        self.end = time.perf_counter() + seconds

    def left(self) -> float:
        return self.end - time.perf_counter()

    def write(self, **row: Any) -> None:
        """Append one measurement; what was written outlives the process."""
        line = json.dumps({"part": self.part, **row}) + "\n"
        with self.path.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def attempt(self, what: str, measure: Callable[[], dict[str, Any]], *, least: float = 0) -> Any:
        """Write the row of a measurement, or why there is none; returns the row or None."""
        if self.left() < least:
            self.write(what=what, missing=f"{self.left():.0f} s were left")
            return None
        try:
            row = measure()
        except Exception as error:
            self.write(what=what, missing=f"{type(error).__name__}: {error}"[:600])
            return None
        self.write(what=what, **row)
        return row


@contextmanager
def computing(*, precision: str = "tf32", lowering: str | None = None):
    """Trace and compile inside with this matmul precision and this lowering of `conv2d`."""
    with ExitStack() as stack:
        stack.enter_context(jax.default_matmul_precision(PRECISIONS[precision][1]))
        stack.enter_context(lowered_by(lowering))
        yield


def seconds_per_call(call: Callable[[], Any], *, least: float = 0.05, rounds: int = 5) -> float:
    """The median over rounds, each of as many calls as fill `least` seconds; `call` has compiled.

    Calls of a round are queued one after another, and waited for at its end.
    """
    jax.block_until_ready(call())
    begun = time.perf_counter()
    jax.block_until_ready(call())
    count = max(1, int(least / max(time.perf_counter() - begun, 1e-6)))
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - begun) / count)
    return float(np.median(times))


def repeated(f: Callable[..., Array], times: int) -> Callable[..., Array]:
    """A program that computes `f` so many times, so that dispatch is no part of its time.

    Each round depends on the one before through optimisation barriers, which cost nothing on the
    device; without them the compiler would compute a loop-invariant result, or a part of it, once.
    """

    def program(*args: Array) -> Array:
        def one(last: Array, _: Any) -> tuple[Array, None]:
            *own, _ = lax.optimization_barrier((*args, last))
            y = lax.optimization_barrier(f(*own))
            return y.ravel()[0].astype(jnp.float32), None

        return lax.scan(one, jnp.zeros(()), length=times)[0]

    return program


def normals(seed: int, *shapes: tuple[int, ...], dtype: Any = jnp.float32) -> list[Array]:
    """Random arrays on the device; zeros would run faster than real data."""
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    draw = jax.jit(jax.random.normal, static_argnums=(1, 2))
    return [draw(k, shape, dtype) for k, shape in zip(keys, shapes, strict=True)]


def synthetic(classes: int = 40, *, size: int = 28) -> Dataset:
    """Images of classes that differ, where Omniglot is not prepared: 20 of each."""
    rng = np.random.default_rng(0)
    means = rng.random((classes, 1, size, size))
    x = 255 * np.clip(means + 0.2 * rng.normal(size=(classes, 20, size, size)), 0, 1)
    y = np.repeat(np.arange(classes), 20)
    return from_arrays(x.reshape(-1, size, size).astype(np.uint8), y)


def omniglot_or_not(
    split: str, part: Literal["train", "test"], *, tiny: bool
) -> tuple[Dataset, str]:
    """A part of a split of Omniglot, or synthetic images of 28 x 28, and which of them it is."""
    entry, request = datasets["omniglot"], DataRequest(split=split)
    assert entry.background is not None
    assert entry.stream is not None
    if not tiny:
        try:
            data = entry.background(request) if part == "train" else entry.stream(request)[0]
        except FileNotFoundError:
            pass
        else:
            return data, "omniglot"
    return synthetic(40 if tiny else 1000), "synthetic"


def about() -> dict[str, Any]:
    """Devices, driver and versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        card = f"none: {type(error).__name__}"
    packages = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "numpy", "torch")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "devices": [str(device) for device in jax.devices()],
        "kind": jax.devices()[0].device_kind,
        "card": card,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }
