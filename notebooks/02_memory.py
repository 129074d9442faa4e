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
# # Memory
#
# A bank that keeps a few examples of every class. Then a learner that classifies by what its bank
# holds, watched in two dimensions while classes arrive.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np
import optax
from IPython.display import display
from matplotlib import colormaps
from matplotlib.figure import Figure

import lml_jax as lml

key = jax.random.key(0)
data = lml.glyphs()

# %% [markdown]
# ## A bank by hand
#
# A bank is pure functions over an immutable state, made from one example item: here an image and
# its label. Its size never changes, so a bank that is empty answers too, and says by a mask that
# the answer means nothing.

# %%
bank = lml.memory.class_balanced(2, classes=3)
empty = bank.init((data.x[0], jnp.array(0)))
_, valid = bank.sample(empty, key, n=4)
print("valid:", valid)

# %% [markdown]
# Four images of class 0, none of class 1, one of class 2. Each class has two slots, and they keep
# the images' type.

# %%
y = jnp.array([0, 0, 0, 0, 2])
x = data.x[np.concatenate([data.rows_of(0)[:4], data.rows_of(2)[:1]])]
state = bank.insert(empty, (x, y), key)
print("offered:", state.seen, "kept:", state.filled.sum(axis=1))
print("images:", state.items[0].dtype, state.items[0].shape)

# %% [markdown]
# `sample` draws a class that holds something, then an item of it; `draw_each` draws as many of
# every class, without replacement.

# %%
(_, labels), valid = bank.sample(state, key, n=8)
print("sample:", labels, "all valid:", valid.all())
_, valid = lml.memory.draw_each(state, key, n=2)
print("draw_each, valid:", valid, sep="\n")

# %% [markdown]
# ## Prototypes, as tasks arrive
#
# Each task brings three characters. The learner compares an image with the mean embedding of each
# class, its prototype; those of the past it computes from its bank. With a retention loss, weighted
# by `retention_weight`, it also trains on queries of past tasks from the bank.

# %%
stream = lml.class_incremental(
    data, tasks=4, classes_per_task=3, seed=0, train_per_class=15, shots=5, queries=5
)
net = lml.nets.mlp([128], 2)  # an embedding that can be drawn
few_shot = lml.protonet(net, classes=stream.classes)


def learn(retention_weight, on_row=lambda row, so_far: None):
    lifelong = lml.memory_learner(
        few_shot,
        optax.adam(1e-3),
        lml.label_space_of(stream),
        bank=lml.memory.class_balanced(10, classes=stream.classes),
        retention_weight=retention_weight,
    )
    return lml.run_stream(lifelong, stream, key, steps=50, scan=True, chunk=50, on_row=on_row)


states = []
results = {1.0: learn(1.0, lambda row, so_far: states.append(so_far.state))}

# %% [markdown]
# After each task: images held out, of all classes so far (dots), and the prototypes (crosses).
# The embedding goes on moving, and the prototypes with it.

# %%
tests = [stream.test(i) for i in range(stream.tasks)]
colours = np.array(colormaps["Paired"].colors)  # twelve, one a class
figure = Figure(figsize=(10, 2.8), layout="constrained")
for i, axes in enumerate(figure.subplots(1, stream.tasks), start=1):
    params, seen = states[i].train.params, states[i].seen
    for test in tests[:i]:
        axes.scatter(*net.apply(params["net"], test.x).T, s=10, c=colours[test.y])
    means = states[i].own.fast.moments.mean
    axes.scatter(*means[seen].T, s=80, c=colours[seen], marker="X", edgecolors="black")
    axes.set(title=f"after task {i}", xticks=[], yticks=[])
display(figure)

# %% [markdown]
# ## With and without the retention loss
#
# The same stream, with the same bank to recall from; only the loss differs.

# %%
results[0.0] = learn(0.0)
runs = []
print("held out:", sum(len(test.y) for test in tests), "images of", stream.classes, "classes")
for retention_weight, result in sorted(results.items()):
    name = f"retention_weight={retention_weight}"
    runs.append({"learner": name, "data": "glyphs", "scenario": "class", "seed": 0, "R": result.R})
    acc = lml.metrics.average_accuracy(result.R)
    bwt = lml.metrics.backward_transfer(result.R)
    print(f"{name}  ACC {acc:.3f}  BWT {bwt:+.3f}")
display(lml.plots.accuracy_over_stream(runs))

# %% [markdown]
# On one small stream, a few images a class and two dimensions, the two cannot be told apart.
# `lml-jax reproduce retention` compares them over five longer streams, with intervals.
