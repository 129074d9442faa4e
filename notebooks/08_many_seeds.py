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
# # Many seeds, one program
#
# A whole run over a stream, its tasks, updates and evaluations, is one pure function. `vmap` runs
# it for many seeds and settings at once, and it compiles once.

# %%
# %matplotlib inline
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from IPython.display import display
from matplotlib.figure import Figure

import lml_jax as lml

# %% [markdown]
# A stream of four tasks of two classes: points in eight dimensions.

# %%
rng = np.random.default_rng(0)
y = np.repeat(np.arange(8), 30)
x = (1.5 * rng.normal(size=(8, 8))[y] + rng.normal(size=(240, 8))).astype(np.float32)
stream = lml.class_incremental(
    lml.from_arrays(x, y), tasks=4, classes_per_task=2, seed=0, train_per_class=20, shots=5,
    queries=5,
)  # fmt: skip
stream = jax.tree.map(jnp.asarray, stream)
few_shot = lml.maml(lml.nets.mlp([32], 8), optax.sgd(0.1), steps=1)
space = lml.label_space_of(stream)

# %% [markdown]
# ## One run, as a function
#
# The decay of past tasks and the outer step size are arguments, so they can be mapped. `R` is the
# matrix of accuracies: row i after task i, column j of task j.


# %%
def run(decay, rate, key):
    learner = lml.lifelong_maml(few_shot, optax.adam(rate), space, decay=decay, recall_on="bank")
    return lml.program(learner, steps=40)(stream, key).R


# %% [markdown]
# ## 3 decays x 3 step sizes x 8 seeds: 72 runs in one call

# %%
decays, rates = jnp.array([0.3, 0.6, 0.9]), jnp.array([1e-3, 3e-3, 1e-2])
keys = jax.random.split(jax.random.key(1), 8)
over_seeds = jax.vmap(run, in_axes=(None, None, 0))
over_rates = jax.vmap(over_seeds, in_axes=(None, 0, None))
sweep = jax.jit(jax.vmap(over_rates, in_axes=(0, None, None)))
begun = time.perf_counter()
R = jax.block_until_ready(sweep(decays, rates, keys))
print(f"{R.shape[:3]} runs in {time.perf_counter() - begun:.1f} s, compilation included")
print("R of the first run:", np.asarray(R[0, 0, 0]).round(2), sep="\n")

# %% [markdown]
# The mean over seeds, with its 95 % interval.

# %%
acc = np.asarray(R[..., -1, :].mean(-1))
figure = Figure(figsize=(6, 3.2), layout="constrained")
axes = figure.subplots()
for i, decay in enumerate(decays):
    half = 1.96 * acc[i].std(1, ddof=1) / np.sqrt(len(keys))
    axes.errorbar(rates, acc[i].mean(1), half, marker="o", capsize=3, label=f"decay {decay:.1f}")
axes.set(xscale="log", xlabel="outer step size", ylabel="ACC after the last task")
axes.legend(frameon=False)
display(figure)

# %% [markdown]
# ## Class orders
#
# Streams of one size are one pytree with a leading axis: `vmap` over it too.

# %%
streams = [
    lml.class_incremental(
        lml.from_arrays(x, y), tasks=4, classes_per_task=2, seed=seed, train_per_class=20,
        shots=5, queries=5,
    )
    for seed in range(5)
]  # fmt: skip
orders = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(a) for a in leaves]), *streams)
learner = lml.lifelong_maml(few_shot, optax.adam(1e-2), space, recall_on="bank")
mapped = jax.jit(jax.vmap(lml.program(learner, steps=40)))
found = mapped(orders, keys[:5]).R
print("ACC of five class orders:", np.asarray(found[:, -1].mean(-1)).round(2))
