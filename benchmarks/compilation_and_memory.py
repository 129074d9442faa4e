"""Compile time of a conv4 meta-step, and the memory of its gradient against inner steps.

python benchmarks/compilation_and_memory.py [--figure memory.png]
"""

import argparse
import time

import jax
import jax.numpy as jnp
import optax

import lml_jax as lml

KEY = jax.random.key(0)
TASKS = 4
STEPS = (1, 2, 5, 10, 20)  # inner ones


def tasks_of(count: int) -> lml.Task:
    x = jnp.zeros((count, 5, 28, 28), jnp.uint8)
    part = lml.Batch(x, jnp.tile(jnp.arange(5, dtype=jnp.int32), (count, 1)))
    return lml.Task(part, part)


def compilation() -> None:
    """Of the whole train step; then what a second call compiles."""
    learner = lml.maml(lml.nets.conv4(5), optax.sgd(0.4), steps=1, unroll=True)
    tx = optax.adam(1e-3)
    step = jax.jit(lml.make_train_step(lml.episode_loss(learner), tx))
    for count in (4, 32):
        tasks = tasks_of(count)
        state = lml.init_state(learner.init(KEY, tasks.support.x[0]), tx)
        begun = time.perf_counter()
        step.lower(state, tasks, KEY).compile()
        print(f"conv4 meta-step of {count} tasks: compiled in {time.perf_counter() - begun:.1f} s")
        before = step._cache_size()
        state, _ = step(state, tasks, KEY)
        once = step._cache_size()
        step(state, tasks, KEY)
        print(f"  compiled by calls 1 and 2: {once - before} and {step._cache_size() - once}")


def memory() -> dict[str, dict[int, float]]:
    """Temporary memory of the compiled meta-gradient, in MiB, against the inner steps."""
    tasks = tasks_of(TASKS)
    curves = {}
    for remat, unroll in ((True, False), (False, False), (True, True)):
        sizes = {}
        for steps in STEPS:
            learner = lml.maml(
                lml.nets.conv4(5), optax.sgd(0.4), steps=steps, remat=remat, unroll=unroll
            )
            params = learner.init(KEY, tasks.support.x[0])
            loss = lml.parallel.vmap_mean(lml.episode_loss(learner))
            grad = jax.jit(jax.grad(lambda p, t, k, loss=loss: loss(p, t, k)[0]))
            compiled = grad.lower(params, tasks, KEY).compile()
            sizes[steps] = compiled.memory_analysis().temp_size_in_bytes
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        name = f"remat {remat}, {'unrolled' if unroll else 'scanned'}"
        curves[name] = {steps: size / 2**20 for steps, size in sizes.items()}
        growth = (sizes[20] - sizes[5]) / (15 * TASKS * weights)
        print(
            f"{name:22s}: {', '.join(f'{s} steps {m:.0f} MiB' for s, m in curves[name].items())}; "
            f"from 5 to 20 {growth:.2f} x the extra copies of the adapted weights"
        )
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", default=None)
    args = parser.parse_args()
    compilation()
    curves = memory()
    if args.figure:
        figure = lml.plots.costs(curves, of="inner steps", unit="MiB of temporary memory")
        print(lml.plots.save(figure, args.figure))


if __name__ == "__main__":
    main()
