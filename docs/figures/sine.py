"""The figure of tutorial 1: a held-out sine wave before and after inner steps of MAML."""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import lml_jax as lml
from lml_jax.losses import squared_error
from lml_jax.plots.style import COLOURS, LARGE, MEDIUM, new_axes


def main(updates: int = 10_000) -> None:
    """Train, adapt, draw."""
    learner = lml.maml(lml.nets.mlp([40, 40], 1), optax.sgd(0.01), steps=1, loss=squared_error)
    tx = optax.adam(1e-3)
    step = lml.make_train_step(lml.episode_loss(learner, loss=squared_error), tx)
    sample = lml.sinusoids(tasks=25, shots=10, queries=10)
    state = lml.init_state(learner.init(jax.random.key(0), jnp.zeros((1, 1))), tx)
    run = lml.run(
        step, sample, state, (), jax.random.key(1), steps=updates, scan=True, chunk=updates
    )
    for trained, _ in run:
        state = trained

    one = jax.tree.map(lambda leaf: leaf[20], sample((), jax.random.key(7)))
    x = jnp.linspace(-5, 5, 201)[:, None]
    key = jax.random.key(2)
    fast = learner.adapt(state.params, jax.tree.map(lambda leaf: leaf[:0], one.support), key)
    figure, axes = new_axes()
    many = learner._replace(adapt=learner.inner_step)
    for s in range(11):
        if s in (0, 1, 10):
            n = (0, 1, 10).index(s)
            y = learner.predict(state.params, fast, x)
            label = f"after {s} step{'s' * (s != 1)}" if s else "before adaptation"
            axes.plot(
                x, y, color=COLOURS[n], label=label, linewidth=1.8, linestyle=("--", "-", "-")[n]
            )
        fast = many.adapt(state.params, one.support, key, fast)
    dense = sample_of(one, x)
    axes.plot(x, dense, color="0.6", linewidth=4, alpha=0.5, label="the task", zorder=0)
    axes.plot(one.support.x, one.support.y, "o", color="black", markersize=5, label="support set")
    axes.set_xlabel("$x$", fontsize=LARGE)
    axes.set_ylabel("$y$", fontsize=LARGE)
    axes.legend(
        frameon=False, fontsize=MEDIUM, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    lml.plots.save(figure, Path(__file__).with_name("sine.png"))


def sample_of(task: lml.Task, x: jax.Array) -> jax.Array:
    """The wave through the points of a task: y = a sin x + b cos x, by least squares."""
    basis = lambda x: jnp.concatenate([jnp.sin(x), jnp.cos(x)], axis=1)  # noqa: E731
    weights = jnp.linalg.lstsq(basis(task.support.x), task.support.y)[0]
    return basis(x) @ weights


if __name__ == "__main__":
    main()
