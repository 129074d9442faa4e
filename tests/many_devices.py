"""What tests/test_parallel.py runs in processes that see several devices. Prints one json object.

Usage: python many_devices.py equality | python many_devices.py process ID PORT
"""

import json
import re
import sys
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import lml_jax as lml
from lml_jax import nets, parallel
from lml_jax.nets._batched_conv import conv2d
from lml_jax.types import Batch, Net, Task

SEED = 0  # not a key: jax.distributed starts before anything is computed
TASKS = 8


def conv_net():
    def init(key, x):
        keys = jax.random.split(key, 2)
        return {"conv": jax.random.normal(keys[0], (3, 3, x.shape[3], 4)) / 3,
                "head": jax.random.normal(keys[1], (4, 3)) / 2}  # fmt: skip

    def apply(params, x):
        return jax.nn.softplus(conv2d(x, params["conv"])).mean((1, 2)) @ params["head"]

    return Net(init, apply)


def few_shot(net, shape):
    """(loss, parameters, tasks) of second-order MAML, in which a task's key matters."""
    key_x, key_q, key_init = jax.random.split(jax.random.key(SEED), 3)
    y = jnp.tile(jnp.arange(3), (TASKS, 2))
    tasks = Task(Batch(jax.random.normal(key_x, (TASKS, 6, *shape)), y),
                 Batch(jax.random.normal(key_q, (TASKS, 6, *shape)), y))  # fmt: skip
    learner = lml.maml(net, optax.sgd(0.3), steps=2)
    of_task = lml.episode_loss(learner)

    def loss(params, task, key):
        noisy = task.support.x + 0.1 * jax.random.normal(key, task.support.x.shape)
        return of_task(params, task._replace(support=task.support._replace(x=noisy)), key)

    return loss, learner.init(key_init, tasks.support.x[0]), tasks


def reductions(counts):
    for n in counts:
        mesh = jax.make_mesh((n,), ("tasks",), devices=jax.devices()[:n])
        yield f"shard_map {n}", partial(parallel.shard_map_mean, mesh=mesh)
        yield f"pmap {n}", partial(parallel.pmap_mean, devices=n)


def differences(case, counts):
    """Of loss and gradient from one device's, relative to the largest entry; and all-reduces."""
    loss, params, tasks = case
    size = ravel_pytree(params)[0].size

    def run(reduce):
        compiled = jax.jit(jax.value_and_grad(reduce(loss), has_aux=True))
        compiled = compiled.lower(params, tasks, jax.random.key(SEED)).compile()
        (value, _), grads = compiled(params, tasks, jax.random.key(SEED))
        reduced = re.findall(r"= (.*) all-reduce(?:-start)?\(", compiled.as_text())
        found = [f"f32[{size}]" in shapes for shapes in reduced]
        return np.append(ravel_pytree(grads)[0], value), sum(found), len(found)

    want = run(parallel.vmap_mean)[0]
    found = {}
    for name, reduce in reductions(counts):
        got, of_gradient, every = run(reduce)
        error = float(np.abs(got - want).max() / np.abs(want).max())
        found[name] = {"error": error, "of_gradient": of_gradient, "all_reduces": every}
    return found


def lifelong(make):
    """The largest relative difference of a lifelong learner's parameters after two tasks."""
    x = jax.random.normal(jax.random.key(SEED), (80, 3))
    data = lml.from_arrays(x, jnp.repeat(jnp.arange(4), 20))
    stream = lml.class_incremental(
        data, tasks=2, classes_per_task=2, seed=0, train_per_class=15, meta_batch=TASKS
    )

    def run(reduce):
        learner = make(lml.label_space_of(stream), reduce)
        first = stream.train(0)
        state = learner.init(jax.random.key(SEED), first.x)
        step, end_task = jax.jit(learner.step), jax.jit(learner.end_task)
        for i in range(2):
            for t in range(2):
                state, _ = step(state, stream.episodes(i, jax.random.key(t)), jax.random.key(t))
            state = end_task(state, stream.train(i), jax.random.key(SEED))
        return np.asarray(ravel_pytree(state.train.params)[0])

    want = run(parallel.vmap_mean)
    return {name: {"error": float(np.abs(run(reduce) - want).max() / np.abs(want).max())}
            for name, reduce in reductions([TASKS])}  # fmt: skip


def lifelong_maml(space, reduce):
    few = lml.maml(nets.mlp([8], 4), optax.sgd(0.1), steps=1)
    bank = lml.memory.task_indexed(8, tasks=space.tasks)
    return lml.lifelong_maml(few, optax.sgd(0.1), space, bank=bank, past_batch=4, reduce=reduce)


def memory(space, reduce):
    few = lml.protonet(nets.mlp([8], 4), classes=4)
    return lml.memory_learner(few, optax.sgd(0.1), space, reduce=reduce)


def generative(space, reduce):
    few = lml.maml(nets.mlp([8], 4), optax.sgd(0.1), steps=1)
    generator = lml.conditional_gan(
        nets.generator([8], (3,)), nets.projection_discriminator([8]),
        optax.sgd(0.1), optax.sgd(0.1), tasks=2, classes=4, span=(-9.0, 9.0))  # fmt: skip
    return lml.lifelong_generative(few, optax.sgd(0.1), space, generator,
                                   past_batch=12, generated=3, temperature=2.0,
                                   reduce=reduce)  # fmt: skip


def bank_over_devices():
    """What a dealt bank draws on 1, 2 and 8 devices, from the first's; and what moved between."""
    bank = lml.memory.sharded(lml.memory.reservoir(6), 8)
    keys = jax.random.split(jax.random.key(SEED), 3)
    items = jax.random.normal(keys[0], (64, 5))
    where = jnp.arange(64) % 8 < jnp.arange(64) // 8

    def used(state, key):
        state = bank.insert(state, items, key, where)
        x, weight = bank.sample(state, key, n=32)
        return state, (x, weight)

    found, want = {}, None
    for count in (1, 2, 8):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), "tasks")
        laid_out = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("tasks"))
        state = jax.device_put(bank.init(jnp.zeros(5)), laid_out)
        compiled = jax.jit(used, out_shardings=laid_out).lower(state, keys[1]).compile()
        drawn = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(
            compiled(state, keys[1]))])  # fmt: skip
        want = drawn if want is None else want
        moved = re.findall(r"= (\S+) (all-gather|all-to-all|collective-permute|all-reduce)",
                           compiled.as_text())  # fmt: skip
        found[f"devices {count}"] = {"error": float(np.abs(drawn - want).max()), "moved": moved}
    return found


def equality():
    return {
        "mlp": differences(few_shot(nets.mlp([8], 3), (4,)), [1, 2, 4, 8]),
        "conv": differences(few_shot(conv_net(), (6, 6, 1)), [2, 8]),
        "lifelong_maml": lifelong(lifelong_maml),
        "memory": lifelong(memory),
        "generative": lifelong(generative),
        "bank": bank_over_devices(),
    }


def trained(reduce):
    """Parameters after three steps of SGD on tasks drawn inside jit."""
    loss, params, tasks = few_shot(nets.mlp([8], 3), (4,))
    tx = optax.sgd(0.1)
    step = lml.make_train_step(loss, tx, reduce=reduce)
    runs = lml.run(
        step,
        lambda data, key: data,
        lml.init_state(params, tx),
        tasks,
        jax.random.key(SEED),
        steps=3,
    )
    *_, (state, _) = runs
    return ravel_pytree(state.params)[0]


def process(number, port):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(number))
    params = trained(parallel.shard_map_mean)
    return {
        "devices": jax.device_count(),
        "local": jax.local_device_count(),
        "params": np.asarray(params.addressable_data(0)).tolist(),
    }


if __name__ == "__main__":
    warnings.simplefilter("error")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    what, *arguments = sys.argv[1:]
    print(json.dumps({"equality": equality, "process": process}[what](*arguments)))
