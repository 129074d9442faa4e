"""Everything that is computed from R, the matrix of scores of a stream of tasks.

`R` [T + 1, T] holds the score on task j after task i, for i = 0..T and j = 1..T; row 0 is the
untrained model, so R_{i,j} of the equations is `R[i, j - 1]`. Larger is better: of losses, pass
their negatives. An entry that is NaN (or None, as loaded from json) is undefined, and whatever
needs it is NaN too. `R` is small: this is numpy in float64 on the host.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

NAN = float("nan")


def average_accuracy(R: ArrayLike) -> float:
    """ACC: the mean score on all tasks after the last one.

    ACC = 1/T sum_{j=1}^T R_{T,j}.

    `R` [T + 1, T] -> float. Raises: ValueError if `R` has another shape.
    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", 2017.

    Example:
        >>> average_accuracy([[0.1, 0.2], [1.0, 0.3], [0.5, 0.75]])
        0.625
    """
    return _mean(_matrix(R)[-1])


def learning_accuracy(R: ArrayLike) -> float:
    """LA: the mean score on each task just after it was learned.

    LA = 1/T sum_{i=1}^T R_{i,i}.

    `R` [T + 1, T] -> float. Raises: ValueError if `R` has another shape.
    Source: Riemer et al., "Learning to Learn without Forgetting by Maximizing Transfer and
    Minimizing Interference", 2019.

    Example:
        >>> learning_accuracy([[0.1, 0.2], [1.0, 0.3], [0.5, 0.75]])
        0.875
    """
    return _mean(_learned(_matrix(R)))


def backward_transfer(R: ArrayLike, *, over: Literal["T-1", "T"] = "T-1") -> float:
    """BWT: what later tasks did to the score on earlier ones; negative is forgetting.

    BWT = 1/(T-1) sum_{i=1}^{T-1} (R_{T,i} - R_{i,i}); `over="T"` divides by T instead.

    `R` [T + 1, T] -> float; NaN for T = 1. The paper divides by T-1; its authors' code averages
    over all T tasks, the last adding 0.
    Raises: ValueError if `R` has another shape, or `over` is neither "T-1" nor "T".
    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", 2017.

    Example:
        >>> R = [[0.1, 0.2], [1.0, 0.3], [0.5, 0.75]]
        >>> backward_transfer(R), backward_transfer(R, over="T")
        (-0.5, -0.25)
    """
    _check_over(over)
    r = _matrix(R)
    return _over(_mean(_minus(r[-1, :-1], _learned(r)[:-1])), over, r.shape[1])


def forward_transfer(R: ArrayLike, *, over: Literal["T-1", "T"] = "T-1") -> float:
    """FWT: what earlier tasks did to the score on a task before it was learned.

    FWT = 1/(T-1) sum_{i=2}^T (R_{i-1,i} - R_{0,i}); `over="T"` divides by T instead, as the code
    of the paper's authors does.

    `R` [T + 1, T] -> float; NaN for T = 1, and where the classes of a task cannot be scored
    before they were seen (class-incremental streams, without support examples).
    Raises: ValueError if `R` has another shape, or for another `over`.
    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", 2017.

    Example:
        >>> forward_transfer([[0.1, 0.25], [1.0, 0.5], [0.5, 0.75]])
        0.25
    """
    _check_over(over)
    r = _matrix(R)
    return _over(_mean(_minus(np.diagonal(r)[1:], r[0, 1:])), over, r.shape[1])


def forgetting(R: ArrayLike, *, best: Literal["before", "any", "first"] = "before") -> float:
    """F: how far the score on earlier tasks fell from the best it ever was.

    F = 1/(T-1) sum_{j=1}^{T-1} ( max_{l in 1..T-1} R_{l,j} - R_{T,j} ), with `best="before"`, is
    the paper's. Libraries take another best score: "any" is max_{l in j..T} R_{l,j}, so that F is
    never negative (Mammoth); "first" is R_{j,j}, so that F = -BWT (Avalanche).

    `R` [T + 1, T] -> float in [-1, 1] for accuracies, negative where the last task helped; NaN
    for T = 1. As in the paper, l starts at 1 (the untrained row 0 is left out) and includes
    l < j, scores before task j was learned. Where those are undefined (classes not yet seen),
    nothing was there to forget and they are passed over; an undefined entry with l >= j gives NaN.
    Raises: ValueError if `R` has another shape, or for another `best`.
    Source: Chaudhry, Dokania, Ajanthan and Torr, "Riemannian Walk for Incremental Learning:
    Understanding Forgetting and Intransigence", 2018.

    Example:
        >>> R = [[0.1, 0.2, 0.1], [0.5, 0.3, 0.1], [1.0, 0.75, 0.2], [0.25, 0.5, 1.0]]
        >>> forgetting(R), backward_transfer(R)
        (0.5, -0.25)
    """
    if best not in ("before", "any", "first"):
        raise ValueError(f"best must be 'before', 'any' or 'first'; got {best!r}")
    r = _matrix(R)
    if best == "first":
        return _mean(_minus(_learned(r)[:-1], r[-1, :-1]))
    if best == "any":
        since = np.where(np.triu(np.ones_like(r[1:]), k=1) > 0, -np.inf, r[1:])
        return _mean(_minus(np.max(since, axis=0), r[-1])[:-1])
    past = r[1:-1, :-1]
    candidates = np.where(np.isnan(np.triu(past, k=1)), -np.inf, past)  # triu, k=1: l < j
    # The initial value serves T = 1, where no row is left; it never wins otherwise.
    return _mean(_minus(np.max(candidates, axis=0, initial=-np.inf), r[-1, :-1]))


def intransigence(R: ArrayLike, R_joint: ArrayLike) -> float:
    """I: how far each task, when just learned, stays behind joint training on all tasks so far.

    I = 1/T sum_{k=1}^T (a*_k - R_{k,k}), where a*_k = R_joint_{k,k}.

    `R`, `R_joint` [T + 1, T] -> float; negative where the learner beats the reference. The paper
    defines I_k for one k; this is the mean over k.
    Raises: ValueError if a shape is wrong or the two differ.
    Source: Chaudhry, Dokania, Ajanthan and Torr, "Riemannian Walk for Incremental Learning:
    Understanding Forgetting and Intransigence", 2018.

    Example:
        >>> R = [[0.1, 0.2], [0.75, 0.3], [0.5, 0.5]]
        >>> intransigence(R, [[0.1, 0.2], [1.0, 0.3], [1.0, 1.0]])
        0.375
    """
    r, joint = _matrix(R), _matrix(R_joint, name="R_joint")
    if r.shape != joint.shape:
        raise ValueError(f"R {r.shape} and R_joint {joint.shape} must have the same shape")
    return _mean(_minus(_learned(joint), _learned(r)))


def average_incremental_accuracy(R: ArrayLike) -> float:
    """The mean over the stream of the accuracy on the tasks seen so far.

    1/T sum_{k=1}^T 1/k sum_{j=1}^k R_{k,j}.

    `R` [T + 1, T] -> float; tasks weigh the same. Raises: ValueError if `R` has another shape.
    Source: Rebuffi, Kolesnikov, Sperl and Lampert, "iCaRL: Incremental Classifier and
    Representation Learning", 2017.

    Example:
        >>> average_incremental_accuracy([[0.1, 0.2], [1.0, 0.3], [0.5, 0.75]])
        0.8125
    """
    r = _matrix(R)
    return _mean(np.array([_mean(r[k, :k]) for k in range(1, len(r))]))


def online_accuracy(correct: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Cumulative accuracy of a learner that predicts each batch before it trains on it.

    1/N sum_{t=1}^N ( sum_n w_{t,n} c_{t,n} / sum_n w_{t,n} ).

    `correct` [N, n] of 0 and 1 (or [N]: one example a step), `weight` of the same shape, None for
    all 1 -> float. A step in which every weight is 0 is padding and not among the N.
    Raises: ValueError if `correct` is not of rank 1 or 2, or the shapes differ.
    Source: Caccia et al., "Online Fast Adaptation and Knowledge Accumulation (OSAKA): a New
    Approach to Continual Learning", 2020.

    Example:
        >>> online_accuracy([[0, 0], [1, 0], [1, 1]], [[1, 1], [1, 1], [1, 0]])
        0.5
    """
    c = np.asarray(correct, np.float64)
    w = np.ones_like(c) if weight is None else np.asarray(weight, np.float64)
    if c.ndim not in (1, 2) or c.shape != w.shape:
        raise ValueError(f"expected correct, weight [N, n] or [N]; got {c.shape}, {w.shape}")
    c, w = (a[:, None] if a.ndim == 1 else a for a in (c, w))
    total = w.sum(axis=1)
    right = np.sum(np.where(w > 0, c, 0.0) * w, axis=1)
    return _mean(right[total > 0] / total[total > 0])


def summary(R: ArrayLike, *, R_joint: ArrayLike | None = None) -> dict[str, float]:
    """Everything above that comes from R, by the names of `metrics.json`.

    `R`, `R_joint` [T + 1, T] -> floats, NaN if undefined; `bwt` is over T-1 tasks, `bwt_T` over T.
    Raises: ValueError if a shape is wrong or the two differ. Source: the functions above.

    Example:
        >>> scores = summary([[0.1, 0.25], [1.0, 0.5], [0.5, 0.75]])
        >>> scores["acc"], scores["bwt"], scores["fwt"], scores["intransigence"]
        (0.625, -0.5, 0.25, nan)
    """
    return {
        "acc": average_accuracy(R),
        "learning_accuracy": learning_accuracy(R),
        "bwt": backward_transfer(R),
        "bwt_T": backward_transfer(R, over="T"),
        "fwt": forward_transfer(R),
        "forgetting": forgetting(R),
        "intransigence": NAN if R_joint is None else intransigence(R, R_joint),
        "average_incremental_accuracy": average_incremental_accuracy(R),
    }


def _matrix(R: ArrayLike, *, name: str = "R") -> NDArray[np.float64]:
    r = np.asarray(R, np.float64)
    if r.ndim != 2 or r.shape[1] < 1 or r.shape[0] != r.shape[1] + 1:
        raise ValueError(f"{name} must have shape [T + 1, T] (row 0: untrained); got {r.shape}")
    return r


def _check_over(over: str) -> None:
    if over not in ("T-1", "T"):
        raise ValueError(f"over must be 'T-1' or 'T'; got {over!r}")


def _over(mean: float, over: str, tasks: int) -> float:
    """A mean over T - 1 tasks as a sum over them divided by T - 1 or T."""
    return mean if over == "T-1" else mean * (tasks - 1) / tasks


def _learned(r: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.diagonal(r, offset=-1)  # R_{i,i}, one row down: row 0 is the untrained model


def _minus(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # a diverged loss: inf - inf is undefined, not an error
        return a - b


def _mean(values: NDArray[np.float64]) -> float:
    if values.size == 0:  # undefined, without numpy's warning
        return NAN
    with np.errstate(invalid="ignore"):
        return float(np.mean(values))
