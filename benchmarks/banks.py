"""Time to insert and sample 64 images, in banks of 1,000 to 100,000 slots.

python benchmarks/banks.py [--order calls|insert|sample] [--figure banks.png]

In two compiled calls, or in one that inserts first, or samples first.

What is left of a difference is the processor's caches: 1,000 images fit in them.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from lml_jax import memory, plots
from lml_jax.types import MemoryBank

SIZES = (1_000, 10_000, 100_000)
CLASSES, BATCH = 10, 64
ROUNDS, STEPS = 101, 10

KINDS = {
    "fifo": memory.fifo,
    "reservoir": memory.reservoir,
    "class-balanced": lambda size: memory.class_balanced(size // CLASSES, classes=CLASSES),
    "task-indexed": lambda size: memory.task_indexed(size // CLASSES, tasks=CLASSES),
}


def timer(bank: MemoryBank, batch: tuple, order: str):
    """A function of STEPS keys: inserts and samples with each, and returns the seconds of one."""
    empty = bank.init(jax.tree.map(lambda leaf: leaf[0], batch))
    slots = empty.items[0].shape[1]

    def insert_when_full(state, batch, key):
        # Just full at every step: the more a reservoir has seen, the less it writes.
        full = jnp.full_like(state.seen, slots)
        return bank.insert(state._replace(seen=full), batch, key)

    def in_one(state, batch, key):
        state = state._replace(seen=jnp.full_like(state.seen, slots))
        if order == "sample":
            return memory.sample_then_insert(bank, state, batch, key, n=BATCH)
        state = bank.insert(state, batch, key)
        return state, bank.sample(state, key, n=BATCH)

    insert = jax.jit(insert_when_full, donate_argnums=0)
    sample = jax.jit(lambda state, key: bank.sample(state, key, n=BATCH))
    both = jax.jit(in_one, donate_argnums=0)
    # Ones, so that the memory is there before the clock runs.
    state = empty._replace(items=jax.tree.map(jnp.ones_like, empty.items))

    def seconds(keys: list) -> float:
        nonlocal state
        begun = time.perf_counter()
        for key in keys:
            if order == "calls":
                state = insert(state, batch, key)
                drawn = sample(state, key)
            else:
                state, *drawn = both(state, batch, key)
        jax.block_until_ready((state, drawn))
        return (time.perf_counter() - begun) / len(keys)

    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--order", choices=("calls", "insert", "sample"), default="calls")
    parser.add_argument("--figure", default=None)
    args = parser.parse_args()
    curves: dict[str, dict[int, float]] = {}
    images = jax.random.randint(jax.random.key(0), (BATCH, 28, 28), 0, 256).astype(jnp.uint8)
    batch = (images, jnp.arange(BATCH) % CLASSES)
    print(f"{jax.devices()[0].device_kind}: medians of {ROUNDS} interleaved rounds")
    print(f"{'bank':16}" + "".join(f"{size:>9,} slots" for size in SIZES) + "   ratio")
    for name, kind in KINDS.items():
        timers = [timer(kind(size), batch, args.order) for size in SIZES]
        times = []
        for round_ in range(1 + ROUNDS):  # the first one compiles
            # New keys in each round: rows that were drawn before would be in the cache.
            keys = list(jax.random.split(jax.random.key(round_), STEPS))
            times.append([seconds(keys) for seconds in timers])
        medians = 1e6 * np.median(times[1:], axis=0)
        curves[name] = dict(zip(SIZES, medians, strict=True))
        cells = "".join(f"{middle:12.0f} us" for middle in medians)
        print(f"{name:16}{cells}{medians[-1] / medians[0]:8.2f}")
    if args.figure:
        figure = plots.costs(curves, of="slots of the bank", unit="us to insert and sample 64")
        print(plots.save(figure, args.figure))


if __name__ == "__main__":
    main()
