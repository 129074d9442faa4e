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
# # A loss, a network and an update rule of your own
#
# Nothing here is registered or inherited from. A network is two functions, a loss is a function,
# an update rule is an optax transformation; the meta-gradient flows through all of them.

# %%
import jax
import jax.numpy as jnp
import optax

import lml_jax as lml

key = jax.random.key(0)

# %% [markdown]
# ## A loss of your own
#
# Inside the loop and outside it: Huber's loss, which a few wild points do not rule.


# %%
def huber(outputs, y):
    return optax.losses.huber_loss(outputs, y).mean(axis=1)  # [n, d] -> [n]


learner = lml.maml(lml.nets.mlp([40, 40], 1), optax.sgd(0.01), steps=1, loss=huber)
tx = optax.adam(1e-3)
step = lml.make_train_step(lml.episode_loss(learner, loss=huber), tx)
sample = lml.sinusoids(tasks=25, shots=10, queries=10)
state = lml.init_state(learner.init(key, jnp.zeros((1, 1))), tx)
for state, metrics in lml.run(step, sample, state, (), key, steps=2000, scan=True, chunk=1000):
    print(int(state.step), float(metrics["loss"].mean()))

# %% [markdown]
# ## A network that is not in flax
#
# Two functions over a dictionary: random Fourier features that are learned, and a linear readout.


# %%
def init(key, x):
    keys = jax.random.split(key, 2)
    return {
        "frequency": jax.random.normal(keys[0], (x.shape[1], 40)),
        "readout": 0.1 * jax.random.normal(keys[1], (80, 1)),
    }


def apply(params, x):
    angle = x @ params["frequency"]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1) @ params["readout"]


fourier = lml.maml(
    lml.Net(init, apply), optax.sgd(0.02), steps=3, loss=huber, adapt_only=lambda p: p == "readout"
)
step = lml.make_train_step(lml.episode_loss(fourier, loss=huber), tx)
state = lml.init_state(fourier.init(key, jnp.zeros((1, 1))), tx)
for state, metrics in lml.run(step, sample, state, (), key, steps=2000, scan=True, chunk=1000):
    print(int(state.step), float(metrics["loss"].mean()))

# %% [markdown]
# ## An update rule of your own
#
# Any optax transformation; here one whose step size and momentum are both learned. `init` makes
# what is learned from the adapted parameters, `tx` turns it into a transformation.


# %%
def learned_momentum(step_size):
    def tx(alpha):
        rate, decay = jnp.exp(alpha["log_rate"]), jax.nn.sigmoid(alpha["logit_decay"])
        return optax.chain(
            optax.GradientTransformation(
                lambda params: jax.tree.map(jnp.zeros_like, params),
                lambda g, m, p=None: (
                    (new := jax.tree.map(lambda g, m: g + decay * m, g, m)),
                    new,
                ),
            ),
            optax.stateless(lambda g, p: jax.tree.map(lambda g: -rate * g, g)),
        )

    start = {"log_rate": jnp.log(step_size), "logit_decay": jnp.array(-2.0)}
    return lml.inner.Rule(init=lambda params: start, tx=tx)


heavy = lml.maml(lml.nets.mlp([40, 40], 1), learned_momentum(0.01), steps=3, loss=huber)
step = lml.make_train_step(lml.episode_loss(heavy, loss=huber), tx)
state = lml.init_state(heavy.init(key, jnp.zeros((1, 1))), tx)
for state, metrics in lml.run(step, sample, state, (), key, steps=2000, scan=True, chunk=1000):
    print(int(state.step), float(metrics["loss"].mean()))
print({name: float(value) for name, value in state.params["alpha"].items()})

# %% [markdown]
# ## The gradient through the adaptation, by hand
#
# `adapt` is a pure function: differentiate anything through it, with respect to anything.

# %%
task = jax.tree.map(lambda leaf: leaf[0], sample((), jax.random.key(1)))


def query_loss(params, support_y):
    fast = heavy.adapt(params, task.support._replace(y=support_y), key)
    return huber(heavy.predict(params, fast, task.query.x), task.query.y).mean()


influence = jax.grad(query_loss, argnums=1)(state.params, task.support.y)
print("what each support label does to the query loss:", influence[:, 0].round(3))
assert jnp.isfinite(influence).all() and jnp.abs(influence).max() > 0
