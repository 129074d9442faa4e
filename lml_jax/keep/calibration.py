"""Calibrated probabilities: a temperature, and whether an example is of a known class at all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LEAST = 10  # held-out examples
_PRIOR = 2.0  # standard deviation of log T


class Calibration(NamedTuple):
    """How logits become probabilities.

    With l the logits, b the largest and m its distance to the second,

        p(known) = sigmoid(u b + v m + w),    p(k) = p(known) softmax(l / T)_k

    Attributes:
        temperature: T > 0.
        known: (u, v, w); (0, 0, inf) where nothing is known of unknown classes: p(known) = 1.
        accuracy: of held-out examples, a number in 0..1, or NaN.
        examples: how many held-out examples there were.
    """

    temperature: float = 1.0
    known: tuple[float, float, float] = (0.0, 0.0, float("inf"))
    accuracy: float = float("nan")
    examples: int = 0

    @property
    def calibrated(self) -> bool:
        """Whether there were enough held-out examples to choose the temperature."""
        return self.examples >= LEAST

    @property
    def rejects(self) -> bool:
        """Whether p(known) says anything."""
        return bool(np.isfinite(self.known[2]))


def probabilities(logits: Array, temperature: Array, known: Array) -> tuple[Array, Array]:
    """(p [n, C], p(known) [n]) of logits [n, C]; p sums to p(known).

    Example:
        >>> p, sure = probabilities(jnp.array([[0.0, 0.0]]), jnp.ones(()), jnp.array([0, 0, 0.0]))
        >>> p.tolist(), sure.tolist()
        ([[0.25, 0.25]], [0.5])
    """
    best, margin = _scores(logits)
    sure = jax.nn.sigmoid(known[0] * best + known[1] * margin + known[2])
    return sure[:, None] * jax.nn.softmax(logits / temperature, axis=1), sure


def calibrate(logits: np.ndarray, y: np.ndarray) -> Calibration:
    """The calibration by held-out examples of known classes.

    T minimises the cross-entropy, with a weak prior around 1. What an unknown class looks like is
    learned from the same examples: without the logit of its own class, an example is of a class
    that the rest do not know. (u, v, w) is the logistic regression between the two, both as likely.

    Args:
        logits: [n, C] of examples that were not learned; -inf for unknown classes.
        y: [n], in 0..C-1; an example whose own logit is -inf takes no part.

    Returns:
        A `Calibration`; the default for fewer than 10 examples, and without `known` for fewer
        than 3 classes.

    Source:
        Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks, 2017, section 4.2,
        https://arxiv.org/abs/1706.04599. The targets (n + 1) / (n + 2) of the regression are those
        of Platt. Probabilistic Outputs for Support Vector Machines, 1999.
    """
    logits = np.asarray(logits, np.float64)
    usable = np.isfinite(logits[np.arange(len(y)), y])
    logits, y = logits[usable], y[usable]
    there = np.isfinite(logits).any(0)
    # Columns of free slots cost time and say nothing.
    logits, y = logits[:, there], (np.cumsum(there) - 1)[y]
    n, classes = len(y), logits.shape[1]
    if n == 0:
        return Calibration()
    accuracy = float((logits.argmax(1) == y).mean())
    if n < LEAST or classes < 2:
        return Calibration(accuracy=accuracy, examples=n)
    temperature = _temperature(logits, y)
    if classes < 3:
        return Calibration(temperature, accuracy=accuracy, examples=n)
    others = logits.copy()
    others[np.arange(n), y] = -np.inf
    known = _logistic(_host_scores(logits), _host_scores(others))
    return Calibration(temperature, known, accuracy, n)


def _scores(logits: Array) -> tuple[Array, Array]:
    """The largest logit [n], and its distance to the second; 0 where there is no second."""
    largest = jax.lax.top_k(logits, min(2, logits.shape[1]))[0]
    best, second = largest[:, 0], largest[:, -1]
    return best, jnp.where(jnp.isfinite(second), best - second, 0.0)


def _host_scores(logits: np.ndarray) -> np.ndarray:
    largest = np.sort(logits, axis=1)[:, -2:]
    margin = np.where(np.isfinite(largest[:, 0]), largest[:, 1] - largest[:, 0], 0.0)
    return np.stack([largest[:, 1], margin], axis=1)


def _temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """The mode of T: cross-entropy with a prior log T ~ N(0, 2^2), by bisection of its slope.

    Where the held-out examples are told apart without a mistake, T would be 0 without the prior.
    """
    below = logits - logits.max(1, keepdims=True)
    own = below[np.arange(len(y)), y].sum()

    def slope(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        p = np.exp(inverse * below)
        expected = ((p * below).sum(1) / p.sum(1)).sum()
        return float(inverse * (expected - own) + log_inverse / _PRIOR**2)

    low, high = -15.0, 15.0
    for _ in range(55):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _logistic(known: np.ndarray, unknown: np.ndarray) -> tuple[float, float, float]:
    """(u, v, w) of the logistic regression between two samples [n, 2], by Newton's method."""
    both = np.concatenate([known, unknown])
    mean, scale = both.mean(0), both.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    x = np.concatenate([(both - mean) / scale, np.ones((len(both), 1))], axis=1)
    n = len(known)
    target = np.r_[np.full(n, (n + 1) / (n + 2)), np.full(n, 1 / (n + 2))]
    penalty = np.diag([1e-2, 1e-2, 0.0])
    weight = np.zeros(3)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weight, -30, 30)))
        gradient = x.T @ (p - target) + penalty @ weight
        hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty + 1e-9 * np.eye(3)
        step = np.linalg.solve(hessian, gradient)
        weight = weight - step * min(1.0, 5.0 / max(float(np.linalg.norm(step)), 1e-12))
    u, v = weight[:2] / scale
    return float(u), float(v), float(weight[2] - u * mean[0] - v * mean[1])
