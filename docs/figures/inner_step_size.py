"""The figure of `explanation/pitfalls`: what an inner step size does for inputs of three sizes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lml_jax as lml
from lml_jax.plots.style import COLOURS, LARGE, MEDIUM, line_style, new_axes

SHAPES = {"8x8": (8, 8), "28x28": (28, 28), "32x32, 3 channels": (32, 32, 3)}
STEPS, EXAMPLES, CLASSES = 20, 25, 5


def main() -> None:
    """The loss on a support set after a few inner steps, against the step size."""
    rates = np.geomspace(1e-3, 1.0, 25)
    figure, axes = new_axes()
    for n, (name, shape) in enumerate(SHAPES.items()):
        x = jax.random.uniform(jax.random.key(n), (EXAMPLES, *shape))
        support = lml.Batch(x, jnp.arange(EXAMPLES, dtype=jnp.int32) % CLASSES)
        axes.plot(rates, losses(support, rates), label=name, color=COLOURS[n], **line_style(n))
        chosen = lml.inner.step_size(x)
        axes.axvline(chosen, color=COLOURS[n], linestyle=":", linewidth=1.5)
    axes.axhline(np.log(CLASSES), color="0.4", linewidth=1)
    axes.set(xscale="log", xlim=(1e-3, 1.0), ylim=(0, 2))
    axes.set_xlabel("inner step size", fontsize=LARGE)
    axes.set_ylabel(f"support loss after {STEPS} steps", fontsize=LARGE)
    axes.legend(frameon=False, fontsize=MEDIUM, loc="lower left")
    lml.plots.save(figure, Path(__file__).with_name("inner_step_size.png"))


def losses(support: lml.Batch, rates: np.ndarray) -> np.ndarray:
    """Mean over 20 initialisations, [rates]."""
    net = lml.nets.mlp([64], CLASSES)

    @jax.jit
    def after(rate: jax.Array, key: jax.Array) -> jax.Array:
        learner = lml.maml(net, optax.sgd(rate), steps=STEPS)
        params = learner.init(key, support.x)
        logits = learner.predict(params, learner.adapt(params, support, key), support.x)
        return lml.losses.cross_entropy(logits, support.y).mean()

    keys = jax.random.split(jax.random.key(1), 20)
    each = jax.vmap(jax.vmap(after, in_axes=(None, 0)), in_axes=(0, None))(jnp.array(rates), keys)
    return np.asarray(each.mean(axis=1))


if __name__ == "__main__":
    main()
