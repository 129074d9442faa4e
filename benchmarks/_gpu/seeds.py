"""A whole lifelong run as one program, for one seed and for many side by side by `vmap`."""

import time
from dataclasses import replace
from typing import Any

import jax
from _gpu.common import Run, computing, omniglot_or_not

from lml_jax.data.stream import Stream
from lml_jax.experiments.lifelong import streams
from lml_jax.experiments.lifelong.entries import Context, context_of
from lml_jax.experiments.lifelong.learners import lifelong_learners
from lml_jax.experiments.lifelong.settings import Lifelong, for_learner, resolve
from lml_jax.lifelong.program import Program, program
from lml_jax.types import LifelongLearner

SETTINGS = Lifelong(data="omniglot", from_scratch=True)


def main(run: Run) -> None:
    settings, steps, many = SETTINGS, 200, (1, 10, 100)
    if run.tiny:
        settings, steps, many = replace(settings, tasks=2, classes_per_task=2), 2, (1, 2)
    stream, data = stream_of(settings, tiny=run.tiny)
    for name in ("lifelong-maml", "memory"):
        # `online` is measured once per task.
        whole = program(learner_of(name, settings, stream), steps=steps, chunk=steps)
        first = None
        for seeds in many:

            def measure(
                whole: Program = whole, seeds: int = seeds, first: Any = first
            ) -> dict[str, Any]:
                row = timed(whole, stream, seeds, once=run.tiny)
                row |= {"seeds": seeds, "updates": stream.tasks * steps, "data": data}
                return row | ({"times_one": row["seconds"] / first} if first else {})

            row = run.attempt(f"{name}, {seeds} seeds", measure, least=0 if run.tiny else 8)
            if row is None:
                break
            first = first or row["seconds"]


def stream_of(settings: Lifelong, *, tiny: bool) -> tuple[Stream, str]:
    """The stream of seed 0, class-incremental, of Omniglot's evaluation alphabets."""
    data, which = omniglot_or_not("background/evaluation", "test", tiny=tiny)
    stream = streams.stream_of(resolve(settings), streams.StreamData(data, None), 0)
    return jax.device_put(stream), which


def context(name: str, settings: Lifelong, stream: Stream) -> Context:
    """What a learner of the commands is built from."""
    entry = lifelong_learners[name]
    plan = for_learner(resolve(settings), name, defaults=entry.defaults, options=entry.options)
    return context_of(plan, stream, entry)


def learner_of(name: str, settings: Lifelong, stream: Stream) -> LifelongLearner:
    """A learner as the commands build it."""
    return lifelong_learners[name].make(context(name, settings, stream))


def timed(whole: Program, stream: Stream, seeds: int, *, once: bool) -> dict[str, Any]:
    """Seconds of a run of all tasks, training and evaluation, and of its compilation."""
    keys = jax.random.split(jax.random.key(0), seeds)
    # One seed is no vmap of one, which a user would not write either.
    many = whole if seeds == 1 else jax.vmap(whole, in_axes=(None, 0))
    given = keys[0] if seeds == 1 else keys
    begun = time.perf_counter()
    with computing():
        compiled = jax.jit(many).lower(stream, given).compile()
    compile_s = time.perf_counter() - begun
    if not once:
        jax.block_until_ready(compiled(stream, given))
    begun = time.perf_counter()
    run = jax.block_until_ready(compiled(stream, given))
    seconds = time.perf_counter() - begun
    accuracy = float(run.R[..., -1, :].mean())
    return {"seconds": seconds, "compile_s": compile_s, "accuracy": accuracy}
