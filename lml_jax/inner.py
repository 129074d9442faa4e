"""Differentiable adaptation: the inner loop, with any loss and any optax transformation.

A rule says how a gradient becomes a step: an optax transformation, or one whose step sizes are
themselves learned in the outer loop.

Transformations that take more than a gradient get it: `optax.polyak_sgd` and
`optax.contrib.reduce_on_plateau` the loss, `optax.lbfgs` the loss, its function and its gradient;
`optax.MultiSteps` objects are taken as they are. Not supported are transformations over other
parameters than the network's (`optax.lookahead`), and a second-order outer gradient through a line
search (`optax.lbfgs`), which is a loop of unknown length: use it where nothing is differentiated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax.types import Key, Params, PyTree

Transformation = optax.GradientTransformationExtraArgs
InnerLoss = Callable[[Params, Key], Array]  # (fast params, key of the step) -> scalar


class Fast(NamedTuple):
    """What adaptation carries: the adapted parameters and the state of the update rule."""

    params: Params
    opt_state: Any


class Rule(NamedTuple):
    """An update rule with meta-parameters `alpha`: `tx(alpha)` is an optax transformation."""

    init: Callable[[Params], Params]  # (fast params) -> alpha
    tx: Callable[[Params], optax.GradientTransformation]


def transformation(tx: optax.GradientTransformation | optax.MultiSteps) -> Transformation:
    """`tx` as a transformation that accepts extra arguments, whatever kind of it `tx` is.

    Raises:
        TypeError: for anything that is no optax transformation.

    Example:
        >>> tx = transformation(optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2))
        >>> tx.update(jnp.ones(1), tx.init(jnp.ones(1)), jnp.ones(1), value=0.0)[0].tolist()
        [0.0]
    """
    if isinstance(tx, optax.MultiSteps):
        tx = tx.gradient_transformation()
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"expected an optax transformation, got {type(tx).__name__}")
    return optax.with_extra_args_support(tx)


def apply_update(
    tx: optax.GradientTransformation | optax.MultiSteps,
    grads: Params,
    opt_state: PyTree,
    params: Params,
    *,
    value: Array | None = None,
    value_fn: Callable[[Params], Array] | None = None,
) -> tuple[Params, PyTree, Params]:
    """One update of any optax transformation, which is given what it may ask for.

    theta' = theta + u(g). The one place where the inner and the outer loop call optax.

    Args:
        tx: the update rule.
        grads: g, of the structure of params.
        opt_state: state of the rule, from `tx.init`.
        params: theta.
        value: the loss at theta, for rules that take it.
        value_fn: (params) -> loss, for rules with a line search.

    Returns:
        New parameters, new state, and the updates u(g).

    Raises:
        TypeError: for a rule over other parameters than these, as `optax.lookahead`.

    Example:
        >>> tx = optax.polyak_sgd()
        >>> w = jnp.array(3.0)
        >>> apply_update(tx, 2 * w, tx.init(w), w, value=w**2)[0].round(2).item()
        1.5

    Source:
        https://optax.readthedocs.io/en/latest/api/transformations.html, extra arguments.
    """
    given: dict[str, Any] = {"grad": grads}
    if value is not None:
        given["value"] = value
    if value_fn is not None:
        given["value_fn"] = value_fn
    try:
        updates, opt_state = transformation(tx).update(grads, opt_state, params, **given)
    except AttributeError as error:
        if error.name not in ("fast", "slow"):
            raise
        raise TypeError(
            "the update rule keeps two sets of parameters, as optax.lookahead does, and is not "
            "supported: expected one over the parameters of the network"
        ) from error
    return optax.apply_updates(params, updates), opt_state, updates


def freeze(tx: optax.GradientTransformation, where: Callable[[str], bool]) -> Transformation:
    """`tx` without the arrays whose path `where` chooses: they keep their values.

    The way to freeze part of a network in the outer loop: neither gradients nor weight decay move
    it. `adapt_only` of a learner does not: it says what the inner loop adapts, and the rest is
    still trained by the outer one.

    Args:
        tx: the update rule of the others.
        where: judges the path of each array, as in "theta/layer1/kernel"; for running statistics
            held among the parameters, `lambda path: "batch_stats" in path`.

    Returns:
        An optax transformation. Its `init` raises ValueError where `where` chooses everything or
        nothing, naming the paths.

    Example:
        >>> tx = freeze(optax.sgd(1.0), lambda path: path.startswith("body"))
        >>> params = {"body": jnp.ones(1), "head": jnp.ones(1)}
        >>> apply_update(tx, params, tx.init(params), params)[0]["body"].tolist()
        [1.0]
    """

    def kinds(params: Params) -> PyTree:
        paths = _paths(params)
        chosen = jax.tree.map(lambda path: "frozen" if where(path) else "trained", paths)
        if len(set(jax.tree.leaves(chosen))) != 2:
            raise ValueError(
                "expected some paths to be frozen and some not; they are all "
                f"{jax.tree.leaves(chosen)[0]}: {jax.tree.leaves(paths)}"
            )
        return chosen

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, kinds)


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
        def update(grads: Params, count: Array, params: Params = None) -> tuple[Params, Array]:
            s = jnp.minimum(count, steps - 1)
            return jax.tree.map(lambda a, g: -a[s] * g, alpha, grads), count + 1

        return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)

    return Rule(
        init=lambda p: jax.tree.map(lambda w: jnp.full((steps,), step_size, w.dtype), p), tx=tx
    )


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
    paths = _paths(params)
    chosen = jax.tree.map(lambda path: where is None or bool(where(path)), paths)
    if not any(jax.tree.leaves(chosen)):
        raise ValueError(f"nothing to adapt: no path is chosen among {jax.tree.leaves(paths)}")
    return (
        jax.tree.map(lambda c, w: w if c else None, chosen, params),
        jax.tree.map(lambda c, w: None if c else w, chosen, params),
    )


def _paths(params: Params) -> PyTree:
    """Each array's path, as in "head/kernel", in the structure of the parameters."""
    return jax.tree.map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
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
