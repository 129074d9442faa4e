"""How a program is executed: scan or loop, unrolled or not, recomputation, updates per call."""

from typing import Literal, NamedTuple

import jax

NetKind = Literal["dense", "conv"]


class Execution(NamedTuple):
    """Decisions that change the speed of a run and nothing else.

    Attributes:
        scan: run the updates of a chunk as one `jax.lax.scan`; else one compiled update at a time.
        unroll: unroll the inner loop of a learner instead of scanning it.
        remat: recompute the inner steps of a learner in the backward pass, instead of storing their
            activations.
        chunk: updates between two returns to the host, where progress is shown and saved.
    """

    scan: bool
    unroll: bool
    remat: bool
    chunk: int


def execution(
    net: NetKind, *, steps: int, inner_steps: int = 1, backend: str | None = None
) -> Execution:
    """The execution of a training run of `steps` updates.

    On a CPU, XLA runs a convolution inside a scan on one thread, so convolutional networks are
    looped and unrolled there. Everywhere else a scan is faster: it launches once per chunk.

    Recomputation bounds the memory to that of one inner step and a copy of the adapted weights for
    each of the others. With a single inner step there is nothing to save, and storing is faster:
    570 instead of 384 updates per second of MAML on Omniglot on one H200. On a CPU the difference
    in speed is not measured, so inner steps are recomputed there.

    Args:
        net: "conv" for a network with convolutions, "dense" for all others.
        steps: updates in one phase of the run (in all, or of each task), >= 1.
        inner_steps: of the learner at training, >= 0.
        backend: "cpu", "gpu" or "tpu"; None for that of this process.

    Returns:
        An `Execution`.

    Example:
        >>> execution("conv", steps=2000, backend="cpu")
        Execution(scan=False, unroll=True, remat=True, chunk=25)
        >>> execution("conv", steps=2000, backend="gpu")
        Execution(scan=True, unroll=False, remat=False, chunk=100)
        >>> execution("conv", steps=2000, inner_steps=5, backend="gpu").remat
        True
    """
    backend = backend or jax.default_backend()
    looped = net == "conv" and backend == "cpu"
    # A scan is compiled for each length, so chunks are few; a loop may return as often as it likes.
    most = 25 if looped else min(1000, max(25, steps // 20))
    return Execution(
        scan=not looped,
        unroll=looped,
        remat=inner_steps > 1 or backend != "gpu",
        chunk=max(1, min(steps, most)),
    )
