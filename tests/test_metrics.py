import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax import metrics

# Asymmetric on purpose: a transposed index, a wrong sign or a wrong row changes every number.
R = [
    [0.10, 0.20, 0.30],
    [0.70, 0.25, 0.15],
    [0.90, 0.80, 0.45],
    [0.60, 0.85, 0.95],
]
R_JOINT = [[0.1, 0.2, 0.3], [0.80, 0.0, 0.0], [0.0, 0.85, 0.0], [0.0, 0.0, 0.90]]
EXPECTED = {
    "acc": 0.8,  # (.60 + .85 + .95) / 3
    "learning_accuracy": 2.45 / 3,  # .70 + .80 + .95
    "bwt": -0.025,  # ((.60 - .70) + (.85 - .80)) / 2
    "bwt_T": -0.05 / 3,
    "fwt": 0.1,  # ((.25 - .20) + (.45 - .30)) / 2
    "forgetting": 0.125,  # ((.90 - .60) + (.80 - .85)) / 2
    "intransigence": 0.1 / 3,  # (.80 - .70) + (.85 - .80) + (.90 - .95)
    "average_incremental_accuracy": 2.35 / 3,  # .70 + (.90 + .80) / 2 + .80
}
ONE_ARGUMENT = [
    metrics.average_accuracy,
    metrics.learning_accuracy,
    metrics.backward_transfer,
    metrics.forward_transfer,
    metrics.forgetting,
    metrics.average_incremental_accuracy,
    metrics.summary,
]


def with_entry(i, j, value):
    r = np.array(R)
    r[i, j - 1] = value
    return r


def test_summary_literals():
    got = metrics.summary(R, R_joint=R_JOINT)
    assert got.keys() == EXPECTED.keys()
    assert got == pytest.approx(EXPECTED, abs=1e-12)
    assert all(type(v) is float for v in got.values())


def test_without_joint_only_intransigence_is_undefined():
    got = metrics.summary(R)
    assert [k for k, v in got.items() if math.isnan(v)] == ["intransigence"]


def test_forgetting_range_of_the_maximum():
    # Row 0 does not count; a row before the task was learned does.
    assert metrics.forgetting(with_entry(0, 1, 0.99)) == pytest.approx(0.125)
    assert metrics.forgetting(with_entry(1, 2, 0.95)) == pytest.approx((0.30 + 0.10) / 2)


def test_class_incremental_undefined_entries():
    r = np.array(R)
    r[0] = np.nan
    r[1, 1:] = np.nan
    r[2, 2] = np.nan
    got = metrics.summary(r, R_joint=R_JOINT)
    assert math.isnan(got.pop("fwt"))
    assert got == pytest.approx({k: v for k, v in EXPECTED.items() if k != "fwt"}, abs=1e-12)


@pytest.mark.parametrize(
    ("i", "j", "undefined"),
    [
        (0, 1, set()),
        (0, 2, {"fwt"}),
        (2, 1, {"forgetting", "average_incremental_accuracy"}),
        (1, 1, set(EXPECTED) - {"acc", "fwt"}),
        (3, 1, {"acc", "bwt", "bwt_T", "forgetting", "average_incremental_accuracy"}),
    ],
)
def test_nan_reaches_what_needs_it_and_nothing_else(i, j, undefined):
    got = metrics.summary(with_entry(i, j, np.nan), R_joint=R_JOINT)
    assert {k for k, v in got.items() if math.isnan(v)} == undefined


def test_json_null_is_undefined():
    r = json.loads("[[null, null], [0.5, null], [0.25, 1.0]]")
    assert metrics.average_accuracy(r) == 0.625
    assert math.isnan(metrics.forward_transfer(r))


def test_one_task():
    got = metrics.summary([[0.1], [0.7]], R_joint=[[0.1], [0.9]])
    undefined = {"bwt", "bwt_T", "fwt", "forgetting"}
    assert {k for k, v in got.items() if math.isnan(v)} == undefined
    assert got["acc"] == got["learning_accuracy"] == got["average_incremental_accuracy"] == 0.7
    assert got["intransigence"] == pytest.approx(0.2)


def test_infinite_entries_do_not_warn():
    r = np.array(R)
    r[1:, 0] = -np.inf  # the negative of a diverged loss
    got = metrics.summary(r)
    assert got["acc"] == -np.inf
    assert math.isnan(got["bwt"])


@pytest.mark.parametrize("shape", [(3, 3), (3, 4), (4,), (1, 0), (2, 4, 3)])
@pytest.mark.parametrize("function", ONE_ARGUMENT)
def test_wrong_shape_is_named(function, shape):
    with pytest.raises(ValueError, match=r"R must have shape \[T \+ 1, T\]") as error:
        function(np.zeros(shape))
    assert str(shape) in str(error.value)


def test_other_errors():
    with pytest.raises(ValueError, match=r"\(4, 3\) and R_joint \(3, 2\)"):
        metrics.intransigence(R, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="R_joint must have shape"):
        metrics.intransigence(R, np.zeros((3, 3)))
    with pytest.raises(ValueError, match="'all'"):
        metrics.backward_transfer(R, over="all")


def test_accuracy():
    logits = jnp.array([[3.0, 1, 2], [1, 3, 2], [1, 2, 3], [9, 1, 2]])
    assert float(metrics.accuracy(logits, jnp.array([0, 1, 2, 1]))) == 0.75
    assert float(metrics.accuracy(logits, jnp.array([0, 1, 0, -1]))) == pytest.approx(2 / 3)
    # (1 + .5) / (1 + .5 + .25): the unlabelled last example has no weight left.
    got = metrics.accuracy(logits, jnp.array([0, 1, 0, -1]), weight=jnp.array([1, 0.5, 0.25, 4]))
    assert float(got) == pytest.approx(1.5 / 1.75)
    got = metrics.accuracy(logits, jnp.array([0, 1, 0, 1]), weight=jnp.array([1, 0, 0, 1]))
    assert float(got) == 0.5


def test_accuracy_of_nothing_and_of_no_prediction():
    assert math.isnan(metrics.accuracy(jnp.zeros((2, 3)), jnp.array([-1, -1])))
    assert math.isnan(metrics.accuracy(jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32)))
    logits = jnp.array([[jnp.nan, 1.0], [-jnp.inf, -jnp.inf], [1.0, -jnp.inf]])
    assert float(metrics.accuracy(logits, jnp.zeros(3, jnp.int32))) == pytest.approx(1 / 3)


def test_accuracy_batched_under_jit_and_vmap():
    logits = jnp.array([[[2.0, 1], [2, 1]], [[1, 2], [2, 1]]])
    y = jnp.array([[0, 1], [1, 0]])
    with jax.numpy_rank_promotion("raise"):
        for f in (metrics.accuracy, jax.jit(metrics.accuracy), jax.vmap(metrics.accuracy)):
            np.testing.assert_array_equal(f(logits, y), [0.5, 1.0])


@pytest.mark.parametrize(
    ("logits", "y", "weight", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), None, r"got \(2, 3\), \(3,\)"),
        (np.zeros(3), np.zeros((), int), None, "expected"),
        (np.zeros((2, 3)), np.zeros(2, np.float32), None, "float32"),
        (np.zeros((2, 3)), np.zeros(2, int), np.zeros(1), r"weight \(1,\)"),
    ],
)
def test_accuracy_errors(logits, y, weight, message):
    with pytest.raises(ValueError, match=message):
        metrics.accuracy(logits, y, weight=weight)


def test_mean_ci():
    # mean 2.5; deviations 2.25, .25, .25, 2.25 -> variance 5/3
    mean, half = metrics.mean_ci([1, 2, 3, 4])
    assert mean == 2.5
    assert half == pytest.approx(1.96 * math.sqrt(5 / 3) / 2)
    mean, half = metrics.mean_ci([0.5])
    assert mean == 0.5
    assert math.isnan(half)
    assert all(math.isnan(v) for v in metrics.mean_ci([]))
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        metrics.mean_ci([[1, 2]])


def test_online_accuracy():
    # per step 1/3, 1, and 1 of weight 2 out of 4
    correct = [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    weight = [[1, 1, 1], [1, 1, 0], [1, 1, 2]]
    assert metrics.online_accuracy(correct, weight) == pytest.approx((1 / 3 + 1 + 0.5) / 3)
    assert metrics.online_accuracy([True, False, True, True]) == 0.75
    assert metrics.online_accuracy([[1, 0], [1, 1]], [[1, 1], [0, 0]]) == 0.5
    assert math.isnan(metrics.online_accuracy(np.zeros((0, 4))))
    assert math.isnan(metrics.online_accuracy([1, 1], [0, 0]))
    with pytest.raises(ValueError, match=r"got \(2, 2\), \(2,\)"):
        metrics.online_accuracy([[1, 0], [1, 1]], [1, 1])


def test_to_json():
    value = {
        "R": np.array([[np.nan, 0.5], [-np.inf, 1.0]]),
        "jax": jnp.array([1.0, jnp.nan]),
        "half": jnp.array(0.5, jnp.bfloat16),
        "nested": [(float("inf"), 1), {"x": None, 3: np.float32("nan")}],
        "flags": np.array([True, False]),
        "count": np.int64(7),
        "name": "maml",
    }
    text = json.dumps(metrics.to_json(value), allow_nan=False)
    assert json.loads(text) == {
        "R": [[None, 0.5], [None, 1.0]],
        "jax": [1.0, None],
        "half": 0.5,
        "nested": [[None, 1], {"x": None, "3": None}],
        "flags": [True, False],
        "count": 7,
        "name": "maml",
    }
    back = json.loads(json.dumps(metrics.to_json(metrics.summary(R)), allow_nan=False))
    assert back["intransigence"] is None
    assert back["acc"] == pytest.approx(0.8)


# --- the definitions of others, computed plainly --------------------------------------------------


def of_gem(R):
    """As the code of GEM prints them: everything is divided by T."""
    T = R.shape[1]
    bwt = [R[T, t] - R[t + 1, t] for t in range(T)]
    fwt = [0.0] + [R[t, t] - R[0, t] for t in range(1, T)]
    diagonal = [R[t + 1, t] for t in range(T)]
    return {
        "acc": sum(R[T]) / T, "bwt": sum(bwt) / T, "fwt": sum(fwt) / T, "la": sum(diagonal) / T,
    }  # fmt: skip


def of_chaudhry(R):
    """F_T of the 2018 paper."""
    T = R.shape[1]
    each = []
    for j in range(T - 1):
        best = -np.inf
        for row in range(1, T):  # all but the last
            best = max(best, R[row, j])
        each.append(best - R[T, j])
    return sum(each) / (T - 1)


def of_avalanche(R):
    """Forgetting and backward transfer of a stream: of what was learned first against now."""
    T = R.shape[1]
    first = {j: R[j + 1, j] for j in range(T)}
    forgotten = [first[j] - R[T, j] for j in range(T - 1)]
    return {"forgetting": sum(forgotten) / len(forgotten), "bwt": -sum(forgotten) / len(forgotten)}


def of_mammoth(R):
    """From the rows of the tasks seen so far, the missing ones 0; forgetting over all rows."""
    T = R.shape[1]
    rows = [list(R[i + 1, : i + 1]) + [0.0] * (T - i - 1) for i in range(T)]
    bwt = [rows[-1][i] - rows[i][i] for i in range(T - 1)]
    fwt = [R[i, i] - R[0, i] for i in range(1, T)]
    fell = [max(row[i] for row in rows) - rows[-1][i] for i in range(T - 1)]
    return {"bwt": sum(bwt) / (T - 1), "fwt": sum(fwt) / (T - 1), "forgetting": sum(fell) / (T - 1)}


def test_the_definitions_of_gem_chaudhry_avalanche_and_mammoth():
    rng = np.random.default_rng(0)
    differ = 0
    for _ in range(200):
        T = int(rng.integers(2, 12))
        R = rng.uniform(size=(T + 1, T))
        gem, avalanche, mammoth = of_gem(R), of_avalanche(R), of_mammoth(R)
        got = {
            "acc": metrics.average_accuracy(R),
            "bwt": metrics.backward_transfer(R, over="T"),
            "fwt": metrics.forward_transfer(R, over="T"),
            "la": metrics.learning_accuracy(R),
        }
        assert got == pytest.approx(gem, abs=1e-12)
        forgetting = metrics.forgetting(R)
        assert forgetting == pytest.approx(of_chaudhry(R), abs=1e-12)
        first = metrics.forgetting(R, best="first")
        assert first == pytest.approx(avalanche["forgetting"], abs=1e-12)
        assert metrics.backward_transfer(R) == pytest.approx(avalanche["bwt"], abs=1e-12)
        assert metrics.backward_transfer(R) == pytest.approx(mammoth["bwt"], abs=1e-12)
        assert metrics.forward_transfer(R) == pytest.approx(mammoth["fwt"], abs=1e-12)
        never_negative = metrics.forgetting(R, best="any")
        assert never_negative == pytest.approx(mammoth["forgetting"], abs=1e-12)
        assert never_negative >= 0
        differ += abs(forgetting - never_negative) > 1e-6
    assert differ > 100


def test_definitions_that_do_not_exist():
    with pytest.raises(ValueError, match="best must be 'before', 'any' or 'first'; got 'last'"):
        metrics.forgetting(R, best="last")
    with pytest.raises(ValueError, match="over must be 'T-1' or 'T'; got 'all'"):
        metrics.forward_transfer(R, over="all")
