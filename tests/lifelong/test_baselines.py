"""The baselines' mathematics against plain computations of it on a linear classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import heads, losses, memory, nets
from lml_jax.learners.maml import maml
from lml_jax.lifelong.agem import agem, projected
from lml_jax.lifelong.derpp import derpp
from lml_jax.lifelong.er import er
from lml_jax.lifelong.er_ace import er_ace
from lml_jax.lifelong.ewc import Anchor, ewc
from lml_jax.lifelong.icarl import icarl
from lml_jax.lifelong.la_maml import la_maml
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.lifelong.lwf import lwf
from lml_jax.lifelong.si import si
from lml_jax.lifelong.streaming import streaming
from lml_jax.types import Batch, Task

C, D, RATE = 4, 3, 0.1
KEY = jax.random.key(0)
NET = nets.mlp([], C)
FEW_SHOT = maml(NET, optax.sgd(0.1), steps=1)
TX = optax.sgd(RATE)
SPACE = LabelSpace(3, jnp.zeros(C, bool))
# One slot, so that what is drawn from the bank is known.
ONE = memory.fifo(1)


def batch_of(seed, labels):
    rng = np.random.default_rng(seed)
    return Batch(jnp.asarray(rng.normal(size=(len(labels), D)), jnp.float32), jnp.array(labels))


FIRST, SECOND = batch_of(0, [0, 1, 0, 1]), batch_of(1, [2, 3, 2])


def weights_of(params):
    """Kernel and bias of the linear classifier, as numpy in double precision."""
    layer = next(iter(params["theta"].values()))
    return np.asarray(layer["kernel"], float), np.asarray(layer["bias"], float)


def of_state(state):
    return weights_of(state.train.params)


def softmax(z, active):
    z = np.where(active, z, -np.inf)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gradient(w, batch, active):
    """The mean cross-entropy's gradient, by hand: (x^T (p - t), sum (p - t)) / n."""
    x, y = np.asarray(batch.x, float), np.asarray(batch.y)
    r = (softmax(x @ w[0] + w[1], active) - np.eye(C)[y]) / len(y)
    return x.T @ r, r.sum(0)


def active(*classes):
    return np.isin(np.arange(C), classes)


def moved(w, *grads, rate=RATE):
    return tuple(a - rate * sum(parts) for a, *parts in zip(w, *grads, strict=True))


def scaled(factor, g):
    return tuple(factor * part for part in g)


def assert_close(got, want, **tolerance):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 1e-4, "atol": 1e-5} | tolerance))


def observed(learner, *batches, start=None):
    """The states before and after each batch."""
    states = [learner.init(KEY, FIRST.x) if start is None else start]
    for t, batch in enumerate(batches):
        states.append(learner.observe(states[-1], batch, jax.random.key(t))[0])
    return states


def as_tasks(batch, i):
    """A meta-batch of one episode with these examples, one of them in the query set."""
    support = jax.tree.map(lambda leaf: leaf[None, :-1], batch)
    query = jax.tree.map(lambda leaf: leaf[None, -1:], batch)
    return Task(support, query, jnp.array([i]))


def last_of(batch):
    return jax.tree.map(lambda leaf: leaf[-1:], batch)


# --- experience replay ---------------------------------------------------------------------------


def test_er_is_the_mean_over_new_and_stored_examples():
    start, one, two = observed(er(FEW_SHOT, TX, SPACE, bank=ONE, past_batch=2), FIRST, SECOND)
    w = of_state(start)
    assert_close(of_state(one), moved(w, gradient(w, FIRST, active(0, 1))))
    w = of_state(one)
    new, old = gradient(w, SECOND, True), gradient(w, last_of(FIRST), True)
    assert_close(of_state(two), moved(w, scaled(3 / 5, new), scaled(2 / 5, old)))
    assert two.memory.items[1].tolist() == [[2]]  # the last example, stored after the update


def test_er_with_task_boundaries_stores_a_task_once_at_its_end():
    learner = er(FEW_SHOT, TX, SPACE, bank=memory.reservoir(10), past_batch=2)
    state = learner.init(KEY, FIRST.x)
    state, metrics = learner.step(state, as_tasks(FIRST, 0), KEY)
    assert int(state.memory.seen[0]) == 0
    assert float(metrics["retention"]) == 0.0
    assert_close(of_state(state), of_state(observed(learner, FIRST)[1]))
    state = learner.end_task(state, FIRST, KEY)
    state = learner.end_task(state, SECOND._replace(weight=jnp.array([1.0, 0.0, 1.0])), KEY)
    (_, y, task), held = memory.contents(state.memory)
    assert y[held].tolist() == [0, 1, 0, 1, 2, 2]
    assert task[held].tolist() == [0, 0, 0, 0, 1, 1]


def test_er_ace_lets_new_examples_compete_among_their_own_classes_alone():
    _, one, two = observed(er_ace(FEW_SHOT, TX, SPACE, bank=ONE, past_batch=2), FIRST, SECOND)
    w = of_state(one)
    new, old = gradient(w, SECOND, active(2, 3)), gradient(w, last_of(FIRST), True)
    assert not new[0][:, :2].any()
    assert_close(of_state(two), moved(w, new, old))


def test_derpp_stores_the_logits_before_the_update_and_regresses_on_them():
    make = derpp(FEW_SHOT, TX, SPACE, bank=ONE, past_batch=2, logits_weight=0.7, labels_weight=0.3)
    start, one, two = observed(make, FIRST, SECOND)
    w, old = of_state(start), last_of(FIRST)
    stored = np.asarray(one.memory.items[2])[0]
    np.testing.assert_allclose(stored, np.asarray(old.x) @ w[0] + w[1], rtol=1e-5)
    w, x = of_state(one), np.asarray(old.x, float)
    r = 2 * (x @ w[0] + w[1] - stored) / C
    of_logits = x.T @ r, r.sum(0)
    of_labels = gradient(w, old, True)
    new = gradient(w, SECOND, True)
    assert_close(of_state(two), moved(w, new, scaled(0.7, of_logits), scaled(0.3, of_labels)))


def test_agem_projects_by_the_closed_form():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        g, r = rng.normal(size=(2, 5))
        trees = [{"a": jnp.array(v[:2]), "b": jnp.array(v[2:])} for v in (g, r)]
        got = np.asarray(projected(*trees)["b"])
        want = g if g @ r >= 0 else g - (g @ r) / (r @ r) * r
        assert want @ r >= -1e-9
        seen.add(bool(g @ r < 0))
        np.testing.assert_allclose(got, want[2:], rtol=1e-4, atol=1e-5)
    assert seen == {True, False}


def test_agem_moves_along_the_projected_gradient():
    # The same input with another label: the two gradients point against each other.
    clash = Batch(jnp.tile(last_of(FIRST).x, (3, 1)), jnp.array([0, 0, 0]))
    learner = agem(FEW_SHOT, TX, SPACE, bank=ONE, past_batch=2)
    start, one = observed(learner, FIRST)
    two, metrics = learner.observe(one, clash, KEY)
    w = of_state(one)
    g, r = gradient(w, clash, active(0, 1)), gradient(w, last_of(FIRST), active(0, 1))
    along = sum((a * b).sum() for a, b in zip(g, r, strict=True))
    size = sum((b * b).sum() for b in r)
    assert along < 0
    assert float(metrics["projected"]) == 1.0
    assert_close(of_state(two), moved(w, g, scaled(-along / size, r)), atol=1e-6)
    # Before anything is stored the gradient is as it is.
    w = of_state(start)
    assert_close(of_state(one), moved(w, gradient(w, FIRST, active(0, 1))))


# --- penalties and distillation ------------------------------------------------------------------


def fisher_by_hand(w, batch, seen, kind):
    total = [np.zeros_like(part) for part in w]
    for x, y in zip(np.asarray(batch.x, float), np.asarray(batch.y), strict=True):
        p = softmax(x @ w[0] + w[1], seen)
        for c in range(C):
            share = float(c == y) if kind == "empirical" else p[c]
            score = np.where(seen, np.eye(C)[c] - p, 0.0)  # of log p_c by the logits
            total[0] += share * np.outer(x, score) ** 2 / len(batch.y)
            total[1] += share * score**2 / len(batch.y)
    return total


@pytest.mark.parametrize("kind", ["expected", "empirical"])
def test_ewc_holds_parameters_by_the_diagonal_of_the_fisher(kind):
    learner = ewc(FEW_SHOT, TX, SPACE, strength=7.0, decay=0.5, fisher=kind)
    state = learner.end_task(learner.init(KEY, FIRST.x), FIRST, KEY)
    w = of_state(state)
    first = fisher_by_hand(w, FIRST, active(0, 1), kind)
    found = weights_of(state.own.importance)
    assert_close(found, first)
    state = learner.end_task(state, SECOND, KEY)
    second = fisher_by_hand(w, SECOND, True, kind)
    importance = [0.5 * a + b for a, b in zip(first, second, strict=True)]
    assert_close(weights_of(state.own.importance), importance)
    # The penalty's gradient, away from where it holds: lambda F (theta - theta*).
    away = jax.tree.map(lambda leaf: leaf + 0.1, state.own.params)
    state = state._replace(own=Anchor(away, state.own.importance))
    after, metrics = learner.step(state, as_tasks(FIRST, 2), KEY)
    held = tuple(7.0 * f * -0.1 for f in importance)
    assert_close(of_state(after), moved(w, gradient(w, FIRST, True), held))
    want = 3.5 * sum((f * 0.01).sum() for f in importance)
    np.testing.assert_allclose(float(metrics["penalty"]), want, rtol=1e-3)


def test_the_fisher_of_some_examples_and_of_a_last_group_that_is_not_full():
    many = batch_of(3, [0, 1] * 10 + [0])
    every = ewc(FEW_SHOT, TX, SPACE)
    state = every.init(KEY, many.x)
    got = weights_of(every.end_task(state, many, KEY).own.importance)
    assert_close(got, fisher_by_hand(of_state(state), many, active(0, 1), "expected"))
    padded = many._replace(weight=jnp.ones(21).at[5:].set(0.0))
    five = ewc(FEW_SHOT, TX, SPACE, fisher_examples=5).end_task(state, padded, KEY)
    some = jax.tree.map(lambda leaf: leaf[:5], many)
    want = fisher_by_hand(of_state(state), some, active(0, 1), "expected")
    assert_close(weights_of(five.own.importance), want)


def test_si_integrates_the_gradient_along_the_path():
    c, xi = 0.5, 0.2
    learner = si(FEW_SHOT, TX, SPACE, strength=c, damping=xi)
    state = learner.init(KEY, FIRST.x)
    w = first = of_state(state)
    omega, big, anchor = [[np.zeros_like(part) for part in w] for _ in range(3)]
    for i, batches in enumerate([[FIRST, FIRST], [SECOND, FIRST]]):
        anchor = w
        omega = [np.zeros_like(part) for part in w]
        for batch in batches:
            seen = active(0, 1) if i == 0 else True
            g = gradient(w, batch, seen)
            held = tuple(2 * c * b * (a - at) for b, a, at in zip(big, w, anchor, strict=True))
            new = moved(w, g, held)
            omega = [o - gk * (b - a) for o, gk, a, b in zip(omega, g, w, new, strict=True)]
            w = new
            state, _ = learner.step(state, as_tasks(batch, i), KEY)
            assert_close(of_state(state), w)
            assert_close(weights_of(state.own.omega), omega, rtol=1e-3, atol=1e-6)
        big = [b + o / ((new - at) ** 2 + xi)
               for b, o, new, at in zip(big, omega, w, anchor, strict=True)]  # fmt: skip
        state = learner.end_task(state, batches[0], KEY)
        assert_close(weights_of(state.own.anchor.importance), big, rtol=1e-3, atol=1e-6)
        assert not any(part.any() for part in weights_of(state.own.omega))
    assert np.abs(w[0] - first[0]).max() > 0.01


@pytest.mark.parametrize("given", [False, True])
def test_lwf_distills_the_classes_of_past_tasks(given):
    members = jnp.array([[True, True, False, False], [False, False, True, True], [False] * 4])
    space = SPACE._replace(members=members if given else None)
    learner, T, strength = lwf(FEW_SHOT, TX, space, strength=0.8), 2.0, 0.8
    state = learner.init(KEY, FIRST.x)
    state, metrics = learner.step(state, as_tasks(FIRST, 0), KEY)
    assert float(metrics["distillation"]) == 0.0
    state = learner.end_task(state, FIRST, KEY)
    old = of_state(state)
    x = np.asarray(SECOND.x, float)
    for _ in range(2):  # of the first step the gradient of the second term is 0
        w = of_state(state)
        q, p = (softmax((x @ v[0] + v[1]) / T, active(0, 1)) for v in (old, w))
        r = (p - q) / T / len(x)
        new = gradient(w, SECOND, active(2, 3) if given else True)
        want = moved(w, new, scaled(strength, (x.T @ r, r.sum(0))))
        state, metrics = learner.step(state, as_tasks(SECOND, 1), KEY)
        assert_close(of_state(state), want)
        entropy = -(q[:, :2] * np.log(p[:, :2])).sum(1).mean()
        np.testing.assert_allclose(float(metrics["distillation"]), entropy, rtol=1e-4)


# --- exemplars and means -------------------------------------------------------------------------


def linear():
    """An embedding that is one linear layer, for `icarl`."""
    return nets.mlp([], 2)


def test_icarl_targets_are_old_answers_for_old_classes_and_truth_for_new_ones():
    bank = memory.herding(1, classes=C, feature_of=lambda item: item[2])
    learner = icarl(linear(), TX, SPACE, bank=bank, past_batch=2)
    state = learner.init(KEY, FIRST.x)
    out = {"kernel": jnp.asarray(np.random.default_rng(5).normal(size=(2, C)), jnp.float32),
           "bias": jnp.zeros(C)}  # fmt: skip
    params = {**state.train.params, "out": out}
    state = learner.init(KEY, FIRST.x, params)
    only = Batch(jnp.tile(FIRST.x[:1], (4, 1)), jnp.zeros(4, jnp.int32))
    state = learner.end_task(state, only, KEY)  # class 0 is old, and has one exemplar
    # A teacher that differs from the student.
    teacher = jax.tree.map(lambda leaf: leaf + 0.3, state.own.params)
    state = state._replace(own=state.own._replace(params=teacher))
    new = batch_of(2, [2, 2, 3])
    both = Batch(jnp.concatenate([new.x, FIRST.x[:1], FIRST.x[:1]]), jnp.array([2, 2, 3, 0, 0]))

    def loss(params):
        total = 0.0
        for x, y in zip(both.x, both.y, strict=True):
            z, old = (linear().apply(p["net"], x[None])[0] @ p["out"]["kernel"] + p["out"]["bias"]
                      for p in (params, teacher))  # fmt: skip
            for c in (0, 2, 3):
                t = jax.nn.sigmoid(old[c]) if c == 0 else float(y == c)
                total -= t * jnp.log(jax.nn.sigmoid(z[c])) + (1 - t) * jnp.log(
                    1 - jax.nn.sigmoid(z[c])
                )
        return total / 5

    value, grads = jax.value_and_grad(loss)(state.train.params)
    after, metrics = learner.step(state, as_tasks(new, 1), KEY)
    np.testing.assert_allclose(float(metrics["loss"]), float(value), rtol=1e-4)
    want = jax.tree.map(lambda w, g: w - RATE * g, state.train.params, grads)
    assert_close(jax.tree.leaves(after.train.params), jax.tree.leaves(want))


def test_icarl_answers_with_the_nearest_mean_of_exemplars():
    bank = memory.herding(2, classes=C, feature_of=lambda item: item[2])
    learner = icarl(linear(), TX, SPACE, bank=bank)
    state = learner.init(KEY, FIRST.x)
    three = batch_of(6, [0, 1, 0, 1, 0, 1])  # of each class
    state = learner.end_task(state, three, KEY)
    (x, y, _, _), held = memory.contents(state.memory)

    def phi(x):
        z = np.asarray(linear().apply(state.train.params["net"], x), float)
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    queries = batch_of(9, [0] * 8).x
    means = np.stack([phi(x[held & (y == c)]).mean(0) for c in (0, 1)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    distance = np.square(phi(queries)[:, None] - means[None]).sum(2)
    logits = np.asarray(learner.recall(state, queries, KEY))
    assert logits.argmax(1).tolist() == distance.argmin(1).tolist()
    assert np.isneginf(logits[:, 2:]).all()
    # An exemplar is what herding chooses by phi: the first one is nearest to the mean.
    for c in (0, 1):
        own = three.x[three.y == c]
        best = np.square(phi(own) - phi(own).mean(0)).sum(1).argmin()
        np.testing.assert_array_equal(state.memory.items[0][c, 0], own[best])


def test_the_nearest_class_mean_is_the_same_batch_by_batch_and_at_once():
    few_shot = heads.head_learner(linear(), heads.nearest_mean(), classes=C)
    learner = streaming(few_shot, SPACE)
    parts = observed(learner, FIRST, SECOND)[-1]
    assert int(parts.step) == 2
    both = losses.concatenated(FIRST, SECOND)
    whole = learner.end_task(learner.init(KEY, FIRST.x), both, KEY)
    x = batch_of(4, [0] * 5).x
    got = learner.recall(parts, x, KEY)
    np.testing.assert_allclose(got, learner.recall(whole, x, KEY), rtol=1e-4)
    z, means = (np.asarray(linear().apply(parts.train.params["net"], a)) for a in (x, both.x))
    means = np.stack([means[np.asarray(both.y) == c].mean(0) for c in range(C)])
    distance = np.square(z[:, None] - means[None]).sum(2)
    assert np.asarray(got).argmax(1).tolist() == distance.argmin(1).tolist()


def test_steps_of_a_task_before_its_end_have_a_finite_loss():
    """Its classes were seen, but nothing of them is in the statistics yet."""
    few_shot = heads.head_learner(linear(), heads.nearest_mean(), classes=C)
    learner = streaming(few_shot, SPACE)
    state = learner.init(KEY, FIRST.x)
    for _ in range(2):
        state, metrics = learner.step(state, as_tasks(FIRST, 0), KEY)
        assert (float(metrics["loss"]), int(metrics["bad_step"])) == (0.0, -1)
    state = learner.end_task(state, FIRST, KEY)
    state, metrics = learner.step(state, as_tasks(FIRST, 1), KEY)
    assert float(metrics["loss"]) > 0
    assert int(state.step) == 3


# --- look-ahead ----------------------------------------------------------------------------------


def look_ahead_by_hand(w, alpha, batch, both, seen):
    """dL/dtheta with constant inner gradients, dL/dalpha, for one example in the batch."""
    g = gradient(w, batch, seen)
    fast = tuple(a - s * part for a, s, part in zip(w, alpha, g, strict=True))
    outer = gradient(fast, both, seen)
    return outer, tuple(-a * b for a, b in zip(outer, g, strict=True))


@pytest.mark.parametrize("learned", [True, False])
def test_la_maml_moves_alpha_and_then_theta(learned):
    rates = {"alpha": 0.2, "alpha_rate": 0.3} if learned else {"alpha": 0.2, "alpha_rate": None}
    learner = la_maml(NET, SPACE, bank=ONE, past_batch=1, glances=2, clip=1e3,
                      rate=None if learned else 0.1, **rates)  # fmt: skip
    start, one = observed(learner, last_of(FIRST))
    now = last_of(SECOND)
    two, _ = learner.observe(one, now, KEY)
    assert int(two.step) == 2
    w, alpha = of_state(one), weights_of({"theta": one.train.params["alpha"]})
    both, seen = losses.concatenated(now, last_of(FIRST)), active(1, 2)
    for _ in range(2):
        of_theta, of_alpha = look_ahead_by_hand(w, alpha, now, both, seen)
        if learned:
            alpha = tuple(a - 0.3 * g for a, g in zip(alpha, of_alpha, strict=True))
        steps = alpha if learned else (0.1, 0.1)
        w = tuple(a - np.maximum(s, 0) * g for a, s, g in zip(w, steps, of_theta, strict=True))
    assert_close(of_state(two), w)
    assert_close(weights_of({"theta": two.train.params["alpha"]}), alpha)
    assert_close(weights_of({"theta": start.train.params["alpha"]}), [0.2, 0.2], rtol=1e-6)


def test_la_maml_clips_the_norm_of_its_gradients():
    learner = la_maml(NET, SPACE, bank=ONE, glances=1, clip=1e-2, alpha_rate=None, rate=1.0)
    start, one = observed(learner, FIRST)
    change = sum(((a - b) ** 2).sum() for a, b in zip(of_state(one), of_state(start), strict=True))
    np.testing.assert_allclose(np.sqrt(change), 1e-2, rtol=1e-3)


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ewc, si, lwf, lambda f, tx, s: icarl(linear(), tx, s)])
def test_what_needs_task_boundaries_says_so(make):
    learner = make(FEW_SHOT, TX, SPACE)
    state = learner.init(KEY, FIRST.x)
    with pytest.raises(ValueError, match="needs task boundaries"):
        learner.observe(state, FIRST, KEY)


REFUSED = {
    "past_batch must be at least 1": lambda: er(FEW_SHOT, TX, SPACE, past_batch=0),
    "logits_weight and labels_weight": lambda: derpp(FEW_SHOT, TX, SPACE, logits_weight=-1.0),
    "decay in": lambda: ewc(FEW_SHOT, TX, SPACE, decay=1.5),
    "fisher_examples must be": lambda: ewc(FEW_SHOT, TX, SPACE, fisher_examples=0),
    "unknown fisher 'exact'": lambda: ewc(FEW_SHOT, TX, SPACE, fisher="exact"),
    "damping above 0": lambda: si(FEW_SHOT, TX, SPACE, damping=0.0),
    "temperature above 0": lambda: lwf(FEW_SHOT, TX, SPACE, temperature=0.0),
    "expected a rate of theta": lambda: la_maml(NET, SPACE, alpha_rate=None),
    "clip must be above 0": lambda: la_maml(NET, SPACE, clip=-1.0),
    "DER\\+\\+ classifies": lambda: derpp(FEW_SHOT, TX, SPACE._replace(target=(1,))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_arguments_that_cannot_be(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_an_update_that_is_not_finite_is_refused_and_leaves_everything_as_it_was():
    learner = si(FEW_SHOT, TX, SPACE)
    state = learner.init(KEY, FIRST.x)
    state, _ = learner.step(state, as_tasks(FIRST, 0), KEY)
    bad = FIRST._replace(x=FIRST.x.at[0, 0].set(jnp.nan))
    after, metrics = learner.step(state, as_tasks(bad, 0), KEY)
    assert int(metrics["bad_step"]) == 1
    assert_close(of_state(after), of_state(state), rtol=0, atol=0)
    assert_close(weights_of(after.own.omega), weights_of(state.own.omega), rtol=0, atol=0)
    with pytest.raises(ValueError, match="number their classes"):
        learner.step(state, as_tasks(FIRST, 0)._replace(id=None), KEY)


def test_a_label_outside_the_label_space_stops_icarl_inside_jit():
    learner = icarl(nets.mlp([4], 4), optax.sgd(0.1), LabelSpace(3, jnp.zeros(4, bool)))
    x, y = jnp.ones((6, 3)), jnp.array([0, 1, 9, 1, 0, 1])
    state = learner.init(KEY, x)
    half = Batch(x[None], y[None])
    state, metrics = jax.jit(learner.step)(state, Task(half, half, jnp.zeros(1, jnp.int32)), KEY)
    assert int(metrics["bad_step"]) == 0


def test_a_refused_update_of_several_on_a_batch_undoes_them_all():
    space = LabelSpace(3, jnp.zeros(4, bool))
    few_shot = maml(nets.mlp([4], 4), optax.sgd(0.1), steps=1)
    learner = er(few_shot, optax.sgd(1e20), space, updates=5, past_batch=4)
    x, y = jax.random.normal(KEY, (6, 3)), jnp.array([0, 1, 0, 1, 0, 1])
    start = learner.init(KEY, x)
    state, _ = jax.jit(learner.observe)(start, Batch(x, y), KEY)
    assert (int(state.step), int(state.bad_step)) == (0, 0)
    jax.tree.map(np.testing.assert_array_equal, state.train.params, start.train.params)


def test_a_task_that_is_not_finite_stops_a_streaming_learner():
    learner = streaming(
        heads.head_learner(heads.identity, heads.nearest_mean(), classes=4),
        LabelSpace(3, jnp.zeros(4, bool)),
    )
    x, y = jnp.ones((6, 3)), jnp.array([0, 1, 0, 1, 0, 1])
    start = learner.init(KEY, x)
    end = jax.jit(learner.end_task)
    state = end(start, Batch(x.at[0, 0].set(jnp.nan), y), KEY)
    assert int(state.bad_step) == 0
    again = end(state, Batch(x, y), KEY)
    jax.tree.map(np.testing.assert_array_equal, again.own, start.own)


def test_padding_with_any_label_ends_a_task():
    learner = er(maml(nets.mlp([4], 4), optax.sgd(0.1), steps=1), optax.sgd(0.1),
                 LabelSpace(3, jnp.zeros(4, bool)))  # fmt: skip
    x, y = jnp.ones((3, 3)), jnp.array([0, 1, 9])
    state = learner.init(KEY, x)
    ended = learner.end_task(state, Batch(x, y, jnp.array([1.0, 1.0, 0.0])), KEY)
    assert ended.seen.tolist() == [True, True, False, False]
    assert int(ended.bad_step) == -1


def test_learned_step_sizes_go_on():
    learner = la_maml(nets.mlp([4], 4), LabelSpace(3, jnp.zeros(4, bool)))
    params = learner.init(KEY, jnp.ones((2, 3))).train.params
    params = {**params, "alpha": jax.tree.map(lambda a: a + 0.1, params["alpha"])}
    again = learner.init(KEY, jnp.ones((2, 3)), params).train.params
    jax.tree.map(np.testing.assert_array_equal, again["alpha"], params["alpha"])


def test_the_fisher_is_a_mean_under_the_weights():
    few_shot = maml(nets.mlp([4], 4), optax.sgd(0.1), steps=1)
    x, y = jax.random.normal(KEY, (6, 3)), jnp.array([0, 1, 0, 1, 0, 1])
    learner = ewc(few_shot, optax.sgd(0.1), LabelSpace(3, jnp.zeros(4, bool)))
    state = learner.init(KEY, x)
    end = jax.jit(learner.end_task)
    whole, tenth = (end(state, Batch(x, y, jnp.full(6, w)), KEY).own.importance for w in (1.0, 0.1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), whole, tenth)
