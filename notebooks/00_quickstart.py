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
# # Quickstart
#
# First a few-shot learner: MAML on sine waves. Then the same learner on a stream of tasks, where
# the point is not to forget.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np
import optax
from IPython.display import display
from matplotlib.figure import Figure

import lml_jax as lml
from lml_jax import losses

key = jax.random.key(0)

# %% [markdown]
# ## Learn to learn
#
# A learner is three pure functions: `init`, `adapt`, `predict`. Its training step is a pure
# function of (state, tasks, key); you own `jit`.

# %%
learner = lml.maml(lml.nets.mlp([40, 40], 1), optax.sgd(0.01), steps=1, loss=losses.squared_error)
tx = optax.adam(1e-3)
step = jax.jit(lml.make_train_step(lml.episode_loss(learner, loss=losses.squared_error), tx))
sample = lml.sinusoids(tasks=25, shots=10, queries=10)
state = lml.init_state(learner.init(key, jnp.zeros((1, 1))), tx)
state, metrics = step(state, sample((), key), key)
print("before training:", float(metrics["loss"]))

# %% [markdown]
# `run` does many steps: here 5,000, in one compiled scan per thousand.

# %%
many = lml.make_train_step(lml.episode_loss(learner, loss=losses.squared_error), tx)
for state, metrics in lml.run(many, sample, state, (), key, steps=5000, scan=True, chunk=1000):
    print(int(state.step), float(metrics["loss"].mean()))

# %% [markdown]
# One wave it has never seen, from ten points:

# %%
task = jax.tree.map(lambda leaf: leaf[0], sample((), jax.random.key(7)))
grid = jnp.linspace(-5, 5, 200)[:, None]
figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.add_subplot()
fast = None
start = learner.adapt(state.params, jax.tree.map(lambda leaf: leaf[:0], task.support), key)
axes.plot(grid, learner.predict(state.params, start, grid), ":", label="before")
for steps_taken in range(1, 11):
    fast = learner.adapt(state.params, task.support, key, fast)
    if steps_taken in (1, 10):
        curve = learner.predict(state.params, fast, grid)
        axes.plot(grid, curve, label=f"{steps_taken} gradient steps")
axes.plot(task.support.x, task.support.y, "k^", label="the ten points")
axes.legend(fontsize=8)
display(figure)

# %% [markdown]
# ## Learn without forgetting
#
# A stream of characters: each task brings four characters of one script, which must be told apart
# from all that came before. The same MAML, with and without a history.

# %%
stream = lml.class_incremental(
    lml.glyphs(), tasks=5, classes_per_task=4, seed=0, train_per_class=15, shots=5, queries=5
)
space = lml.label_space_of(stream)
few_shot = lml.maml(lml.nets.mlp([128], stream.classes), optax.sgd(0.1), steps=1)
learners = {
    "lifelong-maml": lml.lifelong_maml(few_shot, optax.adam(1e-3), space, decay=0.9),
    "finetune": lml.finetune(few_shot, optax.adam(1e-3), space),
}
runs = []
for name, lifelong in learners.items():
    result = lml.run_stream(lifelong, stream, key, steps=100, scan=True)
    runs.append({"learner": name, "data": "glyphs", "scenario": "class", "seed": 0, "R": result.R})
    print(name, lml.metrics.summary(result.R))

# %% [markdown]
# The matrix R: the score on task j after task i, with nothing given to remind it.

# %%
display(lml.plots.heatmap(runs[0]))
display(lml.plots.accuracy_over_stream(runs))

# %%
acc = {run["learner"]: lml.metrics.average_accuracy(run["R"]) for run in runs}
assert acc["lifelong-maml"] > acc["finetune"]
assert np.isfinite(list(acc.values())).all()
