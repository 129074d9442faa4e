"""The figure of `explanation/pitfalls`: the first-order meta-gradient against the exact one."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import lml_jax as lml
from lml_jax.losses import squared_error
from lml_jax.plots.style import COLOURS, LARGE, MEDIUM, line_style, new_axes


def main() -> None:
    """The cosine between the two gradients, for some numbers of inner steps."""
    rates = np.geomspace(3e-4, 0.02, 16)
    figure, axes = new_axes()
    for n, steps in enumerate((1, 3, 10)):
        label = f"{steps} inner step{'s' * (steps > 1)}"
        values = cosines(rates, steps)
        axes.plot(rates, values, label=label, color=COLOURS[n], **line_style(n))
    axes.set(xscale="log", ylim=(0, 1.02))
    axes.set_xlabel("inner step size", fontsize=LARGE)
    axes.set_ylabel("cosine of the two meta-gradients", fontsize=LARGE)
    axes.legend(frameon=False, fontsize=MEDIUM)
    lml.plots.save(figure, Path(__file__).with_name("first_order.png"))


def cosines(rates: np.ndarray, steps: int) -> np.ndarray:
    """Mean over 20 initialisations, each with 25 sine waves of 10 + 10 points, [rates]."""
    net = lml.nets.mlp([40, 40], 1, activation=jnp.tanh)

    def gradient(rate: jax.Array, key: jax.Array, first_order: bool) -> jax.Array:
        learner = lml.maml(
            net, optax.sgd(rate), steps=steps, loss=squared_error, first_order=first_order
        )
        tasks = lml.sinusoids(tasks=25, shots=10, queries=10)((), key)
        params = learner.init(key, tasks.support.x[0])
        loss = lml.parallel.vmap_mean(lml.episode_loss(learner, loss=squared_error))
        return ravel_pytree(jax.grad(loss, has_aux=True)(params, tasks, key)[0])[0]

    @jax.jit
    def cosine(rate: jax.Array, key: jax.Array) -> jax.Array:
        a, b = gradient(rate, key, False), gradient(rate, key, True)
        return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))

    keys = jax.random.split(jax.random.key(0), 20)
    each = jax.vmap(jax.vmap(cosine, in_axes=(None, 0)), in_axes=(0, None))(jnp.array(rates), keys)
    return np.asarray(each.mean(axis=1))


if __name__ == "__main__":
    main()
