"""Updates by any optax transformation, in the inner and in the outer loop.

Transformations that take more than a gradient get it: `optax.polyak_sgd` and
`optax.contrib.reduce_on_plateau` the loss, `optax.lbfgs` the loss, its function and its gradient;
`optax.MultiSteps` objects are taken as they are. Not supported are transformations over other
parameters than the network's (`optax.lookahead`), and a second-order outer gradient through a line
search (`optax.lbfgs`), which is a loop of unknown length: use it where nothing is differentiated.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import optax
from jax import Array

from lml_jax.types import Params, PyTree

Transformation: TypeAlias = optax.GradientTransformationExtraArgs


def transformation(tx: optax.GradientTransformation | optax.MultiSteps) -> Transformation:
    """`tx` as a transformation that accepts extra arguments, whatever kind of it `tx` is.

    Raises:
        TypeError: for anything that is no optax transformation.

    Example:
        >>> tx = transformation(optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2))
        >>> tx.update(jnp.ones(1), tx.init(jnp.ones(1)), jnp.ones(1), value=0.0)[0].item() == 0
        True
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
        # optax mixes types, as a float and a count, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = transformation(tx).update(grads, opt_state, params, **given)
            params = optax.apply_updates(params, updates)
    except AttributeError as error:
        if error.name not in ("fast", "slow"):
            raise
        raise TypeError(
            "the update rule keeps two sets of parameters, as optax.lookahead does, and is not "
            "supported: expected one over the parameters of the network"
        ) from error
    return params, opt_state, updates


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
        paths = paths_of(params)
        chosen = jax.tree.map(lambda path: "frozen" if where(path) else "trained", paths)
        if len(set(jax.tree.leaves(chosen))) != 2:
            raise ValueError(
                "expected some paths to be frozen and some not; they are all "
                f"{jax.tree.leaves(chosen)[0]}: {jax.tree.leaves(paths)}"
            )
        return chosen

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, kinds)


def paths_of(params: Params) -> PyTree:
    """Each array's path, as in "head/kernel", in the structure of the parameters.

    Example:
        >>> paths_of({"head": {"kernel": 1.0}})
        {'head': {'kernel': 'head/kernel'}}
    """
    return jax.tree.map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )
