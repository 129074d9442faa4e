"""Update rules that keep a network able to learn: against their formulas, on any optax rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import metrics, nets
from lml_jax.data.arrays import from_arrays
from lml_jax.data.streams import class_incremental
from lml_jax.experiments import plasticity as recipe
from lml_jax.learners.maml import maml
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.label_space import label_space_of
from lml_jax.lifelong.run import run_stream
from lml_jax.plasticity import (
    HiddenLayer,
    activations_of_mlp,
    continual_backprop,
    l2_init,
    layers_of_mlp,
    redo,
    shrink_and_perturb,
)

KEY = jax.random.key(0)
HIDDEN = (12, 9)
LAYERS, ACTIVATIONS = layers_of_mlp(2), activations_of_mlp(2)
UNITS = {"layers": LAYERS, "activations": ACTIVATIONS}


@pytest.fixture(scope="module")
def setting():
    """(net, parameters, batch, gradient at the parameters)."""
    net, x = nets.mlp(HIDDEN, 3), jax.random.normal(KEY, (20, 5))
    params = net.init(jax.random.key(1), x)

    def grads(params):
        return jax.grad(lambda p: jnp.square(net.apply(p, x) - 1.0).mean())(params)

    return net, params, x, jax.jit(grads)


def steps(tx, params, grads, count, **given):
    update, state = jax.jit(tx.update), tx.init(params)
    for _ in range(count):
        updates, state = update(grads(params), state, params, **given)
        params = optax.apply_updates(params, updates)
    return params, state


def test_the_layers_are_those_of_the_network(setting):
    net, params, x, _ = setting
    h = ACTIVATIONS(params, x)
    assert [a.shape for a in h] == [(20, 12), (20, 9)]
    head = params["head"]
    np.testing.assert_allclose(
        h[-1] @ head["kernel"] + head["bias"][None], net.apply(params, x), rtol=1e-5, atol=1e-6
    )
    for layer, size in zip(LAYERS, HIDDEN, strict=True):
        assert params[layer.kernel[0]]["kernel"].shape[-1] == size
        assert params[layer.outgoing[0]]["kernel"].shape[0] == size


def test_l2_init_is_the_penalty(setting):
    net, params, x, _ = setting

    def penalised(p):
        fit = jnp.square(net.apply(p, x) - 1.0).mean()
        far = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), p, params)
        return fit + 0.05 * sum(jax.tree.leaves(far))

    grads = jax.jit(jax.grad(lambda p: jnp.square(net.apply(p, x) - 1.0).mean()))
    got, _ = steps(l2_init(optax.adam(0.05), strength=0.05), params, grads, 10)
    want, _ = steps(optax.adam(0.05), params, jax.jit(jax.grad(penalised)), 10)
    # Adam makes large steps of gradients near 0, which rounding alone decides.
    for one, other in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_shrink_and_perturb_has_its_mean_and_its_variance():
    params = {"w": jnp.full((200, 200), 2.0)}
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = shrink_and_perturb(optax.sgd(0.1), KEY, shrink=0.1, noise=0.3)
    state = tx.init(params)
    drawn = []
    for _ in range(2):
        updates, state = tx.update(zero, state, params)
        after = optax.apply_updates(params, updates)["w"]
        np.testing.assert_allclose(after.mean(), 1.8, atol=0.01)
        np.testing.assert_allclose(after.std(), 0.3, rtol=0.02)
        drawn.append(after)
    assert abs(np.corrcoef(*(np.ravel(a) for a in drawn))[0, 1]) < 0.03  # new at each update


def check_reset(params, after, plain, slots, resets):
    """Units of `resets` start anew, and all else is what the rule alone would have made of it."""
    touched = jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), params)
    for layer, mask in zip(LAYERS, resets, strict=True):
        own, following = layer.kernel[0], layer.outgoing[0]
        touched[own]["kernel"][:, mask] = True
        touched[own]["bias"][mask] = True
        touched[following]["kernel"][mask] = True
        assert (after[own]["bias"][mask] == 0).all()
        assert (after[own]["kernel"][:, mask] != plain[own]["kernel"][:, mask]).any(0).all()
    # What leads from a reset unit is 0, but into a unit that is new as well.
    first, second = resets
    assert (after["layer2"]["kernel"][np.ix_(first, ~second)] == 0).all()
    assert (after["head"]["kernel"][second] == 0).all()
    for was, now, slot, where in zip(
        *map(jax.tree.leaves, (plain, after)), slots, jax.tree.leaves(touched), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(was)[~where], np.asarray(now)[~where])
        for moment in slot:
            assert (np.asarray(moment)[where] == 0).all()
            assert (np.asarray(moment)[~where] != 0).any() or not moment.any()


def test_continual_backprop_replaces_the_least_useful_of_the_mature_units(setting):
    _, params, x, grads = setting
    # 12 and 9 units: 0.1 of them is one unit now and .2, none now and .9.
    tx = continual_backprop(optax.adam(0.01), KEY, **UNITS, rate=0.1, maturity=2, decay=0.5)
    state, moving, utility = tx.init(params), params, [np.zeros(n) for n in HIDDEN]
    replaced = []
    for _ in range(5):
        before, last = moving, state
        updates, state = jax.jit(tx.update)(grads(moving), state, moving, x=x)
        moving = optax.apply_updates(before, updates)
        plain = optax.apply_updates(
            before, jax.jit(optax.adam(0.01).update)(grads(before), last.inner, before)[0]
        )
        resets = []
        for i, (layer, h) in enumerate(zip(LAYERS, ACTIVATIONS(before, x), strict=True)):
            outgoing = np.abs(before[layer.outgoing[0]]["kernel"]).sum(1)
            utility[i] = 0.5 * utility[i] + 0.5 * np.abs(h).mean(0) * outgoing
            mask = np.asarray(state.age[i]) == 0
            eligible = np.asarray(last.age[i]) + 1 > 2
            assert not (mask & ~eligible).any()
            if mask.any():
                assert utility[i][mask].max() <= utility[i][eligible & ~mask].min()
            utility[i][mask] = 0
            np.testing.assert_allclose(state.utility[i], utility[i], rtol=1e-4, atol=1e-6)
            resets.append(mask)
        adam = state.inner[0]
        slots = list(zip(*map(jax.tree.leaves, (adam.mu, adam.nu)), strict=True))
        check_reset(params, moving, plain, slots, resets)
        replaced.append([int(mask.sum()) for mask in resets])
    # From the third update on: 1.2, then .2 + 1.1 of the 11 that are still mature, ...
    assert [row[0] for row in replaced] == [0, 0, 1, 1, 1]
    assert [row[1] for row in replaced] == [0, 0, 0, 1, 1]


def test_redo_resets_dormant_units_now_and_then(setting):
    _, params, x, grads = setting
    params = {**params, "layer1": {**params["layer1"], "bias": jnp.zeros(12).at[3].set(-99.0)}}
    tx = redo(optax.adam(0.01), KEY, **UNITS, threshold=0.0, every=3)
    dead = []
    for count in (2, 3):
        after, state = steps(tx, params, grads, count, x=x)
        dead.append([np.asarray(h).max(0) == 0 for h in ACTIVATIONS(after, x)])
    before, now = dead
    assert before[0][3]
    assert int(state.resets) >= 1
    plain, _ = steps(optax.adam(0.01), params, grads, 3)
    was = [metrics.activity(h) <= 0 for h in ACTIVATIONS(plain, x)]
    adam = state.inner[0]
    slots = list(zip(*map(jax.tree.leaves, (adam.mu, adam.nu)), strict=True))
    check_reset(params, after, plain, slots, [np.asarray(mask) for mask in was])
    assert int(state.resets) == sum(int(mask.sum()) for mask in was)
    assert not now[0][3]


@pytest.mark.parametrize("rule", ["l2-init", "cbp", "redo", "shrink-perturb"])
def test_a_learner_trains_by_it(rule):
    """By the rule alone: the training loop passes no batch, so activations are of a probe."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 20)
    x = (3 * rng.normal(size=(4, 6))[y] + rng.normal(size=(80, 6))).astype(np.float32)
    stream = class_incremental(
        from_arrays(x, y), tasks=2, classes_per_task=2, seed=0, train_per_class=15, shots=3,
        queries=3, meta_batch=2,
    )  # fmt: skip
    where = ("theta",)
    units = {"layers": layers_of_mlp(1, where), "activations": activations_of_mlp(1, where)}
    units["probe"] = x[:30]
    adam = optax.adam(1e-2)
    tx = {
        "l2-init": l2_init(adam, strength=1e-3),
        "cbp": continual_backprop(adam, KEY, **units, rate=0.01, maturity=5),
        "redo": redo(adam, KEY, **units, every=10),
        "shrink-perturb": shrink_and_perturb(adam, KEY, shrink=1e-4, noise=1e-4),
    }[rule]
    few_shot = maml(nets.mlp([16], 4), optax.sgd(0.1), steps=1)
    learner = finetune(few_shot, tx, label_space_of(stream))
    run = run_stream(learner, stream, KEY, steps=30, scan=True)
    assert run.R[-1, -1] > 0.9
    assert int(run.state.bad_step) == -1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: l2_init(optax.sgd(1.0), strength=-1.0), "strength must be at least 0, got -1.0"),
        (lambda: shrink_and_perturb(optax.sgd(1.0), KEY, shrink=2.0, noise=0.0), "shrink must be"),
        (lambda: shrink_and_perturb(optax.sgd(1.0), KEY, shrink=0.0, noise=-1.0), "noise must be"),
        (lambda: redo(optax.sgd(1.0), KEY, **UNITS, every=0), "every must be at least 1, got 0"),
        (lambda: redo(optax.sgd(1.0), KEY, **UNITS, threshold=-1.0), "threshold must be"),
        (lambda: continual_backprop(optax.sgd(1.0), KEY, **UNITS, rate=2.0), "rate must be in"),
        (lambda: continual_backprop(optax.sgd(1.0), KEY, **UNITS, decay=1.0), "decay must be in"),
        (lambda: continual_backprop(optax.sgd(1.0), KEY, **UNITS, maturity=0), "maturity must be"),
    ],
)
def test_bad_arguments_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_without_examples_it_says_what_it_needs(setting):
    _, params, _, grads = setting
    for tx in (
        redo(optax.sgd(1.0), KEY, **UNITS),
        continual_backprop(optax.sgd(1.0), KEY, **UNITS),
    ):
        with pytest.raises(TypeError, match=r"expected tx.update\(..., x=batch\), or a probe"):
            tx.update(grads(params), tx.init(params), params)


def test_a_convolution_has_units_too():
    """Channels: the last axis of a kernel into them, the first of a matrix out of them."""
    kernel, out = jnp.ones((3, 3, 2, 4)), jnp.ones((4, 5))
    params = {"conv": {"kernel": kernel, "bias": jnp.ones(4)}, "head": {"kernel": out}}
    layer = HiddenLayer(("conv", "kernel"), ("conv", "bias"), ("head", "kernel"))
    tx = redo(
        optax.sgd(0.1), KEY, layers=[layer], every=1, threshold=0.0,
        activations=lambda params, x: [jnp.ones((2, 4)).at[:, 1].set(0.0)],
    )  # fmt: skip
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params, x=jnp.ones(2))
    after = optax.apply_updates(params, updates)
    assert (after["head"]["kernel"][1] == 0).all()
    np.testing.assert_array_equal(after["head"]["kernel"][2], 1.0)
    assert (after["conv"]["kernel"][..., 1] != 1).all()
    np.testing.assert_array_equal(after["conv"]["kernel"][..., 0], 1.0)


def test_measures():
    h = jnp.stack([jnp.ones(6), 3 * jnp.ones(6), jnp.zeros(6), jnp.zeros(6)], axis=1)
    np.testing.assert_allclose(metrics.activity(h), [1.0, 3.0, 0.0, 0.0])
    assert float(metrics.dormant_units(h)) == 0.5
    assert float(metrics.dormant_units(h, threshold=1.0)) == 0.75
    np.testing.assert_allclose(metrics.effective_rank(h), 1.0, rtol=1e-4)
    assert float(metrics.effective_rank(jnp.zeros((3, 2)))) == 0.0
    s = np.array([3.0, 1.0])
    p = s / s.sum()
    want = np.exp(-(p * np.log(p)).sum())
    np.testing.assert_allclose(metrics.effective_rank(jnp.diag(jnp.asarray(s))), want, rtol=1e-5)
    assert float(metrics.activity(jnp.zeros((3, 2))).max()) == 0.0


def test_the_recipe_runs_small(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 40)
    x = np.clip(60 * rng.normal(size=(3, 4, 4))[y] + 120 + rng.normal(size=(120, 4, 4)), 0, 255)
    data = from_arrays(x.astype(np.uint8), y)
    monkeypatch.setattr(recipe, "mnist", lambda part, data_dir: data)
    s = recipe.Permuted(tasks=12, images=100, batch=10, hidden=(8,), last=2, seeds=(0, 1))
    rules = {name: recipe.RULES[name] for name in ("adam", "cbp")}
    report = recipe.compare(rules)(s)(tmp_path / "run")
    assert "cbp" in report
    assert (tmp_path / "run" / "plasticity.png").exists()
    runs = recipe.run_rules(rules, s, tmp_path / "run", resume=True)["runs"]
    assert len(runs) == 4
    for run in runs:
        assert len(run["online"]) == len(run["dormant"]) == 12
        assert run["end"] == pytest.approx(np.mean(run["online"][-2:]))
        assert 0 < run["average"] < 1
    assert runs[0]["online"] != runs[2]["online"]
    with pytest.raises(ValueError, match="rate must be a finite number above 0"):
        recipe.run_rules(rules, recipe.Permuted(rate=0.0), tmp_path / "bad")
