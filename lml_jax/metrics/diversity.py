"""Diversity of generated examples within their classes, and the warning of a collapse."""

import warnings
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from lml_jax.losses.labels import as_labels
from lml_jax.losses.weights import at_least_float32
from lml_jax.metrics.fewshot import undefined_where
from lml_jax.metrics.generators import checked_features, ratio_or

LISTED = 5  # collapsed classes that a warning names, at most


def diversity_ratio(
    real: Array,
    y_real: Array,
    fake: Array,
    y_fake: Array,
    *,
    classes: int,
    undefined: float = jnp.nan,
) -> Array:
    """Within-class diversity of generated examples relative to real ones.

    mean_{c,k} sigma_{c,k}(fake) / mean_{c,k} sigma_{c,k}(real), with sigma_{c,k} the standard
    deviation of feature k within class c, over the classes that occur at least twice in both.
    1 is as diverse as the real classes, 0 is a complete collapse. It costs little, so it can be
    computed at every training step.

    Args:
        real: real examples, embedded, float [n, d].
        y_real: their labels, int [n], in -1..C-1; -1 is left out.
        fake: generated examples, embedded, float [m, d].
        y_fake: their labels, int [m], in -1..C-1.
        classes: C.
        undefined: the value where no class occurs twice in both.

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: for a wrong shape.

    Example:
        >>> y = jnp.array([0, 0, 1, 1])
        >>> real = jnp.array([[0.0], [2.0], [5.0], [7.0]])
        >>> float(diversity_ratio(real, y, real / 4, y, classes=2))
        0.25
    """
    real_std, fake_std, both = _class_deviations(real, y_real, fake, y_fake, classes)
    total_r, total_g = (jnp.sum(jnp.where(both, s, 0.0)) for s in (real_std, fake_std))
    return ratio_or(total_g, total_r, undefined)


def class_diversity_ratios(
    real: Array, y_real: Array, fake: Array, y_fake: Array, *, classes: int
) -> Array:
    """`diversity_ratio` of each class: one collapsed class is lost in a mean over many.

    mean_k sigma_{c,k}(fake) / mean_k sigma_{c,k}(real).

    Args:
        real: as in `diversity_ratio`, as are the others.
        y_real: labels of `real`.
        fake: generated examples.
        y_fake: labels of `fake`.
        classes: C.

    Returns:
        Ratios [C], each >= 0; NaN where a class does not occur twice in both.

    Raises:
        ValueError: for a wrong shape.

    Example:
        >>> y = jnp.array([0, 0, 1, 1])
        >>> real = jnp.array([[0.0], [2.0], [5.0], [7.0]])
        >>> fake = jnp.array([[0.0], [2.0], [6.0], [6.0]])
        >>> class_diversity_ratios(real, y, fake, y, classes=3).tolist()
        [1.0, 0.0, nan]
    """
    real_std, fake_std, both = _class_deviations(real, y_real, fake, y_fake, classes)
    return undefined_where(~both, ratio_or(fake_std, real_std))


def collapse_of(
    ratio: float, *, threshold: float, each: Sequence[float] = (), where: str = ""
) -> str | None:
    """What to say of a diversity ratio below `threshold` or not a number; None of any other.

    `each` are the ratios of classes, of which one below half of the threshold is too little.

    Example:
        >>> collapse_of(0.9, threshold=0.5, each=[0.9, 0.9]) is None
        True
    """
    low = [f"{c} ({value:.2f})" for c, value in enumerate(each) if value < threshold / 2]
    if ratio >= threshold and not low:
        return None
    listed = ", ".join(low[:LISTED]) + (f" and {len(low) - LISTED} more" * (len(low) > LISTED))
    return (
        f"the generator has collapsed{where}: the diversity within its classes is {ratio:.2f} of "
        f"the real one, expected at least {threshold:g}"
        + (f" and {threshold / 2:g} of each; in class {listed}" if low else "")
    )


def warn_if_collapsed(
    ratio: float, *, threshold: float, each: Sequence[float] = (), where: str = ""
) -> str | None:
    """Warn with `collapse_of`, if there is something to say, and return it.

    Example:
        >>> warn_if_collapsed(0.9, threshold=0.5, each=[0.9, 0.9]) is None
        True
    """
    message = collapse_of(ratio, threshold=threshold, each=each, where=where)
    if message is not None:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return message


def _class_deviations(
    real: Array, y_real: Array, fake: Array, y_fake: Array, classes: int
) -> tuple[Array, Array, Array]:
    """Deviations [C] of the real and the generated classes, and which occur twice in both."""
    real, fake = checked_features(real, fake)
    for name, x, y in (("y_real", real, y_real), ("y_fake", fake, y_fake)):
        if y.shape != x.shape[:1]:
            raise ValueError(f"{name} must have shape [{x.shape[0]}]; got {y.shape}")
    real_std, real_count = _deviation(real, y_real, classes)
    fake_std, fake_count = _deviation(fake, y_fake, classes)
    return real_std, fake_std, (real_count >= 2) & (fake_count >= 2)


def _deviation(x: Array, y: Array, classes: int) -> tuple[Array, Array]:
    """Standard deviation within each class, mean over features [C], and its examples [C]."""
    y, x = as_labels(y), at_least_float32(x)
    member = (y[:, None] == jnp.arange(classes, dtype=jnp.int32)[None]).astype(x.dtype)
    count = member.sum(axis=0)
    mean = member.T @ x / jnp.maximum(count, 1)[:, None]
    deviation = x - member @ mean
    variance = member.T @ deviation**2 / jnp.maximum(count, 1)[:, None]
    return jnp.sqrt(variance).mean(axis=1), count
