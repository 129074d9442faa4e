"""What the adversarial learners share: checks, averages, and refused updates."""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.pixels import Span
from lml_jax.types import Metrics, Params

State = TypeVar("State", bound=Any)  # a NamedTuple with `step`, `bad` and `bad_step`


class BadSteps(NamedTuple):
    """The step at which an update was first refused as non-finite, by network; -1: none was."""

    discriminator: Array  # int32
    generator: Array  # int32

    @property
    def first(self) -> Array:
        """The step of either, or -1."""
        return jnp.maximum(self.discriminator, self.generator)


def no_bad_steps() -> BadSteps:
    """No update was refused yet."""
    return BadSteps(jnp.full((), -1, jnp.int32), jnp.full((), -1, jnp.int32))


def check_settings(penalty: float, ema: float, span: Span) -> None:
    """Raise ValueError for a penalty, a decay or a range that no GAN can be trained with."""
    if not penalty >= 0:
        raise ValueError(f"the penalty gamma must be >= 0, got {penalty}")
    if not 0 <= ema < 1:
        raise ValueError(f"ema must be in [0, 1), got {ema}")
    if not span[0] < span[1]:
        raise ValueError(f"span must be (low, high) with low < high, got {span}")


def check_shapes(made: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise ValueError unless a generator makes examples of the expected shape."""
    if made != expected:
        raise ValueError(f"the generator makes {made}, expected examples of {expected}")


def moving_average(old: Params, new: Params, step: Array, *, decay: float) -> Params:
    """The exponential moving average of parameters after `step` steps, warmed up.

    a' = d a + (1 - d) theta with d = min(decay, (1 + step) / (10 + step)): without the warm-up the
    initial parameters would dominate for 1 / (1 - decay) steps.

    Example:
        >>> float(moving_average(jnp.array(0.0), jnp.array(1.0), jnp.array(8), decay=0.999))
        0.5
    """
    count = step.astype(float)
    slow = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda a, b: slow * a + (1 - slow) * b, old, new)


def refuse_non_finite(old: State, new: State, fine_d: Array, fine_g: Array) -> State:
    """`new`, or `old` from the first update on in which D or G was not finite.

    Where both were not, D is named: G is trained against the updated D.
    """
    fine = fine_d & fine_g
    first = (old.bad_step < 0) & ~fine
    # A branch and not a choice per array: a choice reads and writes the whole state once more.
    state = jax.lax.cond(fine & (old.bad_step < 0), lambda: new, lambda: old)
    return state._replace(
        bad=BadSteps(
            jnp.where(first & ~fine_d, old.step, old.bad.discriminator),
            jnp.where(first & fine_d, old.step, old.bad.generator),
        )
    )


def bad_step_metrics(state: Any) -> Metrics:
    """`bad_step`, and which of the two networks it is; each -1 as long as nothing was refused."""
    return {
        "bad_step": state.bad_step,
        "bad_step_discriminator": state.bad.discriminator,
        "bad_step_generator": state.bad.generator,
    }


def weighted_sum(weight: Array, values: Array) -> Array:
    """sum_k w_k v_k over the examples with w_k > 0: a value of weight 0 may be inf."""
    return jnp.sum(jnp.where(weight > 0, weight * values, 0.0))
