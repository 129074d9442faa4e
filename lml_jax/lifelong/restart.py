"""Learners whose optimiser is re-initialised at the end of each task."""

import optax

from lml_jax.types import Batch, Key, LifelongLearner, LifelongState


def with_fresh_optimizer(
    learner: LifelongLearner, tx: optax.GradientTransformation
) -> LifelongLearner:
    """`learner`, whose optimiser state is that of `tx.init` at the begin of each task.

    Parameters, memory and the count of updates are carried on; a schedule of `tx` begins anew. On
    a stream without task boundaries nothing changes.

    Args:
        learner: any lifelong learner.
        tx: the update rule that it was built with.

    Example:
        >>> import jax.numpy as jnp
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> from lml_jax.lifelong.finetune import finetune
        >>> from lml_jax.lifelong.label_space import LabelSpace
        >>> tx, space = optax.adam(1e-3), LabelSpace(10, jnp.zeros(50, bool))
        >>> few_shot = maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1)
        >>> learner = with_fresh_optimizer(finetune(few_shot, tx, space), tx)
    """

    def end_task(state: LifelongState, batch: Batch, key: Key) -> LifelongState:
        state = learner.end_task(state, batch, key)
        trained = state.train
        return state._replace(train=trained._replace(opt_state=tx.init(trained.params)))

    return learner._replace(end_task=end_task)
