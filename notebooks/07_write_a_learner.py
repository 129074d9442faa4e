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
# # Write a learner
#
# A lifelong learner of your own in one cell: ER-ACE, which trains new classes apart from old ones.
# Then the main job runs it beside its bounds.
#
# Experience replay trains on the arriving batch and on examples from a memory bank with one
# softmax over all classes. The first examples of a new class then push the features of all old
# classes away. ER-ACE uses two softmaxes instead:
#
#     L = cross-entropy of the batch among the classes of the batch
#       + cross-entropy of the stored examples among all classes seen
#
# (L. Caccia and others, New Insights on Reducing Abrupt Representation Change in Online Continual
# Learning, 2022, https://arxiv.org/abs/2104.05025.)

# %%
# %matplotlib inline
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from IPython.display import display

import lml_jax as lml
from lml_jax import losses, memory, train
from lml_jax.experiments.lifelong.run import run_lifelong
from lml_jax.experiments.lifelong.settings import Lifelong
from lml_jax.experiments.registry import lifelong_learners
from lml_jax.types import Batch, LifelongLearner, LifelongState

# %% [markdown]
# ## Six functions over one state
#
# `observe` learns one batch. `step` and `end_task` do the same for a stream of tasks. `recall`
# predicts from what was learned; `predict` does so after a few examples.


# %%
def my_er_ace(learner, tx, space, *, bank, past_batch=20):
    def outputs(params, x):
        nothing = Batch(x[:0], jnp.zeros(0, jnp.int32))
        return learner.predict(params, learner.adapt(params, nothing, jax.random.key(0)), x)

    def mean_loss(params, batch, among):
        batch = losses.fill_padding(batch)
        logits = losses.mask_logits(outputs(params, batch.x), among)
        each = losses.cross_entropy(logits, batch.y)
        return losses.weighted_mean(each, losses.labelled(batch))

    def classes_of(batch):
        there = jnp.where(losses.labelled(batch) > 0, batch.y, space.classes)
        return jnp.zeros(space.classes, bool).at[there].set(True, mode="drop")

    def init(key, x, params=None):
        params = learner.init(key, x) if params is None else params
        stored, zero = bank.init(space.item(x)), jnp.zeros((), jnp.int32)
        return train.copy(LifelongState(train.init_state(params, tx), space.initial, zero, stored))

    def observe(state, batch, key):
        key_draw, key_store = jax.random.split(key)
        arriving = classes_of(batch)
        seen = state.seen | arriving
        (x, y, _), there = bank.sample(state.memory, key_draw, n=past_batch)
        past = Batch(x, y, there.astype(jnp.float32))

        def loss(params):
            return mean_loss(params, batch, arriving) + mean_loss(params, past, seen)

        value, grads = jax.value_and_grad(loss)(state.train.params)
        trained = train.update(state.train, value, grads, tx)
        items = (batch.x, batch.y, jnp.full(batch.y.shape, state.finished))
        where = (losses.labelled(batch) > 0) & (trained.bad_step < 0)
        stored = bank.insert(state.memory, items, key_store, where)
        state = state._replace(train=trained, seen=seen, memory=stored)
        return state, {"loss": value, "bad_step": trained.bad_step}

    def step(state, tasks, key):
        flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tasks._replace(id=None))
        return observe(state, losses.concatenated(flat.support, flat.query), key)

    def end_task(state, batch, key):
        return state._replace(finished=state.finished + 1)

    def recall(state, x, key):
        return losses.mask_logits(outputs(state.train.params, x), state.seen)

    def predict(state, support, x, key):
        fast = learner.adapt(state.train.params, support, key)
        logits = learner.predict(state.train.params, fast, x)
        return losses.mask_logits(logits, classes_of(support))

    return LifelongLearner(init, step, observe, end_task, predict, recall)


# %% [markdown]
# ## In the main job
#
# A function of the run's context is enough; an entry in the registry (see the extending guide)
# makes it a name of the command line, too. `from_scratch` keeps this notebook short: without it the
# learners start from an embedding that was meta-trained on other scripts.


# %%
def mine(c):
    return my_er_ace(c.classifier, c.tx, c.space, bank=memory.reservoir(100))


settings = Lifelong(from_scratch=True, tasks=5, classes_per_task=3, steps=60, width=128)
out = Path(tempfile.mkdtemp()) / "run"
names = ("finetune", "er", "joint")
result = run_lifelong(
    settings,
    out,
    learners={"my-er-ace": mine, **{name: lifelong_learners[name] for name in names}},
    progress=False,
)
for run in result["runs"]:
    print(f"{run['learner']:10s} ACC {run['acc']:.2f}  forgetting {run['forgetting']:.2f}")
display(lml.plots.summary(result["runs"]))

# %% [markdown]
# `log` gives the training as rows, for a plot or for a service that keeps them.

# %%
rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
curves = {}
for row in rows:
    curves.setdefault(row["run"], {})[row["step"]] = row["loss"]
display(lml.plots.training_curves(curves))
