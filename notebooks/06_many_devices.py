# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Many devices
#
# One argument says where the tasks of a meta-batch are computed. The loss and the gradient stay the
# same. Here the devices are CPU cores: eight of them, made before the first computation.

# %%
# %matplotlib inline
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from IPython.display import display
from matplotlib.figure import Figure

jax.config.update("jax_num_cpu_devices", 8)

import lml_jax as lml
from lml_jax.losses import squared_error

print(jax.device_count(), "devices")

# %% [markdown]
# ## The same step on one device and on eight
#
# `vmap_mean` puts the tasks side by side on one device, `shard_map_mean` shards them over all.
# MAML needs care here: parameters that are replicated would make the inner gradient a sum over
# devices. The library marks them as varying first, so you need not.

# %%
learner = lml.maml(lml.nets.mlp([40, 40], 1), optax.sgd(0.01), steps=1, loss=squared_error)
loss, tx = lml.episode_loss(learner, loss=squared_error), optax.adam(1e-3)
steps = {
    "one device": lml.make_train_step(loss, tx),
    "eight devices": lml.make_train_step(loss, tx, reduce=lml.parallel.shard_map_mean),
}
sample = lml.sinusoids(tasks=32, shots=10, queries=10)
tasks = sample((), jax.random.key(0))
state = lml.init_state(learner.init(jax.random.key(1), jnp.zeros((1, 1))), tx)
after = {}
for name, step in steps.items():
    after[name], metrics = jax.jit(step)(state, tasks, jax.random.key(2))
    print(f"{name:14s} loss {float(metrics['loss']):.6f}")
gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *(s.params for s in after.values()))
print("largest difference of a parameter:", max(jax.tree.leaves(gaps)))

# %% [markdown]
# ## A bank on many devices
#
# A bank is replicated unless it is sharded: then each device holds a part, draws from its own part,
# and a draw is weighted by what each part holds, so that the expected loss does not change.

# %%
bank = lml.memory.sharded(lml.memory.reservoir(50), 8)
stored = bank.init(jnp.zeros(()))
stored = bank.insert(stored, jnp.arange(400.0), jax.random.key(3))
draws = [bank.sample(stored, jax.random.key(i), n=8) for i in range(200)]
values = np.concatenate([np.asarray(x) for x, _ in draws])
print("mean of the items drawn:", values.mean().round(1), "of all that were offered:", 199.5)

# %% [markdown]
# ## What the devices share
#
# The only thing that passes between devices is one sum of gradients. The compiled program says so.

# %%
text = jax.jit(steps["eight devices"]).lower(state, tasks, jax.random.key(2)).compile().as_text()
kinds = ("all-reduce(", "all-gather(", "all-to-all(", "collective-permute(")
counts = {kind[:-1]: text.count(f" {kind}") for kind in kinds}
print(counts)

# %% [markdown]
# ## Time per step
#
# Eight devices on fewer cores share them, so this is no measure of speed; on accelerators each
# device has its own. `lml.cpu.one_device_per_core()` makes as many devices as there are cores.

# %%
times = {}
for name, step in steps.items():
    run = jax.jit(step)
    current, _ = run(state, tasks, jax.random.key(2))
    begun = time.perf_counter()
    for i in range(50):
        current, _ = run(current, tasks, jax.random.key(i))
    jax.block_until_ready(current)
    times[name] = 1e3 * (time.perf_counter() - begun) / 50
figure = Figure(figsize=(5, 1.8), layout="constrained")
axes = figure.subplots()
axes.barh(list(times), list(times.values()), color="#0072B2")
axes.set_xlabel("ms per step of 32 tasks, on this machine")
display(figure)

# %% [markdown]
# Many hosts run the same script after `jax.distributed.initialize()`: see the how-to guide.
