"""One ProtoNet train step beside the same one in PyTorch: python benchmarks/protonet_step.py

conv4-64 with max-pooling and batch statistics, 28x28 images, Adam; support and query sets embedded
in one call each. The two are timed in turn in one process; without PyTorch ours is timed alone.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lml_jax import nets, train
from lml_jax.learners.protonet import protonet
from lml_jax.types import Batch, Task


def ours(ways, shots, queries):
    """() -> None, one step."""
    learner, tx = protonet(nets.conv4(None, pool=True), classes=ways), optax.adam(1e-3)
    step = jax.jit(train.make_train_step(train.episode_loss(learner), tx), donate_argnums=0)

    def part(n):
        x = jax.random.uniform(jax.random.key(n), (1, ways * n, 28, 28))
        return Batch(x, jnp.repeat(jnp.arange(ways, dtype=jnp.int32), n)[None])

    tasks = Task(part(shots), part(queries))
    state = train.init_state(learner.init(jax.random.key(0), tasks.support.x[0]), tx)

    def one():
        nonlocal state
        state, metrics = step(state, tasks, jax.random.key(0))
        jax.block_until_ready((state, metrics))

    return one


def theirs(ways, shots, queries):
    """The same in PyTorch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    from torch import nn

    def block(i):
        norm = nn.BatchNorm2d(64, eps=1e-3)
        return [nn.Conv2d(i, 64, 3, padding=1, bias=False), norm, nn.ReLU(), nn.MaxPool2d(2)]

    net = nn.Sequential(*block(1), *block(64), *block(64), *block(64), nn.Flatten())
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    support, query = torch.rand(ways * shots, 1, 28, 28), torch.rand(ways * queries, 1, 28, 28)
    y = torch.arange(ways).repeat_interleave(queries)

    def one():
        adam.zero_grad()
        prototypes = net(support).reshape(ways, shots, -1).mean(1)
        logits = -(torch.cdist(net(query), prototypes) ** 2)
        nn.functional.cross_entropy(logits, y).backward()
        adam.step()

    return one


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", type=int, default=5)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--queries", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    episode = (args.ways, args.shots, args.queries)
    steps = {"lml_jax": ours(*episode), "PyTorch": theirs(*episode)}
    if steps["PyTorch"] is None:
        print("PyTorch is not installed: ours alone")
        del steps["PyTorch"]
    times = {name: [] for name in steps}
    for repeat in range(args.repeats + 2):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            if repeat >= 2:  # the first calls compile, and fill the caches
                times[name].append(1e3 * (time.perf_counter() - begun))
    print("{}-way {}-shot, {} queries a class, milliseconds a step".format(*episode))
    for name, own in times.items():
        low, high = np.percentile(own, [25, 75])
        print(f"{name:8s} median {statistics.median(own):7.1f}   quartiles {low:.1f} .. {high:.1f}")
    if len(times) == 2:
        ratios = [b / a for a, b in zip(*times.values(), strict=True)]
        low, high = np.percentile(ratios, [25, 75])
        print(f"PyTorch / lml_jax: {statistics.median(ratios):.2f} x ({low:.2f} .. {high:.2f})")


if __name__ == "__main__":
    main()
