"""Differentiable adaptation: the inner loop, with any loss and any optax transformation.

A rule says how a gradient becomes a step: an optax transformation, or one whose step sizes are
themselves learned in the outer loop. Which
transformations are supported is said in `updates`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from lml_jax.pixels import as_float
from lml_jax.types import Key, Params, PyTree
from lml_jax.updates import apply_update, paths_of, transformation

InnerLoss = Callable[[Params, Key], Array]  # (fast params, key of the step) -> scalar


class Fast(NamedTuple):
    """What adaptation carries: the adapted parameters and the state of the update rule."""

    params: Params
    opt_state: Any


class Rule(NamedTuple):
    """An update rule with meta-parameters `alpha`: `tx(alpha)` is an optax transformation."""

    init: Callable[[Params], Params]  # (fast params) -> alpha
    tx: Callable[[Params], optax.GradientTransformation]


def fixed(tx: optax.GradientTransformation | optax.MultiSteps) -> Rule:
    """A rule with nothing to learn: the transformation as it is.

    Through `optax.adam` second derivatives are nan unless `eps_root > 0` (1e-8 is enough): the
    square root of a zero second moment has no finite slope.

    Example:
        >>> rule = fixed(optax.sgd(0.4))
    """
    own = transformation(tx)
    return Rule(init=lambda params: (), tx=lambda alpha: own)


def per_parameter(step_size: float) -> Rule:
    """Meta-SGD: one learned step size per parameter, theta' = theta - alpha * grad L (elementwise).

    Args:
        step_size: the start of every alpha, > 0.

    Example:
        >>> per_parameter(0.1).init({"w": jnp.ones(2)})["w"].tolist()
        [0.10000000149011612, 0.10000000149011612]

    Source:
        Z. Li, F. Zhou, F. Chen, H. Li, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning,
        2017, https://arxiv.org/abs/1707.09835.
    """

    def update(grads: Params, state: Any, params: Params, alpha: Params) -> tuple[Params, Any]:
        return jax.tree.map(lambda a, g: -a * g, alpha, grads), state

    def tx(alpha: Params) -> optax.GradientTransformation:
        return optax.GradientTransformation(
            lambda params: optax.EmptyState(), lambda g, s, p=None: update(g, s, p, alpha)
        )

    return Rule(init=lambda p: jax.tree.map(lambda w: jnp.full_like(w, step_size), p), tx=tx)


def per_layer_and_step(step_size: float, *, steps: int) -> Rule:
    """MAML++: one learned step size per parameter array and inner step.

    theta_{s+1} = theta_s - alpha_{l,s} grad L, l the array, s = 0..steps-1; further steps, taken at
    test time only, repeat the last size.

    Args:
        step_size: the start of every alpha, > 0.
        steps: how many sizes each array has, >= 1.

    Example:
        >>> per_layer_and_step(0.1, steps=3).init({"w": jnp.ones((2, 2))})["w"].shape
        (3,)

    Source:
        A. Antoniou, H. Edwards, A. Storkey, How to train your MAML, 2019,
        https://arxiv.org/abs/1810.09502.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")

    def tx(alpha: Params) -> optax.GradientTransformation:
        def update(
            updates: Params, state: PyTree, params: Params | None = None
        ) -> tuple[Params, PyTree]:
            s = jnp.minimum(state, steps - 1)
            return jax.tree.map(lambda a, g: -a[s] * g, alpha, updates), state + 1

        return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)

    return Rule(
        init=lambda p: jax.tree.map(lambda w: jnp.full((steps,), step_size, w.dtype), p), tx=tx
    )


def step_size(x: Array | np.ndarray, *, base: float = 0.1, at: float = 128.0) -> float:
    """A step size of SGD for a network whose first layer is dense, by the size of its inputs.

    alpha = base min(1, at / mean_i ||x_i||^2)

    The curvature of a loss in the weights of a dense layer grows with the squared norm of its
    inputs, so a step that is stable for 28x28 images diverges on 32x32 images of three channels:
    slowly, which the accuracy of training does not show and that of `recall` does.

    Args:
        x: examples [n, ...], n >= 1; uint8 is scaled to [0, 1] as the networks do.
        base: the largest step size, > 0.
        at: mean squared norm up to which `base` is stable, > 0. That of white characters on 28x28
            pixels is about 100.

    Returns:
        alpha in (0, base].

    Raises:
        ValueError: for no example or one that is not finite, or sizes that are not above 0.

    Example:
        >>> step_size(np.ones((5, 8, 8)))
        0.1
        >>> step_size(np.ones((5, 32, 32, 3)))
        0.004166666666666667
    """
    if len(x) == 0 or not (base > 0 and at > 0):
        raise ValueError(
            f"expected examples, base > 0 and at > 0; got {len(x)} examples, {base} and {at}"
        )
    rows = np.asarray(as_float(jnp.asarray(x)), np.float64).reshape(len(x), -1)
    size = float(np.square(rows).sum(1).mean())
    if not np.isfinite(size):
        raise ValueError(f"expected finite examples, got a mean squared norm of {size}")
    return base * min(1.0, at / max(size, at))


def split(params: Params, where: Callable[[str], bool] | None) -> tuple[Params, Params]:
    """Parameters as (adapted, shared); `where` judges each array by its path, as in "head/kernel".

    Both halves keep the structure, with None in place of what is in the other. None for `where`
    adapts everything.

    Raises:
        ValueError: when nothing is chosen, naming the paths there are.

    Example:
        >>> split({"body": 1.0, "head": 2.0}, lambda path: path.startswith("head"))
        ({'body': None, 'head': 2.0}, {'body': 1.0, 'head': None})
    """
    paths = paths_of(params)
    chosen = jax.tree.map(lambda path: where is None or bool(where(path)), paths)
    if not any(jax.tree.leaves(chosen)):
        raise ValueError(f"nothing to adapt: no path is chosen among {jax.tree.leaves(paths)}")
    return (
        jax.tree.map(lambda c, w: w if c else None, chosen, params),
        jax.tree.map(lambda c, w: None if c else w, chosen, params),
    )


def merge(adapted: Params, shared: Params) -> Params:
    """The parameters that `split` took apart.

    Example:
        >>> merge({"body": None, "head": 2.0}, {"body": 1.0, "head": None})
        {'body': 1.0, 'head': 2.0}
    """
    return jax.tree.map(
        lambda a, s: s if a is None else a, adapted, shared, is_leaf=lambda leaf: leaf is None
    )


def start(params: Params, tx: optax.GradientTransformation) -> Fast:
    """Adaptation before its first step.

    Example:
        >>> start(jnp.array(1.0), optax.sgd(0.25)).params.item()
        1.0
    """
    return Fast(params, transformation(tx).init(params))


def adapt(
    loss: InnerLoss,
    fast: Fast,
    tx: optax.GradientTransformation,
    key: Key,
    *,
    steps: int,
    first_order: bool = False,
    unroll: bool = False,
    remat: bool = True,
) -> Fast:
    """`steps` updates of `tx` on `loss`, differentiable in `fast` and in what `loss` closes over.

    theta_{s+1} = theta_s + u(grad loss(theta_s)), s = 0..steps-1; for SGD u(g) = -alpha g.

    Args:
        loss: (params, key) -> scalar; the key is new at each step.
        fast: where to begin, from `start` or an earlier call.
        tx: the update rule.
        key: a typed key.
        steps: number of updates, >= 0.
        first_order: take the inner gradients as constants in the outer gradient.
        unroll: a Python loop instead of a scan. Convolutions in a scan are very slow on CPU.
        remat: recompute each step in the backward pass instead of storing what is inside it, so
            that memory grows by one copy of the parameters per step and no more.

    Returns:
        The adapted `Fast`.

    Raises:
        ValueError: for a negative number of steps.

    Example:
        >>> tx = optax.sgd(0.25)
        >>> fast = start(jnp.array(1.0), tx)
        >>> adapt(lambda w, key: w**2, fast, tx, jax.random.key(0), steps=2).params.item()
        0.25

    Source:
        C. Finn, P. Abbeel, S. Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep
        Networks, 2017, https://arxiv.org/abs/1703.03400, equation 1.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")

    def step(fast: Fast, key: Key) -> tuple[Fast, None]:
        value, grads = jax.value_and_grad(loss)(fast.params, key)
        if first_order:
            value, grads = jax.lax.stop_gradient((value, grads))
        params, opt_state, _ = apply_update(
            tx, grads, fast.opt_state, fast.params, value=value, value_fn=lambda p: loss(p, key)
        )
        return Fast(params, opt_state), None

    if remat:
        # Inside a scan nothing can be merged across steps, so guarding against it only costs.
        step = jax.checkpoint(step, prevent_cse=unroll)
    keys = jax.random.split(key, steps)
    if not unroll:
        return jax.lax.scan(step, fast, keys)[0]
    for s in range(steps):
        fast, _ = step(fast, keys[s])
    return fast
