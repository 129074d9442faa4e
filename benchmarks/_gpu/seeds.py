"""A whole lifelong run as one program, for one seed and for many side by side by `vmap`."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from _gpu.common import Run, computing, omniglot_or_not
from jax import Array
from lml_jax.lifelong.stream import score
from lml_jax.recipes.lifelong_parts import Lifelong, few_shot_of, made_of

from lml_jax.data.streams import class_incremental
from lml_jax.types import Batch, Key, LifelongLearner, Stream


def main(run: Run) -> None:
    settings, steps, many = Lifelong(), 200, (1, 10, 100)
    if run.tiny:
        settings, steps, many = replace(settings, tasks=2, classes_per_task=2), 2, (1, 2)
    stream, data = stream_of(settings, tiny=run.tiny)
    for name in ("lifelong-maml", "memory"):
        learner = made_of(name, settings, few_shot_of(settings, stream.classes), stream).learner
        of_seed = program(learner, stream, steps=steps)
        first = None
        for seeds in many:

            def measure(
                of_seed: Any = of_seed, seeds: int = seeds, first: Any = first
            ) -> dict[str, Any]:
                row = timed(of_seed, seeds, once=run.tiny)
                row |= {"seeds": seeds, "updates": stream.tasks * steps, "data": data}
                return row | ({"times_one": row["seconds"] / first} if first else {})

            row = run.attempt(f"{name}, {seeds} seeds", measure, least=0 if run.tiny else 8)
            if row is None:
                break
            first = first or row["seconds"]


def stream_of(s: Lifelong, *, tiny: bool) -> tuple[Stream, str]:
    """The stream of seed 0 of a class-incremental run on Omniglot's evaluation alphabets."""
    data, which = omniglot_or_not("none", "evaluation", tiny=tiny)
    stream = class_incremental(
        data,
        tasks=s.tasks or 10,
        classes_per_task=s.classes_per_task or 5,
        seed=0,
        train_per_class=s.train_per_class,
        shots=s.shots,
        queries=s.queries,
        meta_batch=s.meta_batch,
    )
    return stream, which


def program(learner: LifelongLearner, stream: Stream, *, steps: int) -> Callable[[Key], Array]:
    """(key) -> accuracy [tasks] of `recall` after the last task; every task is learned in turn."""

    def of_seed(key: Key) -> Array:
        key_init, key_run, key_end, key_recall = jax.random.split(key, 4)
        first = stream.train(0)
        state = learner.init(key_init, Batch(first.x[0], first.y[0]))

        def task(state: Any, i: Array) -> tuple[Any, None]:
            def one(state: Any, t: Array) -> tuple[Any, None]:
                keys = jax.random.split(jax.random.fold_in(key_run, i * steps + t))
                return learner.step(state, stream.episodes(i, keys[0]), keys[1])[0], None

            state, _ = jax.lax.scan(one, state, jnp.arange(steps))
            return learner.end_task(state, stream.train(i), jax.random.fold_in(key_end, i)), None

        state, _ = jax.lax.scan(task, state, jnp.arange(stream.tasks))

        def recalled(j: Array) -> Array:
            batch = stream.test(j)
            logits = learner.recall(state, batch.x, key_recall)
            return score(logits, batch, jnp.ones(stream.classes, bool))

        return jax.lax.map(recalled, jnp.arange(stream.tasks))

    return of_seed


def timed(of_seed: Callable[[Key], Array], seeds: int, *, once: bool) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), seeds)
    begun = time.perf_counter()
    with computing():
        # One seed is no vmap of one, which a user would not write either.
        whole = of_seed if seeds == 1 else jax.vmap(of_seed)
        compiled = jax.jit(whole).lower(keys[0] if seeds == 1 else keys).compile()
    compile_s = time.perf_counter() - begun
    given = keys[0] if seeds == 1 else keys
    if not once:
        jax.block_until_ready(compiled(given))
    begun = time.perf_counter()
    accuracy = jax.block_until_ready(compiled(given))
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "compile_s": compile_s, "accuracy": float(accuracy.mean())}
