"""Every kind of optax transformation in the inner and the outer loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import inner, losses, nets, train, updates
from lml_jax.learners.maml import maml
from lml_jax.learners.reptile import reptile
from lml_jax.types import Batch, Task

KEY = jax.random.key(0)
MORE_THAN_A_GRADIENT = {
    "polyak_sgd": optax.polyak_sgd(max_learning_rate=0.1),
    "reduce_on_plateau": optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)),
    "MultiSteps": optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2),
    "adamw": optax.adamw(0.01, eps_root=1e-8),
}
LINE_SEARCH = {
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=10)
    ),
}


def task():
    keys = jax.random.split(KEY)
    y = jnp.arange(6, dtype=jnp.int32) % 3
    return Task(*(Batch(jax.random.normal(key, (6, 4)) + y[:, None], y) for key in keys))


def descended(tx, steps=12):
    """||w||^2 after some steps from 3, by `inner.adapt`."""
    fast = inner.start({"w": jnp.full(2, 3.0)}, tx)

    def loss(p, key):
        return jnp.sum(p["w"] ** 2)

    return loss(inner.adapt(loss, fast, tx, KEY, steps=steps).params, KEY)


@pytest.mark.parametrize("name", [*MORE_THAN_A_GRADIENT, *LINE_SEARCH])
def test_the_inner_loop_gives_a_transformation_what_it_asks_for(name):
    tx = (MORE_THAN_A_GRADIENT | LINE_SEARCH)[name]
    assert descended(tx) < (17.0 if name == "adamw" else 6.0) < 18.0


def test_polyak_takes_the_step_of_its_closed_form():
    """u = -f / |g|^2 g: of w^2 at w = 3, 9 / 36 x 6 = 1.5."""
    w, tx = jnp.array(3.0), optax.polyak_sgd()
    new, _, step = updates.apply_update(tx, 2 * w, tx.init(w), w, value=w**2)
    np.testing.assert_allclose([new, step], [1.5, -1.5], rtol=1e-6)


@pytest.mark.parametrize("name", MORE_THAN_A_GRADIENT)
@pytest.mark.parametrize("first_order", [False, True])
def test_the_outer_gradient_is_finite(name, first_order):
    learner = maml(nets.mlp([8], 3), MORE_THAN_A_GRADIENT[name], steps=2, first_order=first_order)
    params = learner.init(KEY, task().support.x)
    value, grads = jax.jit(jax.value_and_grad(
        lambda p: train.episode_loss(learner)(p, task(), KEY)[0]
    ))(params)  # fmt: skip
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_reptile_takes_them_too():
    for tx in (optax.MultiSteps(optax.sgd(0.1), 2), optax.polyak_sgd(0.1), optax.lbfgs()):
        learner = reptile(nets.mlp([8], 3), tx, steps=2)
        params = learner.init(KEY, task().support.x)
        fast = learner.adapt(params, task().support, KEY)
        assert jnp.abs(fast.params["head"]["kernel"] - params["head"]["kernel"]).max() > 0


def test_lookahead_is_refused_by_name():
    tx = optax.lookahead(optax.sgd(0.1), sync_period=2, slow_step_size=0.5)
    with pytest.raises(TypeError, match=r"two sets of parameters, as optax.lookahead"):
        descended(tx)


def test_what_is_no_transformation_is_refused():
    with pytest.raises(TypeError, match="expected an optax transformation, got float"):
        maml(nets.mlp([8], 3), 0.1, steps=1)


def test_freeze_holds_what_adapt_only_does_not():
    """`adapt_only` chooses for the inner loop: the outer one trains the rest, unless frozen."""
    learner = maml(
        nets.mlp([8], 3), optax.sgd(0.1), steps=1, adapt_only=lambda path: "head" in path
    )
    start = learner.init(KEY, task().support.x)
    tasks = jax.tree.map(lambda leaf: leaf[None], task())
    plain = optax.adamw(0.01, weight_decay=0.1)
    frozen = updates.freeze(plain, lambda path: path.startswith("theta/layer1"))
    moved = {}
    for name, tx in {"plain": plain, "frozen": frozen}.items():
        step = jax.jit(train.make_train_step(train.episode_loss(learner), tx))
        state = train.init_state(start, tx)
        for _ in range(3):
            state, _ = step(state, tasks, KEY)
        moved[name] = {
            part: float(jnp.abs(state.params["theta"][part]["kernel"]
                                - start["theta"][part]["kernel"]).max())
            for part in ("layer1", "head")
        }  # fmt: skip
    assert moved["plain"]["layer1"] > 0.01
    assert moved["frozen"]["layer1"] == 0.0
    assert moved["frozen"]["head"] > 0.01
    for where in (lambda path: True, lambda path: False):
        with pytest.raises(ValueError, match="some paths to be frozen and some not"):
            updates.freeze(plain, where).init(start)


def test_running_statistics_among_the_parameters_are_named():
    net = nets.mlp([], 2)
    odd = net._replace(
        init=lambda key, x: {"params": net.init(key, x), "batch_stats": {"mean": jnp.zeros(2)}},
        apply=lambda p, x: net.apply(p["params"], x),
    )
    with pytest.warns(UserWarning, match=r"running statistics as parameters \(batch_stats/mean\)"):
        maml(odd, optax.sgd(0.1), steps=1).init(KEY, jnp.ones((2, 2)))
    with pytest.warns(UserWarning, match=r"by nets.bind"):
        reptile(odd, optax.sgd(0.1), steps=1).init(KEY, jnp.ones((2, 2)))


def test_a_loss_of_the_users_own_in_every_rule():
    for name, tx in MORE_THAN_A_GRADIENT.items():
        learner = maml(nets.mlp([4], 1), tx, steps=2, loss=losses.squared_error)
        x = jnp.ones((3, 2))
        params = learner.init(KEY, x)
        fast = learner.adapt(params, Batch(x, jnp.ones((3, 1))), KEY)
        assert jnp.isfinite(learner.predict(params, fast, x)).all(), name
