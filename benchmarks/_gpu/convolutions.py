"""3x3 convolutions 64 -> 64 with a kernel per task, in every lowering of `conv2d`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from _gpu.common import PRECISIONS, Run, computing, normals, repeated, seconds_per_call
from jax import Array

from lml_jax.nets._batched_conv import LOWERINGS, conv2d

CHANNELS, TIMES = 64, 10
# In order of importance: precision, image size, images per task, tasks.
CELLS = [
    *[("tf32", size, 25, 32) for size in (28, 14, 7)],
    *[("tf32", size, 5, 32) for size in (14, 7)],
    *[("bf16", 28, 25, 32), ("f32", 28, 25, 32)],
    *[("tf32", size, 25, 4) for size in (28, 14, 7)],
    *[("tf32", size, 25, 1) for size in (28, 14, 7)],
    *[("bf16", 14, 25, 32), ("f32", 14, 25, 32), ("bf16", 7, 25, 32), ("f32", 7, 25, 32)],
    *[("tf32", 28, 5, 32), ("bf16", 28, 25, 4), ("bf16", 28, 25, 1), ("f32", 28, 25, 4)],
    *[("tf32", 14, 5, 4), ("tf32", 7, 5, 4), ("tf32", 14, 5, 1), ("f32", 28, 25, 1)],
]


class Case(NamedTuple):
    """One program: which output of the trilinear form, in which lowering, for so many tasks."""

    of: str
    lowering: str
    tasks: int
    precision: str
    size: int
    images: int
    channels: int

    @property
    def flops(self) -> int:
        return 2 * 9 * self.channels**2 * self.size**2 * self.images * self.tasks

    def function(self) -> Callable[[Array, Array, Array], Array]:
        """(x, w, y) -> the convolution, or its gradient to the images or the kernels."""
        convolve = jax.vmap(conv2d)
        return {
            "forward": lambda x, w, y: convolve(x, w),
            "images": lambda x, w, y: jax.vjp(lambda x: convolve(x, w), x)[1](y)[0],
            "kernels": lambda x, w, y: jax.vjp(lambda w: convolve(x, w), w)[1](y)[0],
        }[self.of]


def main(run: Run) -> None:
    channels = 4 if run.tiny else CHANNELS
    for cell in [("tf32", 7, 2, 2), ("bf16", 7, 2, 1)] if run.tiny else CELLS:
        precision, size, images, tasks = cell
        if run.left() < 5 and not run.tiny:
            run.write(what=f"{precision} {size}x{size}", cell=cell, missing="no time left")
            continue
        cases = [
            Case(of, lowering, tasks, precision, size, images, channels)
            for of in ("forward", "images", "kernels")
            for lowering in LOWERINGS
        ]
        measure(run, cases)


def measure(run: Run, cases: list[Case]) -> None:
    """Compile all cases side by side, and then time one after another."""
    with ThreadPoolExecutor(1 if run.tiny else 12) as pool:
        jobs = [pool.submit(compiled, case) for case in cases]
    for case, job in zip(cases, jobs, strict=True):
        about = case._asdict() | {"what": f"conv {case.of}"}
        if run.left() < 0:
            return
        try:
            program = job.result()
            x, w, y = arrays(case)
            call = partial(program, x, w, y)
            seconds = seconds_per_call(call, least=0.01, rounds=4) / TIMES
        except Exception as error:
            run.write(**about, missing=f"{type(error).__name__}: {error}"[:400])
            continue
        run.write(**about, ms=1e3 * seconds, tflops=case.flops / seconds / 1e12)


def compiled(case: Case) -> Any:
    # Contexts are of one thread, so they are entered in the one that compiles.
    with computing(precision=case.precision, lowering=case.lowering):
        program = jax.jit(repeated(case.function(), TIMES))
        return program.lower(*jax.eval_shape(lambda: shapes(case))).compile()


def shapes(case: Case) -> tuple[Array, Array, Array]:
    c, dtype = case.channels, PRECISIONS[case.precision][0]
    image = jnp.zeros((case.tasks, case.images, case.size, case.size, c), dtype)
    return image, jnp.zeros((case.tasks, 3, 3, c, c), dtype), image


def arrays(case: Case) -> list[Array]:
    given = jax.eval_shape(lambda: shapes(case))
    return normals(0, *(leaf.shape for leaf in given), dtype=given[0].dtype)
