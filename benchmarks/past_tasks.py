"""Time of a lifelong step against the number of past tasks, one to a thousand.

python benchmarks/past_tasks.py [--figure past_tasks.png]

A draw from the history costs the same however many tasks there were; the sum over every task is
beside it for comparison.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lml_jax import memory, nets, plots
from lml_jax.learners.maml import maml
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.types import Batch, Task

TASKS = (1, 10, 100, 1_000)
CLASSES, CAPACITY, STEPS, ROUNDS = 10, 20, 20, 11


def timer(past: int, *, every_task: bool):
    """() -> seconds of a step, after `past` tasks."""
    few_shot = maml(nets.mlp([64, 64], CLASSES), optax.sgd(0.1), steps=1)
    learner = lifelong_maml(
        few_shot,
        optax.adam(1e-3),
        LabelSpace(tasks=past + 1, initial=jnp.ones(CLASSES, bool)),
        bank=memory.task_indexed(CAPACITY, tasks=past + 1),
        past_batch=CAPACITY,
        every_task=every_task,
    )
    key = jax.random.key(0)
    x = jax.random.uniform(key, (25, 28 * 28))
    batch = Batch(x, jnp.arange(25, dtype=jnp.int32) % CLASSES)
    part = jax.tree.map(lambda leaf: leaf[None], batch)
    end_task = jax.jit(learner.end_task, donate_argnums=0)
    step = jax.jit(learner.step, donate_argnums=0)
    state = learner.init(key, x)
    for _ in range(past):
        state = end_task(state, batch, key)
    tasks = Task(part, part, jnp.array([past]))

    def seconds() -> float:
        nonlocal state
        begun = time.perf_counter()
        for _ in range(STEPS):
            state, _ = step(state, tasks, key)
        jax.block_until_ready(state)
        return (time.perf_counter() - begun) / STEPS

    seconds()  # compiles
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", default=None)
    args = parser.parse_args()
    timers = {("one draw", past): timer(past, every_task=False) for past in TASKS}
    timers |= {("every task", past): timer(past, every_task=True) for past in TASKS}
    rounds = [{name: seconds() for name, seconds in timers.items()} for _ in range(ROUNDS)]
    curves: dict[str, dict[int, float]] = {}
    for name, past in timers:
        middle = 1e3 * np.median([one[name, past] for one in rounds])
        curves.setdefault(name, {})[past] = middle
        print(f"{name:12s}{past:6d} past tasks{middle:10.3f} ms a step")
    if args.figure:
        figure = plots.costs(curves, of="past tasks", unit="ms a step")
        print(plots.save(figure, args.figure))


if __name__ == "__main__":
    main()
