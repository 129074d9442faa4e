"""What the card can do at most: matrix products and a copy."""

from typing import Any

import jax
import jax.numpy as jnp
from _gpu.common import PRECISIONS, Run, computing, normals, repeated, seconds_per_call


def main(run: Run) -> None:
    n = 256 if run.tiny else 8192
    for name in PRECISIONS:
        run.attempt(f"product, {name}", lambda name=name: product(name, n), least=3)
    run.attempt("copy", lambda: copy(2**16 if run.tiny else 2**28), least=3)


def product(name: str, n: int) -> dict[str, Any]:
    """An n x n x n product of random matrices."""
    times = 2 if n < 1024 else 5
    a, b = normals(0, (n, n), (n, n), dtype=PRECISIONS[name][0])
    with computing(precision=name):
        compiled = jax.jit(repeated(jnp.matmul, times)).lower(a, b).compile()
    seconds = seconds_per_call(lambda: compiled(a, b)) / times
    return {"n": n, "ms": 1e3 * seconds, "tflops": 2 * n**3 / seconds / 1e12}


def copy(floats: int) -> dict[str, Any]:
    """x + 1, which reads and writes every float once."""
    (x,) = normals(0, (floats,))
    add = jax.jit(lambda x: x + 1)
    seconds = seconds_per_call(lambda: add(x))
    return {"bytes": 8 * floats, "ms": 1e3 * seconds, "gb_per_s": 8 * floats / seconds / 1e9}
