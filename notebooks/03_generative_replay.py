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
# # Generative replay
#
# A learner that stores no image. It trains a generator on each task, and a classifier on the task
# together with samples of the tasks before. So everything depends on the generator: trained on new
# classes only, it forgets the old ones, and the classifier with it.

# %%
# %matplotlib inline
import jax
import numpy as np
import optax
from IPython.display import display

import lml_jax as lml
from lml_jax.generative.gan import retention
from lml_jax.metrics import trained

key = jax.random.key(0)

# %% [markdown]
# ## A stream of digits
#
# The 8x8 digits of scikit-learn, two classes a task.

# %%
stream = lml.class_incremental(
    lml.digits(),
    tasks=3,
    classes_per_task=2,
    seed=0,
    train_per_class=120,
    shots=16,
    queries=16,
    meta_batch=1,
)

# %% [markdown]
# ## A generator with a retention loss, and one without
#
# A GAN conditioned on the class. At the end of a task a copy of it is frozen, the teacher. With
# the retention loss `align` the generator is trained, while it learns the next task, to draw from
# the same noise what its teacher draws of the classes before. With `none` there is no such loss.

# %%
STEPS, NOISE, WIDTH = 500, 16, 128
PER_CLASS = 100  # samples of each class that a classifier is trained on, to judge the generator


def lifelong(keep):
    falling = optax.cosine_decay_schedule(2e-3, STEPS, 0.05)
    tx = optax.adam(falling, b1=0.0, b2=0.99)
    generator = lml.conditional_gan(
        lml.nets.generator([WIDTH, WIDTH], (8, 8)),
        lml.nets.projection_discriminator([WIDTH, WIDTH]),
        tx,
        tx,
        tasks=stream.tasks,
        classes=stream.classes,
        noise=NOISE,
        penalty=0.3,
        ema=0.99,
        retention=keep,
        reduction="mean",
        past_batch=64,
    )
    classifier = lml.maml(lml.nets.mlp([WIDTH], stream.classes), optax.sgd(0.1), steps=1)
    learner = lml.lifelong_generative(
        classifier, optax.adam(1e-3), lml.label_space_of(stream), generator
    )
    return generator, learner


# %% [markdown]
# After each task a new classifier is trained on samples alone and tested on real digits, among
# all classes so far: the classification accuracy score (CAS). Its matrix tells what the generator
# still knows, as the learner's own matrix `R` tells what the classifier does.

# %%
judge_net = lml.nets.mlp([128], stream.classes)
fit = trained.classifier(judge_net, optax.adam(2e-3), steps=400, batch_size=128)
tests = [stream.test(j) for j in range(stream.tasks)]
cas_of = jax.jit(trained.classification_scores(judge_net, fit))
task_of = np.asarray(stream.members).argmax(axis=0)


def learn(name, keep):
    generator, learner = lifelong(keep)
    sample = jax.jit(generator.sample, static_argnames="n")
    cas, grids = [np.full(stream.tasks, np.nan)], []

    def after_task(row, so_far):
        if row > 0:
            state, of_row = so_far.state.own.generator, jax.random.key(row)
            drawn = sample(state, None, of_row, n=PER_CLASS * stream.classes)
            cas.append(np.asarray(cas_of(drawn, tests, of_row)))
            learned = np.flatnonzero(task_of < row)
            grids.append(np.stack([drawn.x[drawn.y == c][:8] for c in learned]))

    result = lml.run_stream(
        learner, stream, key, steps=STEPS, scan=True, chunk=STEPS, on_row=after_task
    )
    about = {"learner": name, "data": "digits", "scenario": "class", "seed": 0}
    return {**about, "R": result.R, "cas": np.stack(cas)}, grids


losses = {"none": retention.none(), "align": retention.align()}
runs, grids = zip(*(learn(name, keep) for name, keep in losses.items()), strict=True)

# %% [markdown]
# Samples of every class after each task: eight with `none` on the left, eight with `align` on the
# right.

# %%
for row, (left, right) in enumerate(zip(*grids, strict=True), start=1):
    names = [f"class {c}, of task {task_of[c] + 1}" for c in np.flatnonzero(task_of < row)]
    both = np.concatenate([left, right], axis=1)
    display(lml.plots.sample_grid(both, names, title=f"after task {row}: none | align"))

# %% [markdown]
# ## What the generator remembers

# %%
for run in runs:
    display(lml.plots.heatmap(run, key="cas"))

# %% [markdown]
# ## What the classifier remembers

# %%
display(lml.plots.accuracy_over_stream(runs))
for run in runs:
    for name, key_of in (("generator (CAS)", "cas"), ("classifier", "R")):
        acc = lml.metrics.average_accuracy(run[key_of])
        forgetting = lml.metrics.forgetting(run[key_of])
        print(f"{run['learner']:16s}  {name:16s}  accuracy {acc:.3f}  forgetting {forgetting:.3f}")

# %% [markdown]
# One seed of a short stream, and images of 64 pixels. `lml-jax reproduce generator-digits` runs
# all ten classes with every retention loss, over three seeds, and measures within-class diversity
# too, which the accuracy hides: a generator may forget most of how a digit varies and its samples
# are still classified correctly. `lml-jax reproduce generator-digits-vaml` is the same with VAML.
